"""The command `hanlin tokens view`: what a model would read and learn of a file's records, token by token.

Owns how tokens stand in the terminal and on their page. Does not own what a token looks like (`tokens/view`) or how a
file is read (`data/preview`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.version import __version__

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from hanlin.chat.inspect import Piece, View
    from hanlin.chat.template import ChatTemplate

app = typer.Typer(
    help=say("Look at token ids and what is learned of them.", "查看词元 id 及其中学习的部分。"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
MOST_TOKENS = 2000
"""Tokens of an example that terminal and page show; `--json` has all of them."""


@app.callback()
def _root() -> None:
    pass


@app.command(
    help=say(
        "Show the token ids of a file's records and which of them are learned. FILE: conversations, preferences or "
        "text in any format that is read, or the folder of an artifact. Records that cannot be rendered are named and "
        "left out; exit code 2 when none can be shown.",
        "显示文件中各条记录的词元 id 以及哪些参与学习。FILE 可为任一可读格式的对话、偏好或文本，也可为产物文件夹。"
        "无法渲染的记录会被指出并跳过；若没有任何一条可显示，退出码为 2。",
    )
)
def view(
    file: Annotated[Path, typer.Argument(help=say("file or artifact folder", "文件或产物文件夹"), show_default=False)],
    model: Annotated[
        Path, typer.Option(help=say("folder with tokenizer and chat template", "含分词器与对话模板的文件夹"))
    ],
    template: Annotated[str, typer.Option(help=say("packaged chat template to use", "改用此内置对话模板"))] = "",
    html: Annotated[Path | None, typer.Option(help=say("write a page here instead", "改为写成网页"))] = None,
    limit: Annotated[int, typer.Option(min=1, help=say("records to show", "显示多少条记录"))] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help=say("print JSON, all tokens", "输出 JSON，含全部词元"))
    ] = False,
) -> None:
    shown = _Shown(model, template)
    shown.read(file, limit)
    if html is not None:
        shown.write_page(html, file)
    if as_json:
        rows = [{**_counts(view), **view.to_json()} for views in shown.records for view in views]
        typer.echo(json.dumps({"records": rows, "not_shown": list(map(str, shown.problems))}, ensure_ascii=False))
        return
    if html is not None:
        typer.echo(str(html))
    else:
        _Terminal().show(shown.records, shown.together())
    for problem in shown.problems:
        typer.echo(f"{say('not shown', '未显示')}: {problem}", err=True)


class _Shown:
    """The first records of a file as views, and what kept others from being shown."""

    def __init__(self, model: Path, template: str) -> None:
        from hanlin.tokenizer.tokenizer import Tokenizer

        self.model, self._name = model, template
        self.tokenizer = Tokenizer.load(model)
        self.template: ChatTemplate | None = None
        self.records: list[list[View]] = []
        self.problems: list[UserError] = []

    def read(self, file: Path, limit: int) -> None:
        """Views of the first `limit` records. Raises UserError when none can be shown."""
        from hanlin.chat.inspect import views
        from hanlin.chat.template import ChatTemplate
        from hanlin.core.records import Document
        from hanlin.data.report.preview import read_first_records

        if not file.exists():
            raise UserError(say("no such file or folder", "文件或文件夹不存在"), file)
        for number, record in enumerate(read_first_records(file)):
            if number >= limit:
                break
            if isinstance(record, UserError):
                self.problems.append(record)
                continue
            if self.template is None and not isinstance(record, Document):
                named = self._name
                self.template = (
                    ChatTemplate.named(named, self.tokenizer)
                    if named
                    else ChatTemplate.load(self.model, self.tokenizer)
                )
            try:
                self.records.append(list(views(record, self.tokenizer, self.template)))
            except UserError as error:
                self.problems.append(error)
        if not self.records and self.problems:
            first = self.problems[0]
            count = len(self.problems)
            raise UserError(
                say(
                    f"none of the first {count} records can be shown; the first: {first.what}",
                    f"前 {count} 条记录均无法显示；首条：{first.what}",
                ),
                first.where,
                first.hint,
            )
        if not self.records:
            raise UserError(say("there is no record in it", "其中没有任何记录"), file)

    def together(self) -> View:
        """All that is shown as one view, for its counts."""
        from hanlin.chat.inspect import View

        name = say(f"{len(self.records)} records", f"共 {len(self.records)} 条记录")
        return View(name, "", tuple(piece for views in self.records for view in views for piece in view.pieces))

    def write_page(self, path: Path, file: Path) -> None:
        """Write the page. Raises UserError when that is not possible."""
        from hanlin.web.pages import render

        whole = self.together()
        values = {
            "file": file.name,
            "model": self.model.name,
            "template": "" if self.template is None else Path(self.template.place).name,
            "version": __version__,
            "totals": [
                ("records", "条记录", f"{len(self.records):,}"),
                ("tokens", "个词元", f"{whole.tokens:,}"),
                ("of them learned", "其中学习", f"{whole.learned:,} ({whole.learned / max(1, whole.tokens):.0%})"),
                ("characters per token", "每词元字符数", f"{whole.characters_per_token:.2f}"),
            ],
            "records": [(views[0].record, views) for views in self.records],
            "problems": list(map(str, self.problems)),
            "most": MOST_TOKENS,
        }
        try:
            render.write(path, render.render("tokens.html", values))
        except OSError as error:
            raise UserError(say(f"cannot be written: {error.strerror}", f"无法写入：{error.strerror}"), path) from error


def _counts(view: View) -> dict[str, Any]:
    return {
        "count": view.tokens,
        "learnt_count": view.learned,
        "characters_per_token": round(view.characters_per_token, 4),
    }


class _Terminal:
    """Tokens in lines, the id of each below it. Learned ones are green, bold and underlined; where there is no color
    (`NO_COLOR`, or no terminal) each learned stretch stands in `[[ ]]`."""

    def __init__(self) -> None:
        from rich.console import Console

        width = None if sys.stdout.isatty() else 120
        self.console: Console = Console(markup=False, highlight=False, emoji=False, width=width, soft_wrap=False)
        self.plain = self.console.no_color or not self.console.is_terminal

    def show(self, records: Sequence[Sequence[View]], together: View) -> None:
        self.console.print(self._legend())
        for views in records:
            for view in views:
                self.console.print()
                self._show_head(view)
                self._show_tokens(view)
        self.console.print()
        self._show_head(together)

    def _legend(self) -> Text:
        from rich.text import Text

        if self.plain:
            text = Text(say("[[learned]] · read", "[[学习]] · 只读"))
        else:
            text = Text.assemble(
                (say("learned", "学习"), _LEARNT), " · ", say("read", "只读"), " · ", (say("special", "特殊"), _SPECIAL)
            )
        whites = say(
            " · ␣ space · □ full-width space · ⏎ line end · ⇥ tab · ⟨E4⟩ a byte of a character",
            " · ␣ 空格 · □ 全角空格 · ⏎ 换行 · ⇥ 制表符 · ⟨E4⟩ 字符的一个字节",
        )
        return text.append(whites)

    def _show_head(self, view: View) -> None:
        from rich.text import Text

        from hanlin.chat.inspect import visible

        parts = {
            "": "",
            "chosen": say(" · chosen", " · 被选中的回答"),
            "rejected": say(" · rejected", " · 被拒绝的回答"),
        }
        counts = say(
            f"{view.tokens} tokens, {view.learned} learned, {view.characters_per_token:.2f} characters per token",
            f"{view.tokens} 个词元，学习 {view.learned} 个，每词元 {view.characters_per_token:.2f} 个字符",
        )
        self.console.print(Text.assemble((visible(view.record) + parts[view.part], "bold"), f" · {counts}"))

    def _show_tokens(self, view: View) -> None:
        from rich.text import Text

        for line in self._lines(view.pieces[:MOST_TOKENS]):
            texts, ids = Text(), Text()
            for shown, number, style in line:
                size = max(_cells(shown), len(number))
                texts.append(shown, style).append(" " * (size - _cells(shown) + 1))
                ids.append(number.ljust(size + 1), "dim")
            texts.rstrip()
            ids.rstrip()
            self.console.print(texts, no_wrap=True, overflow="ignore", crop=False)
            self.console.print(ids, no_wrap=True, overflow="ignore", crop=False)
        if view.tokens > MOST_TOKENS:
            rest = view.tokens - MOST_TOKENS
            self.console.print(
                say(f"… {rest} more tokens (all with --json)", f"……另有 {rest} 个词元（--json 输出全部）")
            )

    def _lines(self, pieces: Sequence[Piece]) -> Iterator[list[tuple[str, str, str]]]:
        """Cells (text, id, style) in lines that fit the terminal, broken where the text itself is."""
        line: list[tuple[str, str, str]] = []
        width = 0
        for place, piece in enumerate(pieces):
            shown = piece.shown
            if self.plain and piece.learned:
                opens = place == 0 or not pieces[place - 1].learned
                closes = place + 1 == len(pieces) or not pieces[place + 1].learned
                shown = "[[" * opens + shown + "]]" * closes
            size = max(_cells(shown), len(str(piece.id))) + 1
            if line and width + size > self.console.width:
                yield line
                line, width = [], 0
            style = (
                "" if self.plain else f"{_SPECIAL if piece.special else ''} {_LEARNT if piece.learned else ''}".strip()
            )
            line.append((shown, str(piece.id), style))
            width += size
            if piece.ends_line:
                yield line
                line, width = [], 0
        if line:
            yield line


_LEARNT = "bold underline green"
_SPECIAL = "italic magenta"


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
