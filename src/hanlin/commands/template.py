"""The commands `hanlin template ...`: what other programs make of a model's chat template.

Owns what a person types and reads. Does not own the comparison (`contract/check`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.commands.output import print_json
from hanlin.errors import UserError
from hanlin.language import say

if TYPE_CHECKING:
    from hanlin.contract.check import Named, Verdict

app = typer.Typer(no_args_is_help=True, help=say("Chat templates: check them.", "对话模板：检查。"))


@app.callback()
def _group() -> None:
    """A group even while it has one command."""


@app.command(
    help=say(
        "Let every program at hand read the same conversations and compare token by token. Ends with 1 on a mismatch.",
        "让各个程序读取同一批对话并逐词元比对；不一致时以 1 退出。",
    )
)
def check(
    model: Annotated[Path, typer.Argument(help=say("folder of a model, or a GGUF file", "模型文件夹或 GGUF 文件"))],
    gguf: Annotated[
        list[Path], typer.Option(help=say("a GGUF file to check too, may repeat", "同时检查的 GGUF 文件，可重复"))
    ] = [],
    modelfile: Annotated[
        list[Path], typer.Option(help=say("a Modelfile of Ollama to check too", "同时检查的 Ollama Modelfile"))
    ] = [],
    vllm: Annotated[str, typer.Option(help=say("address of a vLLM that serves it", "提供该模型的 vLLM 地址"))] = "",
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))] = False,
) -> None:
    from hanlin.contract.cases import cases
    from hanlin.contract.check import check as run_check
    from hanlin.contract.check import summary
    from hanlin.tokens.chat_template import ChatTemplate

    folder, consumers = _consumers(model, gguf, modelfile, vllm)
    verdicts = run_check(ChatTemplate.load(folder), consumers, cases())
    if as_json:
        print_json(summary(verdicts))
    else:
        _tell(verdicts)
    if not all(verdict.good for verdict in verdicts):
        raise typer.Exit(1)


def _consumers(model: Path, gguf: list[Path], modelfiles: list[Path], vllm: str) -> tuple[Path, list[Named]]:
    """What is asked: the folder, the GGUF files and the Modelfile in it, and what was named beside."""
    from hanlin.contract.check import consumers_of
    from hanlin.engines import gguf_files

    if not model.exists():
        raise UserError(say("there is no such file or folder", "没有这个文件或文件夹"), model)
    folder = model if model.is_dir() else model.parent
    beside = [folder / "Modelfile"] if (folder / "Modelfile").is_file() else []
    files = dict.fromkeys([*gguf_files(model), *gguf])
    return folder, consumers_of(folder, list(files), list(dict.fromkeys([*beside, *modelfiles])), vllm)


def _tell(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.skipped_because is not None:
            typer.echo(
                say(
                    f"–  {verdict.name}: unchecked: {verdict.skipped_because}",
                    f"–  {verdict.name}：未检查：{verdict.skipped_because}",
                )
            )
            continue
        sign = "✓" if verdict.good else "✗"
        typer.echo(
            say(
                f"{sign}  {verdict.name}: {verdict.cases} cases, {verdict.mismatches} mismatches",
                f"{sign}  {verdict.name}：{verdict.cases} 例，{verdict.mismatches} 处不一致",
            )
        )
        if verdict.first:
            typer.echo(f"   {verdict.first}")
        if verdict.stops_missing:
            ids = ", ".join(map(str, verdict.stops_missing))
            typer.echo(say(f"   would not stop at {ids}", f"   不会在 {ids} 处停止"))
        if verdict.typed_tokens_read:
            count = verdict.typed_tokens_read
            typer.echo(
                say(
                    f"   in {count} cases it takes a special token that the user typed for a real one; Hanlin does not",
                    f"   有 {count} 例把用户键入的特殊词元当真（翰林不会）",
                )
            )
