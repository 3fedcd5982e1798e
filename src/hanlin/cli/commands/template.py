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
    from hanlin.parity.check import NamedBackend, ParityResult

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
    from hanlin.parity.cases import make_cases
    from hanlin.parity.check import check as run_check
    from hanlin.parity.check import summarize

    folder, backends = _backends(model, gguf, modelfile, vllm)
    results = run_check(ChatTemplate.load(folder), backends, make_cases())
    if as_json:
        print_json(summarize(results))
    else:
        _print_verdicts(results)
    if not all(result.passed for result in results):
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
    from hanlin.parity.check import verify_modelfile

    location = find_model(*parse_model_spec(model))
    if location.kind != "gguf":
        what = say("there is no GGUF file here, and a Modelfile names one", "Modelfile 需要 GGUF 文件，而这里没有")
        raise UserError(what, model, say("make one with `hanlin gguf`", "请先用 hanlin gguf 导出"))
    weights = LlamaCppModel(location.weights, vocabulary_only=True)
    context, license = int(weights.meta("llama.context_length") or 0), weights.meta("general.license") or ""
    weights.close()
    path = out or location.folder / "Modelfile"
    template = ChatTemplate.load(location.folder)
    result = verify_modelfile(path, location.weights, template, context=context, system=system, license=license)
    typer.echo(str(path))
    _print_verdicts([result])


def _backends(model: Path, gguf: list[Path], modelfiles: list[Path], vllm: str) -> tuple[Path, list[NamedBackend]]:
    """The model's folder, and what reads it: the GGUF files and the Modelfile in it, and those of the options."""
    from hanlin.models.folder.gguf import find_gguf_files
    from hanlin.parity.check import backends_for

    if not model.exists():
        raise UserError(say("no such file or folder", "文件或文件夹不存在"), model)
    folder = model if model.is_dir() else model.parent
    beside = [folder / "Modelfile"] if (folder / "Modelfile").is_file() else []
    files = dict.fromkeys([*find_gguf_files(model), *gguf])
    return folder, backends_for(folder, list(files), list(dict.fromkeys([*beside, *modelfiles])), vllm)


def _print_verdicts(results: list[ParityResult]) -> None:
    for result in results:
        if result.skip_reason is not None:
            typer.echo(
                say(
                    f"–  {result.name}: unchecked: {result.skip_reason}",
                    f"–  {result.name}：未检查：{result.skip_reason}",
                )
            )
            continue
        sign = "✓" if result.passed else "✗"
        typer.echo(
            say(
                f"{sign}  {result.name}: {result.cases} cases, {result.mismatches} mismatches",
                f"{sign}  {result.name}：{result.cases} 例，{result.mismatches} 处不一致",
            )
        )
        if result.first:
            typer.echo(f"   {result.first}")
        if result.missing_stop_ids:
            ids = ", ".join(map(str, result.missing_stop_ids))
            typer.echo(say(f"   would not stop at {ids}", f"   不会在 {ids} 处停止"))
        if result.typed_tokens_parsed:
            count = result.typed_tokens_parsed
            typer.echo(
                say(
                    f"   in {count} cases it takes a special token that the user typed for a real one; Hanlin does not",
                    f"   有 {count} 例把用户键入的特殊词元当真（翰林不会）",
                )
            )
