"""`hanlin tokens view`: the token ids of a file's records and their loss mask, in the terminal or on a page.

How a token is shown is decided in `chat/inspect`, how a file is read in `data/report/preview`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, echo_data, print_json
from hanlin.core.errors import UserError, suggest_path
from hanlin.core.i18n import mark, tr
from hanlin.core.version import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from hanlin.chat.inspect import ExampleView, TokenView
    from hanlin.chat.template import ChatTemplate

app = new_app()
MAX_TOKENS = 2000
"""Tokens of an example that terminal and page show; `--json` has all of them."""
_LEARNED = "bold underline green"
_SPECIAL = "italic magenta"


@app.callback()
def _group() -> None:
    """Makes a group of the one command."""


@command(
    app,
    tr(
        "Show the token ids of a file's records and which are learned\n\nFILE: conversations, preferences "
        "or text in any format that is read, or the folder of an artifact. Records that cannot be "
        "rendered are named and left out; exits with 2 if none can be shown."
    ),
)
def view(
    file: Annotated[Path, typer.Argument(help=tr("file or artifact folder"), show_default=False)],
    model: Annotated[Path, typer.Option(help=tr("folder with tokenizer and chat template"))],
    template: Annotated[str, typer.Option(help=tr("packaged chat template or Jinja file to use"))] = "",
    html: Annotated[Path | None, typer.Option(help=tr("write a page here instead"))] = None,
    limit: Annotated[int, typer.Option(min=1, help=tr("records to show"))] = 10,
    as_json: AsJson = False,
) -> None:
    records = _RecordViews(model, template)
    records.read(file, limit)
    if html is not None:
        records.write_page(html, file)
    if as_json:
        rows = [{**_counts(view), **view.to_json()} for views in records.views for view in views]
        print_json({"records": rows, "not_shown": list(map(str, records.errors))}, indent=None)
        return
    if html is not None:
        echo_data(str(html))
    else:
        _TerminalView().show(records.views, records.total())
    for error in records.errors:
        echo(tr("not shown: {error}", error=error), err=True)
    if records.spelling_tags:
        echo(
            tr(
                "{count:,} records have an answer that spells a thinking tag such as <think> in its text: it is "
                "learned as plain text, not as the tag of the chat template",
                count=records.spelling_tags,
            ),
            err=True,
        )


class _RecordViews:
    """The first records of a file as views, and the errors of those that cannot be rendered."""

    def __init__(self, model: Path, template: str) -> None:
        from hanlin.tokenizer.tokenizer import Tokenizer

        self.model, self._template_name = model, template
        self.tokenizer = Tokenizer.load(model)
        self.template: ChatTemplate | None = None
        self.views: list[list[ExampleView]] = []
        self.errors: list[UserError] = []
        self.spelling_tags = 0
        """Records with an answer that spells a tag of reasoning as text."""

    def read(self, file: Path, limit: int) -> None:
        """Read the first `limit` records.

        Raises:
            UserError: There is no such file, or none of the records can be rendered.
        """
        from hanlin.chat.inspect import spells_thinking_tags, view_record
        from hanlin.core.records import Document
        from hanlin.data.report.preview import read_first_records

        if not file.exists():
            raise UserError(tr("no such file or folder"), file, suggest_path(file), "not_found")
        for record in itertools.islice(read_first_records(file), limit):
            if isinstance(record, UserError):
                self.errors.append(record)
                continue
            if self.template is None and not isinstance(record, Document):
                self.template = self._load_template()
            self.spelling_tags += spells_thinking_tags(record)
            try:
                self.views.append(list(view_record(record, self.tokenizer, self.template)))
            except UserError as error:
                self.errors.append(error)
        if not self.views and self.errors:
            first = self.errors[0]
            count = len(self.errors)
            raise UserError(
                tr("none of the first {count} records can be shown; the first: {what}", count=count, what=first.what),
                first.where,
                first.hint,
            )
        if not self.views:
            raise UserError(tr("there is no record in it"), file)

    def _load_template(self) -> ChatTemplate:
        from hanlin.chat.template import ChatTemplate

        if self._template_name:
            return ChatTemplate.from_packaged(self._template_name, self.tokenizer)
        return ChatTemplate.load(self.model, self.tokenizer)

    def total(self) -> ExampleView:
        """All records as one view, for its counts."""
        from hanlin.chat.inspect import ExampleView

        count = len(self.views)
        name = tr("{count} records", count=count)
        return ExampleView(name, "", tuple(piece for views in self.views for view in views for piece in view.tokens))

    def write_page(self, path: Path, file: Path) -> None:
        """Write the page.

        Raises:
            UserError: The file cannot be written.
        """
        from hanlin.core.files import write_text
        from hanlin.web.pages.render import render_page

        total = self.total()
        values = {
            "file": file.name,
            "model": self.model.name,
            "template": "" if self.template is None else Path(self.template.origin).name,
            "version": __version__,
            "totals": [
                (mark("records"), f"{len(self.views):,}"),
                (mark("tokens"), f"{total.num_tokens:,}"),
                (
                    mark("learned tokens"),
                    f"{total.num_learned:,} ({total.num_learned / max(1, total.num_tokens):.0%})",
                ),
                (mark("characters per token"), f"{total.characters_per_token:.2f}"),
            ],
            "records": [(views[0].record, views) for views in self.views],
            "errors": list(map(str, self.errors)),
            "max_tokens": MAX_TOKENS,
        }
        try:
            write_text(path, render_page("tokens.html", values))
        except OSError as error:
            raise UserError(tr("cannot be written: {strerror}", strerror=error.strerror), path) from error


def _counts(view: ExampleView) -> dict[str, Any]:
    return {
        "count": view.num_tokens,
        "learned_count": view.num_learned,
        "characters_per_token": round(view.characters_per_token, 4),
    }


class _TerminalView:
    """Prints tokens in lines, the id of each below it.

    Learned tokens are green, bold and underlined; without color (`NO_COLOR`, or no terminal) each run of them is in
    `[[ ]]`.
    """

    def __init__(self) -> None:
        from rich.console import Console

        width = None if sys.stdout.isatty() else 120
        self.console: Console = Console(markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)
        self.plain = self.console.no_color or not self.console.is_terminal

    def show(self, records: Sequence[Sequence[ExampleView]], total: ExampleView) -> None:
        self.console.print(self._legend())
        for views in records:
            for view in views:
                self.console.print()
                self._show_head(view)
                self._show_tokens(view)
        self.console.print()
        self._show_head(total)

    def _legend(self) -> Text:
        from rich.text import Text

        if self.plain:
            text = Text(tr("[[learned]] · read"))
        else:
            text = Text.assemble(
                (tr("learned"), _LEARNED),
                " · ",
                tr("read"),
                " · ",
                (tr("special"), _SPECIAL),
            )
        spaces = tr(" · ␣ space · □ full-width space · ⏎ line end · ⇥ tab · ⟨E4⟩ a byte of a character")
        return text.append(spaces)

    def _show_head(self, view: ExampleView) -> None:
        from rich.text import Text

        from hanlin.chat.inspect import visible

        parts = {
            "": "",
            "chosen": tr(" · chosen"),
            "rejected": tr(" · rejected"),
        }
        tokens, learned, density = view.num_tokens, view.num_learned, view.characters_per_token
        counts = tr(
            "{tokens} tokens, {learned} learned, {density:.2f} characters per token",
            tokens=tokens,
            learned=learned,
            density=density,
        )
        self.console.print(Text.assemble((visible(view.record) + parts[view.part], "bold"), f" · {counts}"))

    def _show_tokens(self, view: ExampleView) -> None:
        from rich.cells import cell_len
        from rich.text import Text

        for line in self._lines(view.tokens[:MAX_TOKENS]):
            texts, ids = Text(), Text()
            for shown, token_id, style in line:
                width = max(cell_len(shown), len(token_id))
                texts.append(shown, style).append(" " * (width - cell_len(shown) + 1))
                ids.append(token_id.ljust(width + 1), "dim")
            texts.rstrip()
            ids.rstrip()
            self.console.print(texts, no_wrap=True, overflow="ignore", crop=False)
            self.console.print(ids, no_wrap=True, overflow="ignore", crop=False)
        if view.num_tokens > MAX_TOKENS:
            rest = view.num_tokens - MAX_TOKENS
            self.console.print(tr("… {rest} more tokens (all with --json)", rest=rest))

    def _lines(self, pieces: Sequence[TokenView]) -> Iterator[list[tuple[str, str, str]]]:
        """Cells (text, id, style) in lines that fit the terminal, broken where the text itself is."""
        from rich.cells import cell_len

        line: list[tuple[str, str, str]] = []
        used = 0
        for index, piece in enumerate(pieces):
            shown = piece.shown
            if self.plain and piece.learned:
                opens = index == 0 or not pieces[index - 1].learned
                closes = index + 1 == len(pieces) or not pieces[index + 1].learned
                shown = "[[" * opens + shown + "]]" * closes
            width = max(cell_len(shown), len(str(piece.id))) + 1
            if line and used + width > self.console.width:
                yield line
                line, used = [], 0
            styles = (_SPECIAL if piece.special else "", _LEARNED if piece.learned else "")
            line.append((shown, str(piece.id), "" if self.plain else " ".join(styles).strip()))
            used += width
            if piece.ends_line:
                yield line
                line, used = [], 0
        if line:
            yield line
