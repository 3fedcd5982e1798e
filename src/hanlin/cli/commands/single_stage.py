"""A command for each kind of stage: `hanlin sft --model m --data d` is a recipe of one stage."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.help import new_app
from hanlin.cli.options import AsJson, Home
from hanlin.cli.output import echo, print_json
from hanlin.core.errors import UserError, explain_os_error
from hanlin.core.files import expand_home, remove_link
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.config.kinds import StageKind

Out = Annotated[Path | None, typer.Option(help=tr("folder for the result (default: the store)"))]
Seed = Annotated[str, typer.Option(metavar="INT", help=tr("seed of every random choice"))]


def stage_command(kind: StageKind) -> Any:
    """The command of a kind, with an option for each of its settings."""
    from typer.main import get_command

    from hanlin.cli.commands.stage_options import StageCommand, options_of, parameters_of, settings_from
    from hanlin.config.recipe_file import read_value

    options = options_of(kind.settings)

    def run(
        *, out: Out = None, seed: Seed = "42", home: Home = Path("."), as_json: AsJson = False, **texts: Any
    ) -> None:
        settings = settings_from(options, texts)
        run_stage(kind, settings, out=out, seed=read_value(seed, "--seed"), home=home, as_json=as_json)

    run_options = [p for p in inspect.signature(run, eval_str=True).parameters.values() if p.name != "texts"]
    parameters = [*parameters_of(options), *run_options]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = new_app()
    app.command(cls=StageCommand, help="", no_args_is_help=True)(run)
    command = get_command(app)
    assert isinstance(command, StageCommand)
    command.many_flags = frozenset(option.flag for option in options if option.takes_list)
    return command


def run_stage(
    kind: StageKind,
    settings: Mapping[str, Any],
    *,
    out: Path | None = None,
    seed: Any = 42,
    home: Path | None = None,
    as_json: bool = False,
    command: str = "",
) -> Path:
    """Run one stage with the checks, the store and the worker of a recipe, and print its folder and metrics.

    Args:
        kind: What the stage does.
        settings: Its settings as a recipe would hold them.
        out: Where the result is copied; not there yet, or an empty folder.
        seed: The recipe's seed.
        home: Where `artifacts/` is; by default `HANLIN_HOME`, or the working folder.
        as_json: Print JSON.
        command: The command that errors name; by default that of the kind.

    Returns:
        The folder of the result.

    Raises:
        UserError: The settings are not valid, `out` exists, or the stage fails on its input.
    """
    from hanlin.config.recipe import build_recipe
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.report import summarize_metrics
    from hanlin.pipeline.run import run as run_recipe

    data = {"name": kind.name, "seed": seed, "root": ".", "stages": {kind.name: {"kind": kind.name, **settings}}}
    recipe = build_recipe(data, command or f"hanlin {kind.name.replace('_', '-')}")
    store = Store(home or expand_home(Path(os.environ.get("HANLIN_HOME", "."))))
    if out is not None:
        _check_out(out)
    (step,) = run_recipe(recipe, store)
    folder = store.folder(kind.name, step.key)
    if out is not None:
        _copy_artifact(folder, out)
    assert step.manifest is not None
    if as_json:
        print_json({"path": str(out or folder), "metrics": step.manifest.metrics, "digest": step.manifest.digest})
    else:
        echo(f"{out or folder}\n{summarize_metrics(step)}")
    return out or folder


_PARTIAL = ".partial"
"""The folder in which a copy is made; in a folder that was there it has no other name before it."""


def _check_out(out: Path) -> None:
    """Raise UserError if the result cannot be copied to `out`: something is there, or nothing can be written there."""
    if _is_there(out) and (not out.is_dir() or any(entry.name != _PARTIAL for entry in out.iterdir())):
        raise UserError(tr("already exists"), out, tr("name a new folder"), "exists")
    folders = (out.absolute(), *out.absolute().parents)
    above = next(folder for folder in folders if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(tr("no folder can be made here"), above, tr("name a new folder"))


def _is_there(path: Path) -> bool:
    """Whether anything has this path. Raises OSError if that cannot be known, as of a name that is too long."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _copy_artifact(folder: Path, out: Path) -> None:
    """Copy an artifact to a folder, which appears when it is complete or not at all.

    An empty folder that is there stays the same one, and is filled: it may be the working folder, or a volume that is
    mounted, which cannot be replaced. Its manifest comes last.
    """
    import shutil

    from hanlin.models.folder.adapter import resolve_base, rewrite_base_path
    from hanlin.models.folder.layout import is_adapter
    from hanlin.pipeline.manifest import MANIFEST, refresh_manifest

    target = out.absolute()
    is_there = target.is_dir()
    partial = remove_link(target / _PARTIAL if is_there else target.with_name(target.name + _PARTIAL))
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(folder, partial)
        if is_adapter(partial):
            rewrite_base_path(partial, resolve_base(folder), target)
            refresh_manifest(partial)
        if is_there:
            for entry in sorted(partial.iterdir(), key=lambda entry: entry.name == MANIFEST):
                os.replace(entry, target / entry.name)
            partial.rmdir()
        else:
            os.replace(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        known = explain_os_error(error)
        if known is not None:  # the artifact is in the store: only the copy failed
            raise UserError(known.what, out, known.hint) from error
        raise
