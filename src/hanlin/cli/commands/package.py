"""The command `hanlin package`: a model in the folder that another program takes.

Owns what a person types. Does not own the work, which is the stage's (`package`), run as any single stage is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.commands import single_stage
from hanlin.config.kinds import kind_named
from hanlin.core.i18n import say

_TARGETS = "ollama, lmstudio, llama_cpp, vllm, huggingface"


def add_to(app: typer.Typer) -> None:
    app.command(
        help=say(
            "Put a model into the folder that Ollama, LM Studio, llama.cpp, vLLM or Hugging Face takes.",
            "把模型装成 Ollama、LM Studio、llama.cpp、vLLM 或 Hugging Face 直接可用的文件夹。",
        )
    )(package)


def package(
    model: Annotated[
        Path, typer.Argument(help=say("folder of a model or of GGUF files", "模型或 GGUF 文件夹"), show_default=False)
    ],
    target: Annotated[str, typer.Option("--for", help=_TARGETS)],
    out: Annotated[Path | None, typer.Option(help=say("folder to put it in", "放入的文件夹"))] = None,
    file: Annotated[str, typer.Option(help=say("which GGUF file: Q8_0", "选哪个 GGUF 文件：Q8_0"))] = "",
    name: Annotated[str, typer.Option(help=say("the model's name there", "模型名称"))] = "",
    publisher: Annotated[str, typer.Option(help=say("whose folder in LM Studio", "LM Studio 中的发布者"))] = "",
    license: Annotated[str, typer.Option(help=say("license of the model", "模型的许可证"))] = "",
    system: Annotated[str, typer.Option(help=say("system text of every chat in Ollama", "Ollama 的系统提示"))] = "",
    evaluation: Annotated[
        list[Path], typer.Option(help=say("a measurement to show in the card, may repeat", "写入卡片的评测，可重复"))
    ] = [],
    as_json: Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))] = False,
) -> None:
    words = ["--model", str(model.absolute()), "--target", target]
    texts = {"file": file, "name": name, "publisher": publisher, "license": license, "system": system}
    for option, text in texts.items():
        words += [f"--{option}", single_stage.quoted(text)] if text else []
    for path in evaluation:
        words += ["--evaluations", str(path.absolute())]
    words += ["--out", str(out)] if out is not None else []
    words += ["--json"] if as_json else []
    single_stage.run_stage(kind_named("package"), words)
