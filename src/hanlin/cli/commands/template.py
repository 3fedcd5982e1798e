"""The commands `hanlin template ...`: what other programs make of a model's chat template.

Owns what a person types and reads. Does not own the comparison (`contract/check`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.output import print_json
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.parity.check import Named, Verdict

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
    from hanlin.chat.template import ChatTemplate
    from hanlin.parity.cases import cases
    from hanlin.parity.check import check as run_check
    from hanlin.parity.check import summary

    folder, consumers = _consumers(model, gguf, modelfile, vllm)
    verdicts = run_check(ChatTemplate.load(folder), consumers, cases())
    if as_json:
        print_json(summary(verdicts))
    else:
        _tell(verdicts)
    if not all(verdict.good for verdict in verdicts):
        raise typer.Exit(1)


@app.command(
    help=say(
        "Write the Modelfile with which Ollama serves a GGUF file as it was trained, checked where Go is installed.",
        "为 GGUF 文件写出 Ollama 的 Modelfile，使其行为与训练一致；装有 Go 时会逐词元检查。",
    )
)
def modelfile(
    model: Annotated[
        str, typer.Argument(help=say("GGUF file or folder (folder:Q8_0)", "GGUF 文件或目录（目录:Q8_0）"))
    ],
    out: Annotated[
        Path | None,
        typer.Option(help=say("where to write it (default: beside the file)", "写到何处（默认：同一目录）")),
    ] = None,
    system: Annotated[str, typer.Option(help=say("system text of every chat", "每次对话的系统提示"))] = "",
) -> None:
    from hanlin.chat.template import ChatTemplate
    from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
    from hanlin.inference.loading import find_model, parse_model_spec
    from hanlin.parity.check import prove_modelfile

    found = find_model(*parse_model_spec(model))
    if found.kind != "gguf":
        what = say("a Modelfile names a GGUF file, and here is none", "Modelfile 需要 GGUF 文件，而这里没有")
        raise UserError(what, model, say("make one with `hanlin gguf`", "请先用 hanlin gguf 导出"))
    weights = LlamaCppModel(found.weights, vocabulary_only=True)
    context, license = int(weights.meta("llama.context_length") or 0), weights.meta("general.license") or ""
    weights.close()
    place = out or found.folder / "Modelfile"
    template = ChatTemplate.load(found.folder)
    verdict = prove_modelfile(place, found.weights, template, context=context, system=system, license=license)
    typer.echo(str(place))
    _tell([verdict])


def _consumers(model: Path, gguf: list[Path], modelfiles: list[Path], vllm: str) -> tuple[Path, list[Named]]:
    """What is asked: the folder, the GGUF files and the Modelfile in it, and what was named beside."""
    from hanlin.models.folder.gguf import find_gguf_files
    from hanlin.parity.check import consumers_of

    if not model.exists():
        raise UserError(say("there is no such file or folder", "没有这个文件或文件夹"), model)
    folder = model if model.is_dir() else model.parent
    beside = [folder / "Modelfile"] if (folder / "Modelfile").is_file() else []
    files = dict.fromkeys([*find_gguf_files(model), *gguf])
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
