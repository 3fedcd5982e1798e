"""`hanlin ui`: the page in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import EngineName, refuse_key_in_command, tell_edits
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
    adapter: Annotated[
        list[str],
        typer.Option(help=tr("NAME=FOLDER: a LoRA over the model, served as a model of that name; may repeat")),
    ] = [],
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    lang: Annotated[str, typer.Option(help=tr("language of the page: auto (the browser's), zh, en"))] = "auto",
    engine: EngineName = "auto",
    context_length: Annotated[int, typer.Option(min=0, help=tr("most tokens of a request; 0: the model's"))] = 0,
    api_key: Annotated[
        list[str],
        typer.Option(envvar="HANLIN_API_KEY", hidden=True, callback=refuse_key_in_command),
    ] = [],
    api_key_file: Annotated[
        list[Path],
        typer.Option(help=tr("file of API keys, one on each line; or set HANLIN_API_KEY; may repeat")),
    ] = [],
    allow_host: Annotated[
        list[str],
        typer.Option(help=tr("name to answer to beside the machine's own, such as *.local; may repeat")),
    ] = [],
    base_path: Annotated[str, typer.Option(help=tr("path before every route behind a reverse proxy"))] = "",
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
