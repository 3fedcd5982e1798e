r"""Reads GBNF: rules over sets of characters.

    root ::= "[" (item ("," item)*)? "]"
    item ::= [0-9]{1,3} | "\u7a7a"              # comments run to the end of the line

Source: `grammars/README.md` and `src/llama-grammar.cpp` of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hanlin.core.i18n import tr

ROOT = "root"
_LAST_CHARACTER = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_NAME = re.compile(r"[\w-]+")
_COUNT = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d+)?\s*)?\}")
_DEFINITION = re.compile(r"[ \t]*[\w-]+[ \t]*::=")
_ESCAPE = re.compile(r'\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([tnr"\\\[\]]))')
_PLAIN_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}
_BLANK, _BLANK_OR_NEWLINE = re.compile(r"(?:[ \t]|#[^\r\n]*)*"), re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NEXT_OPTION = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*(?=\|)")
_MAX_DEPTH = 100
MAX_REPEATS = 2000
"""The greatest number of repetitions; llama.cpp has the same bound."""


class GbnfError(ValueError):
    """Not GBNF. The message is for the client."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a set: sorted ranges of code points, apart from each other, both ends included."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One node after another; without any, the empty text."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some nodes."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A node `least` to `most` times; None: any number."""

    node: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Reference:
    """Another rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A node that refers to no rule, read as one unit (`lexemes`)."""

    node: Node


Node = Chars | Sequence | Choice | Repeat | Reference | Lexeme


def is_gbnf(grammar: str) -> bool:
    """Whether a grammar is GBNF and not Lark, which has no `::=`."""
    return any(_DEFINITION.match(line) for line in grammar.splitlines())


def parse(grammar: str) -> dict[str, Node]:
    """The rules of a grammar by name.

    Raises:
        GbnfError: It is malformed, a rule is missing or there twice, or there is no `root`.
    """
    rules = _Parser(grammar).parse()
    if ROOT not in rules:
        raise GbnfError(tr("the grammar has no rule `{name}`", name=ROOT))
    for node in rules.values():
        for name in references(node):
            if name not in rules:
                raise GbnfError(tr("the grammar has no rule `{name}`", name=name))
    return rules


def references(node: Node) -> Iterator[str]:
    """The names of the rules that a node refers to."""
    if isinstance(node, Reference):
        yield node.name
    for part in children(node):
        yield from references(part)


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node."""
    match node:
        case Sequence(parts):
            return parts
        case Choice(options):
            return options
        case Repeat(inner):
            return (inner,)
    return ()


