"""`hanlin kinds`, `schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from hanlin.cli.commands import single_stage
from hanlin.cli.options import AsJson
from hanlin.cli.output import print_json, print_table
from hanlin.config.kinds import KINDS, kind_named
from hanlin.core.i18n import say


def add_to(app: typer.Typer) -> None:
    app.command(help=say("The kinds of stages, or the settings of one.", "列出阶段类型，或某一类型的设置。"))(kinds)
    app.command(help=say("The JSON schema of recipes, for editors.", "配方的 JSON schema，供编辑器使用。"))(schema)


def kinds(kind: Annotated[str, typer.Argument()] = "", as_json: AsJson = False) -> None:
    if kind:
        chosen = kind_named(kind)
        if as_json:
            print_json(chosen.settings.model_json_schema())
        else:
            single_stage.print_settings(chosen)
    elif as_json:
        print_json([{"kind": k.name, "summary": k.summary, "heavy": k.heavy} for k in KINDS.values()])
    else:
        print_table(say("kind,what it does", "类型,作用").split(","), [[k.name, k.summary] for k in KINDS.values()])


def schema() -> None:
    from hanlin.config.schema import json_schema

    print_json(json_schema())
