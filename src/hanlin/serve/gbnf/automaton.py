"""Position automata: the characters of a regular node, and which may come after which.

    [a-z]+ "b"     positions 0: [a-z]  1: b     first {0}     follow 0: {0, 1}  1: {}     last {1}

Source: Glushkov 1961, "The abstract theory of automata".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hanlin.serve.gbnf.syntax import Chars, Choice, Lexeme, Node, Reference, Repeat, Sequence

MAX_POSITIONS = 300


class TooManyPositionsError(ValueError):
    """The automaton is larger than `MAX_POSITIONS`."""


@dataclass(slots=True)
class Automaton:
    """The automaton of a node that refers to no rule.

    Attributes:
        chars: The set of characters at each position.
        follow: The positions that may come after each one.
        first: Positions of a first character.
        last: Positions of a last character.
    """

    chars: list[Chars] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)
    first: set[int] = field(default_factory=set)
    last: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Part:
    first: frozenset[int]
    last: frozenset[int]
    is_nullable: bool


_EMPTY = _Part(frozenset(), frozenset(), True)


def build_automaton(node: Node) -> Automaton:
    """The automaton of a node.

    Raises:
        TooManyPositionsError: It is too large.
    """
    automaton = Automaton()
    part = _add(automaton, node)
    automaton.first, automaton.last = set(part.first), set(part.last)
    return automaton


def _add(automaton: Automaton, node: Node) -> _Part:
    match node:
        case Chars():
            if len(automaton.chars) >= MAX_POSITIONS:
                raise TooManyPositionsError
            automaton.chars.append(node)
            automaton.follow.append(set())
            position = frozenset((len(automaton.chars) - 1,))
            return _Part(position, position, False)
        case Sequence(parts):
            return _join(automaton, (_add(automaton, part) for part in parts))
        case Choice(options):
            added = [_add(automaton, option) for option in options]
            first, last = (frozenset().union(*sets) for sets in zip(*((a.first, a.last) for a in added), strict=True))
            return _Part(first, last, any(a.is_nullable for a in added))
        case Repeat(inner, least, most):
            return _add_repeat(automaton, inner, least, most)
        case Lexeme(inner):
            return _add(automaton, inner)
        case Reference(name):
            raise ValueError(name)


def _join(automaton: Automaton, parts: Iterable[_Part]) -> _Part:
    whole = _EMPTY
    for part in parts:
        for position in whole.last:
            automaton.follow[position] |= part.first
        whole = _Part(
            whole.first | part.first if whole.is_nullable else whole.first,
            whole.last | part.last if part.is_nullable else part.last,
            whole.is_nullable and part.is_nullable,
        )
    return whole


def _add_repeat(automaton: Automaton, inner: Node, least: int, most: int | None) -> _Part:
    def copies() -> Iterable[_Part]:
        for index in range(max(1, least) if most is None else most):
            part = _add(automaton, inner)
            if not part.first:  # nothing to repeat but the empty text
                yield part
                return
            if most is None and index == max(1, least) - 1:  # the last copy is there any number of times
                for position in part.last:
                    automaton.follow[position] |= part.first
            yield part if index < least else _Part(part.first, part.last, True)

    return _join(automaton, copies())
