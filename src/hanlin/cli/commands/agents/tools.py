"""The tools of `hanlin mcp`: what the commands print with `--json`, as functions.

None but `evaluate` runs anything, and none downloads; all that planning leaves is its memory of file hashes below
`artifacts/`.

Paths are inside the folder that the server was started for. A recipe may name files elsewhere: that they are there is
told, as by `hanlin plan`, but what they hold is not.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hanlin.core.errors import UserError, did_you_mean, suggest_path
from hanlin.core.files import parse_json_object
from hanlin.core.i18n import language, tr
from hanlin.core.names import quote_shell
from hanlin.core.process import die_with_parent, python_command, run_process


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder that an agent may look into, and the folder of artifacts."""

    root: Path
    home: Path

    def resolve(self, text: str) -> Path:
        """A path inside the folder.

        Raises:
            UserError: It leads out of the folder, or nowhere.
        """
        path = (self.root / Path(text).expanduser()).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise UserError(tr("this path is outside the folder of the server"), text, str(self.root), "access")
        if not path.exists():
            raise UserError(tr("no such file or folder"), text, suggest_path(path), "not_found")
        return path


def plan(
    workspace: Workspace, recipe: str, changes: list[str], until: str, memory: str, device: str
) -> list[dict[str, Any]]:
    """What each stage of a recipe would do and why, and memory, time and disk of training stages."""
    from hanlin.cli.options import open_recipe
    from hanlin.cli.output import plan_as_json
    from hanlin.estimate.plan import describe_estimate, estimate_plan
    from hanlin.pipeline.plan import plan as make_plan

    checked, store = open_recipe(workspace.resolve(recipe), changes, until, workspace.home)
    steps = make_plan(checked, store)
    results = estimate_plan(checked, steps, memory, device, probe=False)
    return plan_as_json(steps, {result.stage: describe_estimate(result) for result in results})


def status(workspace: Workspace, recipe: str, changes: list[str]) -> list[dict[str, Any]]:
    """The state of each stage of a recipe, and how far the one in progress is."""
    from hanlin.cli.options import open_recipe
    from hanlin.cli.output import status_as_json
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.run import read_progress

    checked, store = open_recipe(workspace.resolve(recipe), changes, "", workspace.home)
    steps = make_plan(checked, store)
    return status_as_json(steps, {s.stage.name: read_progress(s, store) for s in steps if s.state == "resume"})


def report(workspace: Workspace, recipe: str, changes: list[str]) -> dict[str, Any]:
    """The figures of a recipe's stages that are done, beside their targets. Nothing is written."""
    from hanlin.cli.options import open_recipe
    from hanlin.pipeline.plan import plan as make_plan
    from hanlin.pipeline.report import build_report

    checked, store = open_recipe(workspace.resolve(recipe), changes, "", workspace.home)
    steps = make_plan(checked, store)
    if all(step.state != "done" for step in steps):
        raise UserError(tr("no stage has run yet"), recipe, f"hanlin run {quote_shell(recipe)}")
    return dict(build_report(checked, steps).data)


def inspect(workspace: Workspace, paths: list[str], limit: int) -> list[dict[str, Any]]:
    """Format, encoding, rows, rows that would be dropped by reason, and three samples of each data file."""
    from hanlin.data.report.inspect import inspect as inspect_files

    if not 1 <= limit <= 100_000:
        raise UserError(tr("limit is a number from 1 to {most:,}", most=100_000), "limit")
    resolved = [str(workspace.resolve(path)) for path in paths]
    return list(inspect_files(resolved, {"limit": limit}))


def evaluation(workspace: Workspace, artifact: str) -> dict[str, Any]:
    """What a stage measured or made: the metrics of its artifact, with kind, settings, sources and licenses."""
    from hanlin.pipeline.manifest import read_manifest

    folder = workspace.resolve(artifact)
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is None:
        hint = tr("name a folder below runs/, such as runs/NAME/STAGE")
        raise UserError(tr("this is no artifact"), artifact, hint)
    return {
        "kind": manifest.kind,
        "metrics": manifest.metrics,
        "settings": manifest.settings,
        "digest": manifest.digest,
        "seconds": manifest.seconds,
    }


def evaluate(
    workspace: Workspace, model: str, questions: str, data: str, tasks: list[str], subjects: list[str], limit: int
) -> dict[str, Any]:
    """Ask a model questions and score its answers, as `hanlin evaluate` does, in a process of its own.

    Programs as tasks (`lm_eval_tasks`) and servers (`address`) are left to the command line: an agent may look into
    one folder, and not start programs or send its content away.

    Returns:
        The folder of the result (`path`), its `metrics` and its `digest`.
    """
    given = {"model": model, "questions": questions, "data": data}
    options = [f"--{name}={workspace.resolve(path)}" for name, path in given.items() if path]
    options += [f"--limit={limit}"] if limit else []
    for name, values in (("--tasks", tasks), ("--subjects", subjects)):
        if wrong := [value for value in values if value.startswith("-")]:
            raise UserError(tr("a name does not begin with a dash"), wrong[0])
        if leading_out := [value for value in values if Path(value).is_absolute() or ".." in Path(value).parts]:
            raise UserError(tr("this path is outside the folder of the server"), leading_out[0], code="access")
        options += [name, *values] if values else []
    command = python_command("-m", "hanlin", "evaluate", *options, f"--home={workspace.home.absolute()}", "--json")
    in_child = die_with_parent if sys.platform == "linux" else None  # one system call, safe with threads
    done = run_process(
        command, cwd=workspace.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, preexec_fn=in_child
    )
    try:
        answer = parse_json_object(done.stdout)
    except (TypeError, ValueError) as error:
        raise UserError(tr("the evaluation ended without a result"), model, None, "crashed") from error
    if "error" in answer:
        wrong_input = answer["error"]
        raise UserError(wrong_input["what"], wrong_input["where"], wrong_input["hint"], wrong_input["code"])
    return answer


def lineage(workspace: Workspace, artifact: str) -> Any:
    """What an artifact was made from, back to every source file, with hashes and licenses."""
    from hanlin.pipeline.lineage import lineage as read_lineage
    from hanlin.pipeline.lineage import lineage_json

    return lineage_json(read_lineage(workspace.resolve(artifact)))


def catalog(sort: Literal["models", "datasets", "tools"], words: list[str]) -> list[dict[str, Any]]:
    """Entries of the catalog in which all words occur, with licenses, faults and memory."""
    from hanlin.catalog import entries
    from hanlin.cli.commands.start.catalog import entry_as_json

    everything = {"models": entries.models, "datasets": entries.datasets, "tools": entries.tools}[sort]()
    return [entry_as_json(entry) for entry in entries.select_entries(everything, words)]


def settings(kind: str) -> dict[str, Any]:
    """The kinds of stages with what each does, or the JSON schema of one kind's settings."""
    from hanlin.config.kinds import KINDS

    if not kind:
        return {name: item.summary for name, item in KINDS.items()}
    name = kind.replace("-", "_")
    if name not in KINDS:
        raise UserError(tr("there is no kind '{kind}'", kind=kind), "kind", did_you_mean(name, KINDS))
    schema: dict[str, Any] = KINDS[name].settings.model_json_schema()
    return schema


def docs(page: str) -> Any:
    """A page of the documentation, or the pages that there are with their titles."""
    from hanlin.cli.commands.agents.pages import find_page, list_pages

    return find_page(page, language()).text if page else {each.name: each.title for each in list_pages(language())}
