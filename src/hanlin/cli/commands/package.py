"""`hanlin package`: a model in the folder that another program takes. The stage `package` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.commands.single_stage import run_stage
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.config.kinds import get_kind
from hanlin.core.i18n import say

TARGETS = "ollama, lmstudio, llama_cpp, vllm, huggingface"
app = new_app()


@command(app, say("The folder is checked before it appears.", "文件夹在检查通过后才会出现。"))
def package(
    model: Annotated[
        Path, typer.Argument(help=say("folder of a model or of GGUF files", "模型或 GGUF 文件夹"), show_default=False)
    ],
    target: Annotated[str, typer.Option("--for", help=TARGETS)],
    out: Annotated[Path | None, typer.Option(help=say("folder to write", "写出的文件夹"))] = None,
    file: Annotated[str, typer.Option(help=say("GGUF file, such as Q8_0", "选哪个 GGUF 文件，如 Q8_0"))] = "",
    name: Annotated[str, typer.Option(help=say("name of the model there", "模型在其中的名称"))] = "",
    publisher: Annotated[str, typer.Option(help=say("publisher in LM Studio", "LM Studio 中的发布者"))] = "",
    license: Annotated[str, typer.Option(help=say("license of the model", "模型的许可证"))] = "",
    system: Annotated[str, typer.Option(help=say("system text of every chat in Ollama", "Ollama 的系统提示"))] = "",
    evaluation: Annotated[
        list[Path], typer.Option(help=say("evaluation to show in the card; may repeat", "写入卡片的评测，可重复"))
    ] = [],
    as_json: AsJson = False,
) -> None:
    texts = {"file": file, "name": name, "publisher": publisher, "license": license, "system": system}
    settings = {
        "model": str(model.absolute()),
        "target": target,
        **{setting: text for setting, text in texts.items() if text},
        "evaluations": [str(path.absolute()) for path in evaluation],
    }
    run_stage(get_kind("package"), settings, out=out, as_json=as_json)
