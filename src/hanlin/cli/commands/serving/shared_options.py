"""Options that the server and the page share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.options import refuse_key_in_command
from hanlin.core.i18n import tr

Adapters = Annotated[
    list[str],
    typer.Option(help=tr("NAME=FOLDER: a LoRA over the model, served as a model of that name; may repeat")),
]
ContextLength = Annotated[int, typer.Option(min=0, help=tr("most tokens of a request; 0: the model's"))]
ApiKey = Annotated[list[str], typer.Option(envvar="HANLIN_API_KEY", hidden=True, callback=refuse_key_in_command)]
ApiKeyFiles = Annotated[
    list[Path],
    typer.Option(help=tr("file of API keys, one on each line; or set HANLIN_API_KEY; may repeat")),
]
AllowedHosts = Annotated[
    list[str],
    typer.Option(help=tr("name to answer to beside the machine's own, such as *.local; may repeat")),
]
BasePath = Annotated[str, typer.Option(help=tr("path before every route behind a reverse proxy"))]
