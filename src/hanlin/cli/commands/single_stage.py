"""A command for each kind of stage: `hanlin sft --model m --data d` is a recipe of one stage.

Owns how words of a command line become settings. Does not own the stage's checks or its run (`recipe`, `pipeline`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hanlin.cli.output import print_json, print_table
from hanlin.config.kinds import KINDS
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.config.kinds import StageKind


def add_to(app: typer.Typer, *, but: Collection[str] = ()) -> None:
    """Give `app` a command for every kind, `but` those that have one of their own."""
    for kind in KINDS.values():
        if kind.name not in but:
            _add(app, kind)


def quoted(text: str) -> str:
    """A text as a word of a command line that is read as a text, whatever is in it."""
    return json.dumps(text, ensure_ascii=False)


def print_settings(kind: StageKind) -> None:
    """The options of a kind's command."""
    from hanlin.config.settings_page import rows_of

    typer.echo(f"hanlin {kind.name}: {kind.summary}\n")
    rows = [[f"--{row.name.replace('_', '-')}", row.default, row.limits, row.text] for row in rows_of(kind.settings)]
    rows.append(
        ["--out", "", "", say("folder to put the result in (default: the store)", "结果放入的文件夹（默认：产物库）")]
    )
    rows.append(["--seed", "42", "", say("seed of every random choice", "所有随机选择的种子")])
    print_table(say("option,default,takes,meaning", "选项,默认,取值,含义").split(","), rows)


def _add(app: typer.Typer, kind: StageKind) -> None:
    def command(context: typer.Context) -> None:
        run_stage(kind, list(context.args))

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(
        kind.name.replace("_", "-"),
        help=kind.summary,
        context_settings=settings,
        rich_help_panel=say("single stages", "单独运行某一阶段"),
    )(command)


def run_stage(kind: StageKind, words: list[str]) -> None:
    """One stage from the command line: the same settings class, the same checks, the same store as in a recipe."""
    if not words or "--help" in words or "-h" in words:
        print_settings(kind)
        return
    from hanlin.config.recipe import build_recipe
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.report import changes
    from hanlin.pipeline.run import run as run_all

    row = _options(kind, words)
    out = row.pop("out", None)
    data = {"name": kind.name, "seed": row.pop("seed", 42), "root": "."}
    home = Path(str(row.pop("home", os.environ.get("HANLIN_HOME", "."))))
    as_json = row.pop("json", False)
    data["stages"] = {kind.name: {"kind": kind.name, **row}}
    recipe = build_recipe(data, f"hanlin {kind.name}")
    store = Store(home)
    target = Path(str(out)) if out else None
    if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(say("already exists", "已存在"), target, say("name a new folder", "请换一个新文件夹"))
    (step,) = run_all(recipe, store)
    place = store.folder(kind.name, step.key)
    if target is not None:
        place = _copy_out(place, target)
    assert step.manifest is not None
    if as_json:
        print_json({"path": str(place), "metrics": step.manifest.metrics, "digest": step.manifest.digest})
    else:
        typer.echo(f"{place}\n{changes(step)}")


def _copy_out(folder: Path, target: Path) -> Path:
    """Copy a whole artifact to where the person wants it; it appears there at once or not at all."""
    import shutil

    from hanlin.models.folder.adapter import resolve_base, rewrite_base_path
    from hanlin.models.folder.layout import is_adapter
    from hanlin.pipeline.manifest import refresh_manifest

    aside = target.with_name(target.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, aside)
    if is_adapter(aside):
        rewrite_base_path(aside, resolve_base(folder))
        refresh_manifest(aside)
    if target.exists():
        target.rmdir()
    os.replace(aside, target)
    return target


def _options(kind: StageKind, words: list[str]) -> dict[str, Any]:
    """`--lora.rank 8 --data a --data b` as nested data; a bare path gets the `./` that recipes want."""
    from hanlin.config.recipe_file import read_value
    from hanlin.config.settings.base import setting_info

    fields = kind.settings.model_fields
    row: dict[str, Any] = {}
    place = 0
    while place < len(words):
        word = words[place]
        if not word.startswith("--"):
            raise UserError(
                say(f"'{word}' stands alone", f"“{word}”前缺少选项名"),
                f"hanlin {kind.name}",
                say("write --option value", "请写成 --选项 值"),
            )
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if name == "json":
            row["json"] = True
            place += 1
            continue
        head = name.split(".")[0]
        if head not in fields and head not in ("out", "seed", "home"):
            raise UserError(
                say(f"no option --{head}", f"没有选项 --{head}"),
                f"hanlin {kind.name}",
                did_you_mean(head, [*fields, "out", "seed", "home"]),
            )
        if not equals:
            place += 1
            if place >= len(words):
                raise UserError(say(f"--{name} needs a value", f"--{name} 缺少取值"), f"hanlin {kind.name}")
            text = words[place]
        place += 1
        reads = head in fields and bool(setting_info(fields[head]).types or head == "sources")
        if head in ("out", "home"):
            value: Any = text
        elif reads and "." not in name:
            value = text if text.startswith(("./", "../", "/", "~", "hf:", "{")) else f"./{text}"
            value = read_value(value, word) if value.startswith("{") else value
        else:
            value = read_value(text, word)
        current = row
        keys = name.split(".")
        for key in keys[:-1]:
            current = current.setdefault(key, {})
        last = keys[-1]
        if last in current:
            before = current[last]
            current[last] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            current[last] = [value] if reads and _takes_many(kind, head) else value
    return row


def _takes_many(kind: StageKind, name: str) -> bool:
    return "tuple" in str(kind.settings.model_fields[name].annotation)
