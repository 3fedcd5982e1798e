"""`hanlin docs [PAGE]`: the documentation without a network, for people and for coding agents."""

from __future__ import annotations

from typing import Annotated

import typer

from hanlin.cli.commands.agents.pages import find_page, list_pages
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, echo_data, print_json, print_table
from hanlin.core.errors import UserError
from hanlin.core.i18n import Language, language, tr

app = new_app()
LANGUAGES: tuple[Language, ...] = ("zh", "en")


@command(
    app,
    tr(
        "Prints a page as Markdown; without a name it lists them. 'hanlin docs llms' is llms.txt, the list of pages "
        "for language models; 'hanlin docs skill' is a short page for coding agents, to be saved where they look."
    ),
)
def docs(
    page: Annotated[str, typer.Argument(help=tr("name of a page"), show_default=False)] = "",
    lang: Annotated[str, typer.Option("--lang", help="zh, en")] = "",
    as_json: AsJson = False,
) -> None:
    if lang not in ("", *LANGUAGES):
        raise UserError(tr("there is no language '{lang}'", lang=lang), "--lang", ", ".join(LANGUAGES))
    reader = next((known for known in LANGUAGES if known == lang), language())
    if page:
        chosen = find_page(page, reader)
        if as_json:
            print_json({"page": chosen.name, "title": chosen.title, "text": chosen.text})
        else:
            echo_data(chosen.text, nl=False)
    elif as_json:
        print_json([{"page": each.name, "title": each.title} for each in list_pages(reader)])
    else:
        print_table(tr("page,title").split(","), [[each.name, each.title] for each in list_pages(reader)])
        echo(tr("'hanlin docs NAME' prints one"))
