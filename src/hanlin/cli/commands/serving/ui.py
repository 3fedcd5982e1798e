"""`hanlin ui`: the page in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.commands.serving.shared_options import (
    Adapters,
    AllowedHosts,
    ApiKey,
    ApiKeyFiles,
    BasePath,
    ContextLength,
)
from hanlin.cli.help import command, new_app
from hanlin.cli.options import EngineName, tell_edits
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import Language, tr

app = new_app()
LANGUAGES: dict[str, Language | None] = {"auto": None, "en": "en", "zh": "zh"}


@command(
    app,
    tr("Shows the files of one folder, and keeps what it writes in ui/ below it. It loads nothing from the network."),
)
def ui(
    folder: Annotated[
        Path, typer.Argument(help=tr("folder of recipes, artifacts/ and runs/"), envvar="HANLIN_HOME")
    ] = Path("."),
    model: Annotated[list[str], typer.Option(help=tr("model to chat with: as in `hanlin serve`; may repeat"))] = [],
    adapter: Adapters = [],
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    lang: Annotated[str, typer.Option(help=tr("language of the page: auto (the browser's), zh, en"))] = "auto",
    engine: EngineName = "auto",
    context_length: ContextLength = 0,
    api_key: ApiKey = [],
    api_key_file: ApiKeyFiles = [],
    allow_host: AllowedHosts = [],
    base_path: BasePath = "",
) -> None:
    if lang not in LANGUAGES:
        raise UserError(tr("no language of the page: {lang}", lang=lang), "--lang", did_you_mean(lang, LANGUAGES))
    from hanlin.serve.auth import read_key_file
    from hanlin.web.server import serve_page

    for spec in model:
        tell_edits(spec.partition("=")[2] if "=" in spec and not Path(spec).exists() else spec)
    options: dict[str, Any] = {"context_length": context_length} if context_length else {}
    serve_page(
        folder,
        model,
        fixed_language=LANGUAGES[lang],
        host=host,
        port=port,
        engine=engine,
        adapters=adapter,
        api_keys=[*filter(None, api_key), *(key for file in api_key_file for key in read_key_file(file))],
        allowed_hosts=allow_host,
        base_path=base_path,
        **options,
    )
