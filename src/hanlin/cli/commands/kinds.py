"""`hanlin kinds`, `schema`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, print_json, print_table
from hanlin.config.kinds import KINDS, get_kind
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.config.kinds import StageKind

app = new_app()


@command(app)
def kinds(kind: Annotated[str, typer.Argument(help=tr("kind of stage"))] = "", as_json: AsJson = False) -> None:
    if kind:
        stage_kind = get_kind(kind.replace("-", "_"))
        if as_json:
            print_json(stage_kind.settings.model_json_schema())
        else:
            _print_settings(stage_kind)
    elif as_json:
        print_json([{"kind": k.name, "summary": k.summary, "heavy": k.heavy} for k in KINDS.values()])
    else:
        print_table(tr("kind,what it does").split(","), [[k.name, k.summary] for k in KINDS.values()])


@command(app, tr("Editors use it to complete and check recipe files."))
def schema(as_json: AsJson = False) -> None:
    """Print the schema, which is JSON with and without `--json`: a program may give the option to every command."""
    from hanlin.config.schema import json_schema

    print_json(json_schema())


def _print_settings(kind: StageKind) -> None:
    """Print every setting of a kind as an option of its command."""
    from hanlin.config.settings_page import rows_of

    echo(f"hanlin {kind.name}: {kind.summary}\n")
    rows = [
        [f"--{row.name.replace('_', '-')}", row.default, row.limits, tr(row.description)]
        for row in rows_of(kind.settings)
    ]
    headings = tr("option,default,takes,meaning").split(",")
    print_table(headings, rows)
