"""Token ids and the loss mask made readable: each token's text, white space shown, partial characters as bytes.

The terminal, the report and the HTML page show what this module returns.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.chat.examples import render_documents, training_turns
from hanlin.chat.reasoning import spells_tags
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference
from hanlin.tokenizer.tokenizer import Tokenizer

_WHITE = {"\n": "⏎", "\t": "⇥", "\u3000": "□"}
_HIDDEN = ("Cc", "Cf", "Co", "Cn", "Zl", "Zp", "Zs")
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class TokenView:
    """One token, ready to be shown.

    `text` holds the characters that this token completes, `data` all of its bytes. `shown` is the printable form:
    `⏎ ⇥ □` for line end, tab and full-width space; `␣` for a leading, trailing or repeated space; `⟨U+200B⟩` for a
    character without a glyph; `⟨E4⟩` for a byte of a character that continues in another token, and `⟨A0=你⟩` for the
    byte that completes a character. `learned` says that the token carries loss.
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
class ExampleView:
    """A training example, token by token.

    `part` is `chosen` or `rejected` for a preference pair, `good` or `bad` for an unpaired preference, else empty.
    """

    record: str
    part: str
    tokens: tuple[TokenView, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_learned(self) -> int:
        return sum(token.learned for token in self.tokens)

    @property
    def characters_per_token(self) -> float:
        """Characters per token, special tokens (added by the template or by training) left out."""
        plain = [token for token in self.tokens if not token.special]
        return sum(len(token.text) for token in plain) / len(plain) if plain else 0.0

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"record": self.record}
        if self.part:
            row["part"] = self.part
        return {**row, "tokens": [token.to_json() for token in self.tokens]}


def view_record(
    record: Document | Conversation | Preference | UnpairedPreference,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
) -> Iterator[ExampleView]:
    """Yield the training examples of a record: two for a preference pair, several for a conversation whose earlier
    turns the template rewrites, else one.

    Args:
        record: The record to render.
        tokenizer: The tokenizer of the model to train.
        template: The chat template; not needed for documents.

    Raises:
        UserError: If `ChatTemplate.render` refuses the record; the message names the record's id.
    """
    parts: list[tuple[str, TokenizedExample]]
    if isinstance(record, Document):
        (rendered,) = render_documents([record.text], tokenizer)
        parts = [("", rendered)]
    else:
        assert template is not None
        parts = [
            (part, example)
            for part, turns in training_turns(record)
            for example in template.render_examples(turns, record.tools, record.id)
        ]
        if not parts:
            raise UserError(tr("no answer of it is learned"), record.id)
    for part, rendered in parts:
        yield ExampleView(record.id, part, view_tokens(tokenizer, rendered.ids, rendered.loss_mask))


def spells_thinking_tags(record: Document | Conversation | Preference | UnpairedPreference) -> bool:
    """Whether an answer of a record spells a tag of reasoning as text: it is learned as plain text."""
    if isinstance(record, Conversation):
        return any(message.role == "assistant" and spells_tags(message.text) for message in record.messages)
    if isinstance(record, Preference):
        return spells_tags(record.chosen.text) or spells_tags(record.rejected.text)
    return isinstance(record, UnpairedPreference) and spells_tags(record.answer.text)


def view_tokens(tokenizer: Tokenizer, ids: Sequence[int], mask: Iterable[int]) -> tuple[TokenView, ...]:
    """Make tokens readable. A special token ends a text, so that no character spans it.

    Args:
        tokenizer: The tokenizer that made the ids.
        ids: Token ids, [tokens].
        mask: 1 for each token that carries loss, [tokens].
    """
    views: list[TokenView] = []
    run: list[tuple[int, bool]] = []
    for token_id, learned in zip(ids, map(bool, mask), strict=True):
        if token_id not in tokenizer.special_ids:
            run.append((token_id, learned))
            continue
        views += _view_text_tokens(tokenizer, run)
        run = []
        data = tokenizer.token_bytes(token_id)
        text = data.decode("utf-8", "replace")
        views.append(TokenView(token_id, text, visible(text) or "⟨⟩", data, learned, True))
    return (*views, *_view_text_tokens(tokenizer, run))


def _view_text_tokens(tokenizer: Tokenizer, run: Sequence[tuple[int, bool]]) -> Iterator[TokenView]:
    """Views of a run of text tokens: for each the characters it completes and the bytes of characters it shares."""
    token_bytes = [tokenizer.token_bytes(token_id) for token_id, _ in run]
    characters = _characters(b"".join(token_bytes))
    start = 0
    current = next(characters, None)
    for (token_id, learned), data in zip(run, token_bytes, strict=True):
        position, end = start, start + len(data)
        text = shown = complete = ""
        while current is not None and position < end:
            first, last, character = current
            if character and first >= start and last <= end:
                complete += character
                text += character
                position = last
            else:
                shown, complete = shown + visible(complete), ""
                completed = character if character and last <= end else ""
                part = data[position - start : min(last, end) - start]
                markers = [f"{byte:02X}" for byte in part]
                if completed:
                    text += completed
                    markers[-1] += f"={visible(completed)}"
                shown += "".join(f"⟨{mark}⟩" for mark in markers)
                position = min(last, end)
            if position == last:
                current = next(characters, None)
        yield TokenView(token_id, text, shown + visible(complete) or "⟨⟩", data, learned, False)
        start = end


def _characters(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Start, end and text of each UTF-8 character; a byte that belongs to none comes alone, with an empty text."""
    position = 0
    while position < len(data):
        lead = data[position]
        size = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        try:
            character = data[position : position + size].decode("utf-8")
        except UnicodeDecodeError:
            size, character = 1, ""
        yield position, position + size, character
        position += size


def visible(text: str) -> str:
    """Replace white space and characters without a glyph by visible signs."""
    shown = []
    for position, character in enumerate(text):
        if character == " ":
            continuation = 0 < position < len(text) - 1 and text[position - 1] != " " and text[position + 1] != " "
            shown.append(" " if continuation else "␣")
        elif character in _WHITE:
            shown.append(_WHITE[character])
        elif character == _REPLACEMENT or unicodedata.category(character) in _HIDDEN:
            shown.append(f"⟨U+{ord(character):04X}⟩")
        elif position == 0 and unicodedata.combining(character):
            shown.append("◌" + character)
        else:
            shown.append(character)
    return "".join(shown)
