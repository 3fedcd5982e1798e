"""`hanlin package`: a model in the folder that another program takes. The stage `package` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.commands.single_stage import run_stage
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.config.kinds import get_kind
from hanlin.core.i18n import tr

TARGETS = "ollama, lmstudio, llama_cpp, vllm, huggingface"
app = new_app()


@command(app, tr("The folder is checked before it appears."))
def package(
    model: Annotated[Path, typer.Argument(help=tr("folder of a model or of GGUF files"), show_default=False)],
    target: Annotated[str, typer.Option("--for", help=TARGETS)],
    out: Annotated[Path | None, typer.Option(help=tr("folder to write"))] = None,
    file: Annotated[str, typer.Option(help=tr("GGUF file, such as Q8_0"))] = "",
    name: Annotated[str, typer.Option(help=tr("name of the model in that program"))] = "",
    publisher: Annotated[str, typer.Option(help=tr("publisher in LM Studio"))] = "",
    license: Annotated[str, typer.Option(help=tr("license of the model"))] = "",
    system: Annotated[str, typer.Option(help=tr("system text of every chat in Ollama"))] = "",
    evaluation: Annotated[list[Path], typer.Option(help=tr("evaluation to show in the card; may repeat"))] = [],
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
