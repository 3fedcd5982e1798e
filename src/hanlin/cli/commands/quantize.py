"""The command `hanlin quantize`: the smallest GGUF file of a model that still answers well enough.

Owns what a person types and reads. Does not own the choice, which is the stage's (`gguf`), run as any single stage is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from hanlin.cli.commands import single_stage
from hanlin.config.kinds import kind_named
from hanlin.config.settings.export import NEEDS_IMPORTANCE, GgufType
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

_USUAL = ("Q8_0", "Q4_K_M")


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Write a model as GGUF files; with --pick, only the smallest type that passes.",
            "把模型写成 GGUF 文件；用 --pick 则只保留通过条件的最小类型。",
        )
    )(quantize)


def quantize(
    model: Annotated[Path, typer.Argument(help=say("folder of a model", "模型文件夹"), show_default=False)],
    type_: Annotated[
        list[str], typer.Option("--type", help=say("a type to write or try, may repeat", "要写出或尝试的类型，可重复"))
    ] = [],
    pick: Annotated[str, typer.Option(help=say("what must be reached: kl<=0.02", "须达到的条件：kl<=0.02"))] = "",
    held_out: Annotated[
        list[Path],
        typer.Option(help=say("held-out documents or conversations to measure on", "用于测量的留出文档或对话")),
    ] = [],
    importance: Annotated[
        Path | None, typer.Option(help=say("an importance matrix; allows types below three bits", "重要性矩阵"))
    ] = None,
    out: Annotated[Path | None, typer.Option(help=say("folder to put the files in", "文件放入的文件夹"))] = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))] = False,
) -> None:
    if pick and not held_out:
        what = say("--pick chooses by what is measured on held-out text", "--pick 依据留出内容上的测量来选择")
        raise UserError(what, "hanlin quantize", say("name some with --held-out", "请用 --held-out 指定"))
    types = type_ or list(_USUAL)
    if pick and not type_:
        types = [name for name in get_args(GgufType) if importance is not None or name not in NEEDS_IMPORTANCE]
    words = ["--model", str(model), "--types", f"[{', '.join(types)}]"]
    for path in held_out:
        words += ["--quality_report.held_out", str(path.absolute())]
    words += ["--pick", single_stage.quoted(pick)] if pick else []
    words += ["--importance", str(importance)] if importance is not None else []
    words += ["--out", str(out)] if out is not None else []
    words += ["--json"] if as_json else []
    single_stage.run_stage(kind_named("gguf"), words)
