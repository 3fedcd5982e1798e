"""`hanlin quantize`: the GGUF files of a model, or the smallest that is good enough. The stage `gguf` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from hanlin.cli.commands.single_stage import run_stage
from hanlin.cli.commands.stage_options import as_path
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.config.kinds import get_kind
from hanlin.config.settings.export import NEEDS_IMPORTANCE, GgufType
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

DEFAULT_TYPES = ("Q8_0", "Q4_K_M")
app = new_app()


@command(
    app,
    say(
        "With --pick, only the smallest type that passes is kept; without it, every --type is written.",
        "加 --pick 则只保留达标的最小类型，否则写出每个 --type。",
    ),
)
def quantize(
    model: Annotated[Path, typer.Argument(help=say("folder of a model", "模型文件夹"), show_default=False)],
    type_: Annotated[
        list[str], typer.Option("--type", help=say("type to write or try; may repeat", "要写出或尝试的类型，可重复"))
    ] = [],
    pick: Annotated[str, typer.Option(help=say("condition, such as kl<=0.02", "须达到的条件，如 kl<=0.02"))] = "",
    held_out: Annotated[
        list[Path],
        typer.Option(help=say("held-out documents or conversations to measure on", "用于测量的留出文档或对话")),
    ] = [],
    importance: Annotated[
        Path | None,
        typer.Option(
            help=say("importance matrix, needed by types below three bits", "重要性矩阵，低于 3 位的类型必须有")
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help=say("folder to write", "写出的文件夹"))] = None,
    as_json: AsJson = False,
) -> None:
    if pick and not held_out:
        what = say("--pick chooses by what is measured on held-out text", "--pick 依据留出内容上的测量来选择")
        raise UserError(what, "hanlin quantize", say("name some with --held-out", "请用 --held-out 指定"))
    types = type_ or list(DEFAULT_TYPES)
    if pick and not type_:
        types = [name for name in get_args(GgufType) if importance is not None or name not in NEEDS_IMPORTANCE]
    settings: dict[str, Any] = {"model": as_path(str(model)), "types": types}
    if held_out:
        settings["quality_report"] = {"held_out": [str(path.absolute()) for path in held_out]}
    if pick:
        settings["pick"] = pick
    if importance is not None:
        settings["importance"] = as_path(str(importance))
    run_stage(get_kind("gguf"), settings, out=out, as_json=as_json)
