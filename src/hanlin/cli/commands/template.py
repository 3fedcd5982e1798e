"""`hanlin template ...`: what other programs make of a model's chat template. `parity/check` compares them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.parity.check import Named, Verdict

app = new_app()


@command(
    app,
    say(
        "Compare the token ids of programs, conversation by conversation\n\n"
        "Every program at hand reads the same conversations; exits with 1 on a mismatch.",
        "逐段对话比对各程序的词元编号\n\n所有可用的程序读取同一批对话；不一致时以 1 退出。",
    ),
)
def check(
    model: Annotated[Path, typer.Argument(help=say("folder of a model, or a GGUF file", "模型文件夹或 GGUF 文件"))],
    gguf: Annotated[
        list[Path], typer.Option(help=say("GGUF file to check too; may repeat", "同时检查的 GGUF 文件，可重复"))
    ] = [],
    modelfile: Annotated[
        list[Path],
        typer.Option(help=say("Modelfile of Ollama to check too; may repeat", "同时检查的 Ollama Modelfile，可重复")),
    ] = [],
    vllm: Annotated[str, typer.Option(help=say("address of a vLLM that serves it", "提供该模型的 vLLM 地址"))] = "",
    as_json: AsJson = False,
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
        _print_verdicts(verdicts)
    if not all(verdict.good for verdict in verdicts):
        raise typer.Exit(1)


@command(
    app,
    say(
        "Write the Modelfile with which Ollama serves a GGUF file\n\n"
        "Ollama then renders chats as in training; this is checked if Go is installed.",
        "写出 Ollama 运行 GGUF 文件所用的 Modelfile\n\nOllama 由此与训练时的渲染一致；装有 Go 时会检查。",
    ),
)
def modelfile(
    model: Annotated[
        str, typer.Argument(help=say("GGUF file or folder (folder:Q8_0)", "GGUF 文件或目录（目录:Q8_0）"))
    ],
    out: Annotated[
        Path | None,
        typer.Option(help=say("file to write (default: beside the GGUF file)", "写出的文件（默认：与 GGUF 同目录）")),
    ] = None,
    system: Annotated[str, typer.Option(help=say("system text of every chat", "每次对话的系统提示"))] = "",
) -> None:
    from hanlin.chat.template import ChatTemplate
    from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
    from hanlin.inference.loading import find_model, parse_model_spec
    from hanlin.parity.check import prove_modelfile

    found = find_model(*parse_model_spec(model))
    if found.kind != "gguf":
        what = say("there is no GGUF file here, and a Modelfile names one", "Modelfile 需要 GGUF 文件，而这里没有")
        raise UserError(what, model, say("make one with `hanlin gguf`", "请先用 hanlin gguf 导出"))
    weights = LlamaCppModel(found.weights, vocabulary_only=True)
    context, license = int(weights.meta("llama.context_length") or 0), weights.meta("general.license") or ""
    weights.close()
    path = out or found.folder / "Modelfile"
    template = ChatTemplate.load(found.folder)
    verdict = prove_modelfile(path, found.weights, template, context=context, system=system, license=license)
    typer.echo(str(path))
    _print_verdicts([verdict])


def _consumers(model: Path, gguf: list[Path], modelfiles: list[Path], vllm: str) -> tuple[Path, list[Named]]:
    """The model's folder, and what reads it: the GGUF files and the Modelfile in it, and those of the options."""
    from hanlin.models.folder.gguf import find_gguf_files
    from hanlin.parity.check import consumers_of

    if not model.exists():
        raise UserError(say("no such file or folder", "文件或文件夹不存在"), model)
    folder = model if model.is_dir() else model.parent
    beside = [folder / "Modelfile"] if (folder / "Modelfile").is_file() else []
    files = dict.fromkeys([*find_gguf_files(model), *gguf])
    return folder, consumers_of(folder, list(files), list(dict.fromkeys([*beside, *modelfiles])), vllm)


def _print_verdicts(verdicts: list[Verdict]) -> None:
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
