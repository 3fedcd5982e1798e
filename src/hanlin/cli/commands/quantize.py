"""`hanlin quantize`: the GGUF files of a model, or the smallest that is good enough. The stage `gguf` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from hanlin.cli.commands.single_stage import run_stage
from hanlin.cli.commands.stage_options import as_path
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.config.kinds import get_kind
from hanlin.config.settings.export import NEEDS_IMPORTANCE, GgufType
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

DEFAULT_TYPES = ("Q8_0", "Q4_K_M")
app = new_app()


@command(
    app,
    tr("With --pick, only the smallest type that passes is kept; without it, every --type is written."),
)
def quantize(
    model: Annotated[Path, typer.Argument(help=tr("folder of a model"), show_default=False)],
    type_: Annotated[list[str], typer.Option("--type", help=tr("type to write or try; may repeat"))] = [],
    pick: Annotated[str, typer.Option(help=tr("condition, such as kl<=0.02"))] = "",
    held_out: Annotated[
        list[Path],
        typer.Option(help=tr("held-out documents or conversations to measure on")),
    ] = [],
    importance: Annotated[
        Path | None,
        typer.Option(help=tr("importance matrix, needed by types below three bits")),
    ] = None,
    out: Annotated[Path | None, typer.Option(help=tr("folder to write"))] = None,
    as_json: AsJson = False,
) -> None:
    if pick and not held_out:
        what = tr("--pick chooses by what is measured on held-out text")
        raise UserError(what, "hanlin quantize", tr("name some with --held-out"))
    types = type_ or list(DEFAULT_TYPES)
    if pick and not type_:
        types = [name for name in get_args(GgufType) if importance is not None or name not in NEEDS_IMPORTANCE]
    settings: dict[str, Any] = {"model": as_path(str(model)), "types": types}
    if held_out:
        settings["quality_report"] = {"held_out": [str(path.absolute()) for path in held_out]}
    if pick:
        settings["pick"] = pick
    if importance is not None:
        settings["importance"] = as_path(str(importance))
    run_stage(get_kind("gguf"), settings, out=out, as_json=as_json, command="hanlin quantize")
