"""Token ids and the learn-mask as people read them: a token's text made visible, half a character as its bytes.

Owns what a token looks like and the counts of an example. Does not own where it is shown (terminal, report, page).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.chat.examples import render_answer, render_documents
from hanlin.chat.template import ChatTemplate, Rendered
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference
from hanlin.tokenizer.tokenizer import Tokenizer

_WHITE = {"\n": "⏎", "\t": "⇥", "\u3000": "□"}
_HIDDEN = ("Cc", "Cf", "Co", "Cn", "Zl", "Zp", "Zs")
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Piece:
    """A token. `text` are the characters that it completes, `data` all its bytes; `shown` is both, made visible:

    `⏎ ⇥ □` for line end, tab and full-width space; `␣` for a space that leads, trails or has a neighbor;
    `⟨U+200B⟩` for what has no glyph; `⟨E4⟩` for a byte of a character that is not whole in this token, and `⟨A0=你⟩`
    for the byte that completes it.
    """

    id: int
    text: str
    shown: str
    data: bytes
    learned: bool
    special: bool

    @property
    def ends_line(self) -> bool:
        return not self.special and "\n" in self.text

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "text": self.text, "shown": self.shown, "bytes": self.data.hex(" ")}
        return {**row, "learned": self.learned, "special": self.special}


@dataclass(frozen=True, slots=True)
class View:
    """An example token by token. `part` is `chosen` or `rejected` of a pair, `good` or `bad` of a judged answer, else
    empty."""

    record: str
    part: str
    pieces: tuple[Piece, ...]

    @property
    def tokens(self) -> int:
        return len(self.pieces)

    @property
    def learned(self) -> int:
        return sum(piece.learned for piece in self.pieces)

    @property
    def characters_per_token(self) -> float:
        """Characters of the text per token of the text; what the template or training adds as special is no text."""
        plain = [piece for piece in self.pieces if not piece.special]
        return sum(len(piece.text) for piece in plain) / len(plain) if plain else 0.0

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"record": self.record}
        if self.part:
            row["part"] = self.part
        return {**row, "tokens": [piece.to_json() for piece in self.pieces]}


def views(
    record: Document | Conversation | Preference | UnpairedPreference,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
) -> Iterator[View]:
    """What training sees of a record: one example, or two of a preference. Documents need no template.

    Raises UserError with the record's id where `ChatTemplate.render` does.
    """
    parts: dict[str, Rendered]
    if isinstance(record, Document):
        (rendered,) = render_documents([record.text], tokenizer)
        parts = {"": rendered}
    else:
        assert template is not None
        if isinstance(record, Conversation):
            parts = {"": template.render(record.messages, record.tools, where=record.id)}
        else:
            answers = {"chosen": record.chosen, "rejected": record.rejected} if isinstance(record, Preference) else {}
            if isinstance(record, UnpairedPreference):
                answers = {"good" if record.good else "bad": record.answer}
            parts = {
                part: render_answer(record.prompt, answer, template, record.id) for part, answer in answers.items()
            }
    for part, rendered in parts.items():
        yield View(record.id, part, pieces(tokenizer, rendered.ids, rendered.learn))


def pieces(tokenizer: Tokenizer, ids: Sequence[int], learn: Iterable[int]) -> tuple[Piece, ...]:
    """Tokens as people read them. A special token ends a text, so no character reaches across it."""
    found: list[Piece] = []
    run: list[tuple[int, bool]] = []
    for number, learned in zip(ids, map(bool, learn), strict=True):
        if number not in tokenizer.special_ids:
            run.append((number, learned))
            continue
        found += _spelt(tokenizer, run)
        run = []
        data = tokenizer.token_bytes(number)
        text = data.decode("utf-8", "replace")
        found.append(Piece(number, text, visible(text) or "⟨⟩", data, learned, True))
    return (*found, *_spelt(tokenizer, run))


def _spelt(tokenizer: Tokenizer, run: Sequence[tuple[int, bool]]) -> Iterator[Piece]:
    """The tokens of a text without special ones: each with the characters, and the bytes of others', that it holds."""
    spelling = [tokenizer.token_bytes(number) for number, _ in run]
    characters = _characters(b"".join(spelling))
    start = 0
    current = next(characters, None)
    for (number, learned), data in zip(run, spelling, strict=True):
        place, end = start, start + len(data)
        text = shown = whole = ""
        while current is not None and place < end:
            first, last, character = current
            if character and first >= start and last <= end:
                whole += character
                text += character
                place = last
            else:
                shown, whole = shown + visible(whole), ""
                completed = character if character and last <= end else ""
                part = data[place - start : min(last, end) - start]
                marks = [f"{byte:02X}" for byte in part]
                if completed:
                    text += completed
                    marks[-1] += f"={visible(completed)}"
                shown += "".join(f"⟨{mark}⟩" for mark in marks)
                place = min(last, end)
            if place == last:
                current = next(characters, None)
        yield Piece(number, text, shown + visible(whole) or "⟨⟩", data, learned, False)
        start = end


def _characters(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Where each character of UTF-8 begins and ends; a byte that belongs to none stands alone, without a character."""
    place = 0
    while place < len(data):
        lead = data[place]
        size = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        try:
            character = data[place : place + size].decode("utf-8")
        except UnicodeDecodeError:
            size, character = 1, ""
        yield place, place + size, character
        place += size


def visible(text: str) -> str:
    """A text in which white space and what has no glyph can be seen."""
    shown = []
    for place, character in enumerate(text):
        if character == " ":
            inside = 0 < place < len(text) - 1 and text[place - 1] != " " and text[place + 1] != " "
            shown.append(" " if inside else "␣")
        elif character in _WHITE:
            shown.append(_WHITE[character])
        elif character == _REPLACEMENT or unicodedata.category(character) in _HIDDEN:
            shown.append(f"⟨U+{ord(character):04X}⟩")
        elif place == 0 and unicodedata.combining(character):
            shown.append("◌" + character)
        else:
            shown.append(character)
    return "".join(shown)
