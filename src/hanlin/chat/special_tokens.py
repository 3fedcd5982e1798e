"""Special tokens in texts: broken where a person typed one, found where a template wrote one.

Owns what a control token is and where plain text is cut. Does not own templates (`chat_template`) or plain text
(`tokenizer`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any, NamedTuple

from hanlin.chat.jinja import Marks
from hanlin.tokenizer.tokenizer import Tokenizer

LEARNT = (b"\0", b"\1")
"""How it is written of an id whether it is learned."""


class Part(NamedTuple):
    """A stretch of rendered text: one special token that the template wrote, or plain text between two of them."""

    text: str
    token_id: int | None
    learned: bool
    inside: bool
    """Whether the text goes on from text before it, so that no SentencePiece space is set."""


class _Control(NamedTuple):
    id: int | None
    takes_space_before: bool
    takes_space_after: bool


class Controls:
    """The tokens that mean something to a template: all special ones, and added ones that stand in its own `words`."""

    def __init__(self, tokenizer: Tokenizer, words: str) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens
        self._tokens = sorted(content for content, token in added.items() if token.special or content in words)
        self.pattern = _any_of(self._tokens)
        first = "".join(sorted({token[0] for token in self._tokens}))
        self._opens = re.compile(f"[{re.escape(first)}]" if first else "(?!)")
        """What a control token can begin with: most texts hold none of it."""
        self._last_cut: tuple[Marks | None, re.Pattern[str]] = (None, self.pattern)

    def may_begin_in(self, text: str) -> bool:
        """Whether a text holds what a special token can begin with; most hold none of it."""
        return self._opens.search(text) is not None

    @cached_property
    def reach_out(self) -> bool:
        """Whether a special token changes the plain text beside it, or is seen in plain text by the tokenizer."""
        takes = any(control.takes_space_before or control.takes_space_after for control in self._known.values())
        return takes or self._seen is not None

    def shielded(self, data: Any, marks: Marks) -> Any:
        """The data with every special token in its texts broken by the shield, and so too a text's end that only its
        neighbor could complete to one."""
        if isinstance(data, str):
            if not self.may_begin_in(data):
                return data
            whole = self.pattern.sub(lambda found: found[0][0] + marks.shield + found[0][1:], data)
            end = whole.rstrip()
            for start in range(max(0, len(end) - self._longest + 1), len(end)):
                if end[start:] in self._beginnings:
                    return whole[: start + 1] + marks.shield + whole[start + 1 :]
            return whole
        if isinstance(data, Mapping):
            return {self.shielded(key, marks): self.shielded(value, marks) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.shielded(item, marks) for item in data]
        return data

    def parts(self, text: str, marks: Marks) -> Iterator[Part]:
        """Special tokens that the template wrote, and the plain text between, cut where generation begins and ends."""
        goes_on = self._tokenizer.prefix_rule != "each"
        learned, inside, strip = False, False, False
        cut = self._cut(marks)
        place = 0
        for found in [*cut.finditer(text), None]:
            end = len(text) if found is None else found.start()
            plain = text[place:end]
            control = None if found is None else self._known.get(found[0])
            plain = plain.lstrip() if strip else plain
            plain = plain.rstrip() if control is not None and control.takes_space_before else plain
            if plain:
                for piece in self._plain_pieces(plain, marks):
                    yield Part(piece, None, learned, inside)
                    inside, strip = True, False
            if found is None:
                return
            place = found.end()
            if control is not None:
                yield Part(found[0], control.id, learned, False)
                inside, strip = goes_on, control.takes_space_after
            else:
                learned = found[0] == marks.start

    def _cut(self, marks: Marks) -> re.Pattern[str]:
        """Finds control tokens and where generation begins and ends."""
        if marks != self._last_cut[0]:
            self._last_cut = marks, re.compile(f"{marks.start}|{marks.end}|{self.pattern.pattern}")
        return self._last_cut[1]

    def _plain_pieces(self, text: str, marks: Marks) -> list[str]:
        """Plain text without the shield. An added token that is no special one would still be seen by the tokenizer:
        the text is cut within each that was typed."""
        bare = text.replace(marks.shield, "")
        if self._seen is None or not self._seen.search(bare):
            return [bare] if bare else []
        return [piece for piece in text.split(marks.shield) if piece]

    @cached_property
    def _known(self) -> dict[str, _Control]:
        added = self._tokenizer.added_tokens
        return {
            token: _Control(self._tokenizer.token_id(token), added[token].lstrip, added[token].rstrip)
            for token in self._tokens
        }

    @cached_property
    def _seen(self) -> re.Pattern[str] | None:
        """The control tokens that the tokenizer would find in plain text."""
        seen = [content for content in self._tokens if not self._tokenizer.added_tokens[content].special]
        return _any_of(seen) if seen else None

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(token[:size] for token in self._tokens for size in range(1, len(token)))

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._tokens), default=0)


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the tokens, the longest where one begins another."""
    return re.compile(_with_ends(tokens) if tokens else "(?!)")


def _with_ends(texts: Sequence[str]) -> str:
    """A pattern of several texts in which what they begin with alike stands once: hundreds of reserved tokens differ in
    a number, and would be tried one by one. The longest is found, since an end is only left out where none fits."""
    size = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(texts), max(texts), strict=False)))
    alike = min(texts)[:size]
    ends = sorted({text[len(alike) :] for text in texts})
    branches = [_with_ends(list(group)) for _, group in groupby(filter(None, ends), key=lambda end: end[0])]
    if not branches:
        return re.escape(alike)
    return f"{re.escape(alike)}(?:{'|'.join(branches)}){'' if ends[0] else '?'}"