def merge_ranges(ranges: list[tuple[int, int]], is_negated: bool = False) -> Chars:
    """The set of characters in any of some ranges, or in none of them. Surrogates are no characters of a text."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted([*ranges, _SURROGATES] if is_negated else ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        elif low <= high:
            merged.append((low, high))
    if not is_negated:
        return Chars(tuple(merged))
    edges = [-1, *(edge for pair in merged for edge in pair), _LAST_CHARACTER + 1]
    gaps = ((before + 1, after - 1) for before, after in zip(edges[::2], edges[1::2], strict=True))
    return Chars(tuple((low, high) for low, high in gaps if low <= high))


ANY = merge_ranges([], is_negated=True)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text, self._index = text, 0

    def parse(self) -> dict[str, Node]:
        rules: dict[str, Node] = {}
        self._skip(_BLANK_OR_NEWLINE)
        while self._index < len(self._text):
            name = self._take(_NAME)
            if name is None:
                raise self._error(tr("a rule begins with its name"))
            self._skip(_BLANK)
            if not self._take_text("::="):
                raise self._error(tr("`::=` comes after the name of a rule"))
            if name in rules:
                raise self._error(tr("the rule `{name}` is there twice", name=name))
            self._skip(_BLANK_OR_NEWLINE)
            rules[name] = self._parse_choice(0)
            self._skip(_BLANK)
            if self._index < len(self._text) and self._text[self._index] not in "\r\n":
                raise self._error(tr("the rule does not end here"))
            self._skip(_BLANK_OR_NEWLINE)
        return rules

    def _parse_choice(self, depth: int) -> Node:
        """Options; in parentheses (from depth 1 on) they may go over several lines."""
        if depth > _MAX_DEPTH:
            raise self._error(tr("the grammar is nested too deep"))
        options = [self._parse_sequence(depth)]
        self._take(_NEXT_OPTION)
        while self._take_text("|"):
            self._skip(_BLANK_OR_NEWLINE)
            options.append(self._parse_sequence(depth))
            self._take(_NEXT_OPTION)
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _parse_sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        blank = _BLANK_OR_NEWLINE if depth else _BLANK
        while (part := self._parse_item(depth)) is not None:
            self._skip(blank)
            parts.append(self._parse_repetition(part))
            self._skip(blank)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _parse_item(self, depth: int) -> Node | None:
        if self._take_text('"'):
            return self._parse_literal()
        if self._take_text("["):
            return self._parse_class()
        if self._take_text("."):
            return ANY
        if self._take_text("("):
            self._skip(_BLANK_OR_NEWLINE)
            inner = self._parse_choice(depth + 1)
            self._skip(_BLANK_OR_NEWLINE)
            if not self._take_text(")"):
                raise self._error(tr("`{char}` is missing", char=")"))
            return inner
        if self._text.startswith(("<", "!<"), self._index):
            raise self._error(tr("single tokens (`<...>`) are not supported in a grammar"))
        name = self._take(_NAME)
        return None if name is None else Reference(name)

    def _parse_repetition(self, node: Node) -> Node:
        for char, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._take_text(char):
                return Repeat(node, least, most)
        if not self._text.startswith("{", self._index):
            return node
        match = _COUNT.match(self._text, self._index)
        if match is None:
            raise self._error(tr("a count is written {forms}", forms="{2} {2,} {2,5}"))
        least = int(match[1])
        most = None if match[2] and not match[3] else int(match[3] or match[1])
        if max(least, most or 0) > MAX_REPEATS or (most is not None and most < least):
            raise self._error(tr("a count is at most {most}, and its first number is the lower one", most=MAX_REPEATS))
        self._index = match.end()
        return Repeat(node, least, most)

    def _parse_literal(self) -> Node:
        chars: list[Node] = []
        while not self._take_text('"'):
            code = self._parse_char('"')
            chars.append(Chars(((code, code),)))
        return chars[0] if len(chars) == 1 else Sequence(tuple(chars))

    def _parse_class(self) -> Node:
        is_negated = self._take_text("^")
        ranges: list[tuple[int, int]] = []
        while not self._take_text("]"):
            low = high = self._parse_char("]")
            if self._text.startswith("-", self._index) and not self._text.startswith("-]", self._index):
                self._index += 1
                high = self._parse_char("]")
            if high < low:
                raise self._error(tr("a range of characters begins with the lower one"))
            ranges.append((low, high))
        chars = merge_ranges(ranges, is_negated)
        if not chars.ranges:
            raise self._error(tr("the set of characters is empty"))
        return chars

    def _parse_char(self, end: str) -> int:
        if self._index >= len(self._text):
            raise self._error(tr("`{char}` is missing", char=end))
        char = self._text[self._index]
        if char != "\\":
            self._index += 1
            return ord(char)
        match = _ESCAPE.match(self._text, self._index)
        if match is None:
            raise self._error(tr("{escape} is no escape of GBNF", escape=self._text[self._index : self._index + 2]))
        digits = match[1] or match[2] or match[3]
        code = int(digits, 16) if digits else ord(_PLAIN_ESCAPES.get(match[4], match[4]))
        if code > _LAST_CHARACTER or _SURROGATES[0] <= code <= _SURROGATES[1]:
            raise self._error(tr("{escape} is no character", escape=match[0]))
        self._index = match.end()
        return code

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._index)
        if match is None:
            return None
        self._index = match.end()
        return match[0]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        self._take(pattern)

    def _take_text(self, text: str) -> bool:
        is_there = self._text.startswith(text, self._index)
        self._index += len(text) if is_there else 0
        return is_there

    def _error(self, what: str) -> GbnfError:
        line = self._text.count("\n", 0, self._index) + 1
        return GbnfError(tr("line {line} of the grammar: {what}", line=line, what=what))
