"""Special tokens in text: shielded if a user typed them, split off if the template wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any, NamedTuple

from hanlin.chat.reasoning import TEMPLATE_TAGS
from hanlin.chat.rendering.jinja import Markers
from hanlin.tokenizer.tokenizer import Tokenizer

MASK_BYTE = (b"\0", b"\1")
"""How it is written of an id whether it is learned."""


class Span(NamedTuple):
    """A span of rendered text: one special token that the template wrote, or plain text between two of them.

    `in_loss` says whether its tokens carry loss. `continuation` says that text comes before it, so that no
    SentencePiece space is added.
    """

    text: str
    token_id: int | None
    in_loss: bool
    continuation: bool
    """Whether the text goes on from text before it, so that no SentencePiece space is set."""


class _SpecialToken(NamedTuple):
    id: int | None
    lstrip: bool
    rstrip: bool


class SpecialTokens:
    """The tokens that a template treats as special: all special ones, and added ones in its own literal text.

    Nobody can type a special token. A typed one is broken by a character that occurs nowhere else:

        typed      <|eot_id|>         -> shielded  <¦|eot_id|>   -> plain text, the ids of its characters
        template   <|eot_id|>         -> one span with its token id
    """

    def __init__(self, tokenizer: Tokenizer, literal_text: str) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens
        self._tokens = sorted(content for content, token in added.items() if token.special or content in literal_text)
        self.pattern = _compile_any(self._tokens)
        self._shielded = sorted({*self._tokens, *(tag for tag in TEMPLATE_TAGS if tag in literal_text)})
        """What is broken in texts: the tokens, and the tags that the template could look for."""
        self._shielded_pattern = _compile_any(self._shielded)
        first = "".join(sorted({text[0] for text in self._shielded}))
        self._first_chars = re.compile(f"[{re.escape(first)}]" if first else "(?!)")
        """What a control token can begin with: most texts hold none of it."""
        self._cached_pattern: tuple[Markers | None, re.Pattern[str]] = (None, self.pattern)

    def may_occur_in(self, text: str) -> bool:
        """Whether a text holds a character that a special token begins with; most texts hold none."""
        return self._first_chars.search(text) is not None

    @cached_property
    def affect_neighbors(self) -> bool:
        """Whether a special token changes the plain text beside it, or the tokenizer finds it in plain text."""
        strips_space = any(special.lstrip or special.rstrip for special in self._by_content.values())
        return strips_space or self._visible_in_text is not None

    def shield(self, data: Any, markers: Markers) -> Any:
        """Break every special token in the texts of `data`, and the end of a text that could become one with what
        follows.

        Returns the same nested data with shielded texts.
        """
        if isinstance(data, str):
            if not self.may_occur_in(data):
                return data
            shielded = self._shielded_pattern.sub(lambda match: match[0][0] + markers.shield + match[0][1:], data)
            end = shielded.rstrip()
            for start in range(max(0, len(end) - self._max_length + 1), len(end)):
                if end[start:] in self._proper_prefixes:
                    return shielded[: start + 1] + markers.shield + shielded[start + 1 :]
            return shielded
        if isinstance(data, Mapping):
            return {self.shield(key, markers): self.shield(value, markers) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.shield(item, markers) for item in data]
        return data

    def split(self, text: str, markers: Markers) -> Iterator[Span]:
        """Split rendered text into special tokens and plain text, also where generated stretches begin and end."""
        is_continuation = self._tokenizer.prefix_space != "each"
        in_loss, continuation, strip = False, False, False
        pattern = self._pattern_for(markers)
        position = 0
        for match in [*pattern.finditer(text), None]:
            end = len(text) if match is None else match.start()
            plain = text[position:end]
            special = None if match is None else self._by_content.get(match[0])
            plain = plain.lstrip() if strip else plain
            plain = plain.rstrip() if special is not None and special.lstrip else plain
            if plain:
                for piece in self._split_plain(plain, markers):
                    yield Span(piece, None, in_loss, continuation)
                    continuation, strip = True, False
            if match is None:
                return
            position = match.end()
            if special is not None:
                yield Span(match[0], special.id, in_loss, False)
                continuation, strip = is_continuation, special.rstrip
            else:
                in_loss = match[0] == markers.start

    def _pattern_for(self, markers: Markers) -> re.Pattern[str]:
        """A pattern that finds special tokens and the ends of generated stretches."""
        if markers != self._cached_pattern[0]:
            self._cached_pattern = markers, re.compile(f"{markers.start}|{markers.end}|{self.pattern.pattern}")
        return self._cached_pattern[1]

    def _split_plain(self, text: str, markers: Markers) -> list[str]:
        """Plain text without the shield.

        The tokenizer would still find an added token that is not special, so the text is cut within each one that was
        typed.
        """
        bare = text.replace(markers.shield, "")
        if self._visible_in_text is None or not self._visible_in_text.search(bare):
            return [bare] if bare else []
        return [piece for piece in text.split(markers.shield) if piece]

    @cached_property
    def _by_content(self) -> dict[str, _SpecialToken]:
        added = self._tokenizer.added_tokens
        return {
            token: _SpecialToken(self._tokenizer.token_id(token), added[token].lstrip, added[token].rstrip)
            for token in self._tokens
        }

    @cached_property
    def _visible_in_text(self) -> re.Pattern[str] | None:
        """Finds the tokens that the tokenizer would recognize in plain text."""
        seen = [content for content in self._tokens if not self._tokenizer.added_tokens[content].special]
        return _compile_any(seen) if seen else None

    @cached_property
    def _proper_prefixes(self) -> frozenset[str]:
        return frozenset(text[:size] for text in self._shielded for size in range(1, len(text)))

    @cached_property
    def _max_length(self) -> int:
        return max(map(len, self._shielded), default=0)


def _compile_any(tokens: Sequence[str]) -> re.Pattern[str]:
    """A pattern that finds any of the tokens, the longest one if one is a prefix of another."""
    return re.compile(_trie_pattern(tokens) if tokens else "(?!)")


def _trie_pattern(texts: Sequence[str]) -> str:
    """A pattern of texts that shares their prefixes.

    Hundreds of reserved tokens differ only in a number and would be tried one by one. The longest match is found, since
    an ending is left out only if none matches.
    """
    size = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(min(texts), max(texts), strict=False)))
    alike = min(texts)[:size]
    ends = sorted({text[len(alike) :] for text in texts})
    branches = [_trie_pattern(list(group)) for _, group in groupby(filter(None, ends), key=lambda end: end[0])]
    if not branches:
        return re.escape(alike)
    return f"{re.escape(alike)}(?:{'|'.join(branches)}){'' if ends[0] else '?'}"
