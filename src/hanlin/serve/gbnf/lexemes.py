r"""Cuts the rules of a grammar into lexemes that can be read in one way only.

llguidance reads a text lexeme by lexeme, each as long as it can be: `list "b"` whose `list` may end with `[a-z]+` would
never end, since the lexeme `[a-z]+` takes the `b` too. A grammar of llama.cpp means every way to read a text. So where
one lexeme goes on with a character that may also come after another one that ends there, it is cut into its parts, in
the end into single characters, of which none goes on:

    root ::= list "b"                        start: r1 /b/
    list ::= "(" list ")" | [a-z]+           r1: /\(/ r1 /\)/ | /[a-z]/+         in place of /[a-z]+/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hanlin.serve.gbnf.automaton import Automaton, TooManyPositionsError, build_automaton
from hanlin.serve.gbnf.syntax import (
    ROOT,
    Chars,
    Choice,
    Lexeme,
    Node,
    Reference,
    Repeat,
    Sequence,
    children,
    merge_ranges,
)

_MAX_INLINED_NODES = 2000
"""Nodes of a rule that is put in place of the references to it."""
_MAX_PAIRS = 60_000
"""Pairs of positions that are compared; beyond them every lexeme is cut into characters, which needs no comparing."""


def cut_into_lexemes(rules: Mapping[str, Node]) -> dict[str, Node]:
    """The rules that `root` needs, without references to rules that are regular, in lexemes.

    Args:
        rules: All rules; each that is referred to is there.

    Returns:
        The rules, the first of them `root`; every leaf is a `Lexeme` or a `Reference`.
    """
    inlined = _Inliner(rules)
    needed: dict[str, Node] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            node = inlined.regular(name) or inlined.expand(rules[name])[0]
            needed[name] = _gather(node)
            waiting += _references(node)
    known = _Known(budget=_MAX_PAIRS)
    while needed.keys() != {ROOT} or not isinstance(needed[ROOT], Lexeme):  # a single lexeme has none beside it
        ambiguous = _Comparison(needed, known).find_ambiguous()
        if known.budget <= 0:
            return {name: _cut_to_characters(node) for name, node in needed.items()}
        if not ambiguous:
            break
        needed = {name: _cut(node, ambiguous) for name, node in needed.items()}
    return needed


class _Inliner:
    """Puts rules that are regular, and not large, in place of the references to them."""

    def __init__(self, rules: Mapping[str, Node]) -> None:
        self._rules = rules
        self._regular: dict[str, tuple[Node, int] | None] = {}

    def regular(self, name: str) -> Node | None:
        """The node of a rule, if it can be written without references."""
        found = self._look_up(name)
        return None if found is None else found[0]

    def _look_up(self, name: str) -> tuple[Node, int] | None:
        if name not in self._regular:
            self._regular[name] = None  # so it is within itself
            node, size = self.expand(self._rules[name])
            if size <= _MAX_INLINED_NODES and not _refers(node):
                self._regular[name] = (node, size)
        return self._regular[name]

    def expand(self, node: Node) -> tuple[Node, int]:
        """A node with rules in place of references, and its size in nodes."""
        match node:
            case Reference(name):
                return self._look_up(name) or (node, 1)
            case Sequence(parts):
                expanded = [self.expand(part) for part in parts]
                return Sequence(tuple(part for part, _ in expanded)), 1 + sum(size for _, size in expanded)
            case Choice(options):
                expanded = [self.expand(option) for option in options]
                return Choice(tuple(option for option, _ in expanded)), 1 + sum(size for _, size in expanded)
            case Repeat(inner, least, most):
                inner, size = self.expand(inner)
                return Repeat(inner, least, most), 1 + size
        return node, 1


def _refers(node: Node) -> bool:
    return isinstance(node, Reference) or any(_refers(part) for part in children(node))


def _references(node: Node) -> Iterator[str]:
    if isinstance(node, Reference):
        yield node.name
    for part in children(node):
        yield from _references(part)


def _gather(node: Node) -> Node:
    """The node with the largest lexemes: neighbors in a sequence, and options of a choice, are joined."""
    if not _refers(node):
        return Lexeme(node)
    match node:
        case Sequence(parts):
            gathered: list[Node] = []
            for part in map(_gather, parts):
                last = gathered[-1] if gathered else None
                if isinstance(part, Lexeme) and isinstance(last, Lexeme):
                    gathered[-1] = Lexeme(Sequence((last.node, part.node)))
                else:
                    gathered.append(part)
            return Sequence(tuple(gathered))
        case Choice(options):
            regular = tuple(option for option in options if not _refers(option))
            others = tuple(_gather(option) for option in options if _refers(option))
            return Choice((Lexeme(Choice(regular)), *others)) if regular else Choice(others)
        case Repeat(inner, least, most):
            return Repeat(_gather(inner), least, most)
    return node


def _cut(node: Node, lexemes: frozenset[int]) -> Node:
    """The node with some lexemes, told by their `id`, cut once."""
    match node:
        case Lexeme(inner) if id(node) in lexemes:
            match inner:
                case Sequence(parts):
                    return Sequence(tuple(Lexeme(part) for part in parts))
                case Choice(options):
                    return Choice(tuple(Lexeme(option) for option in options))
                case Repeat(repeated, least, most):
                    return Repeat(Lexeme(repeated), least, most)
        case Sequence(parts):
            return Sequence(tuple(_cut(part, lexemes) for part in parts))
        case Choice(options):
            return Choice(tuple(_cut(option, lexemes) for option in options))
        case Repeat(inner, least, most):
            return Repeat(_cut(inner, lexemes), least, most)
    return node


def _cut_to_characters(node: Node) -> Node:
    match node:
        case Lexeme(inner):
            return _cut_to_characters(inner)
        case Chars():
            return Lexeme(node)
        case Sequence(parts):
            return Sequence(tuple(map(_cut_to_characters, parts)))
        case Choice(options):
            return Choice(tuple(map(_cut_to_characters, options)))
        case Repeat(inner, least, most):
            return Repeat(_cut_to_characters(inner), least, most)
    return node


@dataclass(slots=True)
class _Reach:
    """What is known of a node. Sets of lexemes are bits of a number."""

    first: int = 0
    is_nullable: bool = False


@dataclass(slots=True)
class _Known:
    """What stays known while lexemes are cut: most of them stay as they are.

    Attributes:
        budget: How many pairs of positions may still be compared.
        lexemes: The lexemes by `id`, which no other then gets.
        automata: The automaton of each; None if it is too large.
        continued: The characters with which each may go on.
        verdicts: By two lexemes and what may come after the first, whether the second goes on with it.
        overlaps: Whether two sets of characters have one in common.
    """

    budget: int
    lexemes: dict[int, Lexeme] = field(default_factory=dict)
    automata: dict[int, Automaton | None] = field(default_factory=dict)
    continued: dict[int, Chars] = field(default_factory=dict)
    verdicts: dict[tuple[int, int, Chars], bool] = field(default_factory=dict)
    overlaps: dict[tuple[Chars, Chars], bool] = field(default_factory=dict)


class _Comparison:
    """Compares the lexemes of some rules.

    Args:
        rules: The rules.
        known: What is known from comparisons before; added to.
    """

    def __init__(self, rules: Mapping[str, Node], known: _Known) -> None:
        self._rules, self._known = rules, known
        self._lexemes: dict[int, int] = {}
        self._automata: list[Automaton | None] = []
        self._ids: list[int] = []
        self._is_nullable: list[bool] = []
        for node in rules.values():
            self._number(node)
        self._reach = {name: _Reach() for name in rules}
        self._follow = [0] * len(self._ids)
        self._follow_rule = dict.fromkeys(rules, 0)

    def find_ambiguous(self) -> frozenset[int]:
        """The lexemes, by `id`, that may go on with a character which could be that after another lexeme."""
        self._find_firsts()
        self._find_follows()
        ambiguous = {index for index, automaton in enumerate(self._automata) if automaton is None}  # too large: cut
        firsts = [self._first_chars(automaton) for automaton in self._automata]
        for index, automaton in enumerate(self._automata):
            if automaton is None:
                continue
            ranges = [pair for other in _bits(self._follow[index]) for pair in firsts[other]]
            after = merge_ranges(ranges)
            if not ranges:
                continue
            for other, longer in enumerate(self._automata):
                if longer is not None and other not in ambiguous and self._goes_on(index, other, after):
                    ambiguous.add(other)
                if self._known.budget <= 0:
                    return frozenset()
        return frozenset(self._ids[index] for index in ambiguous)

    def _number(self, node: Node) -> None:
        if isinstance(node, Lexeme) and id(node) not in self._lexemes:
            self._lexemes[id(node)] = len(self._ids)
            self._ids.append(id(node))
            self._is_nullable.append(_is_nullable(node.node))
            self._automata.append(self._automaton_of(node))
        for part in children(node):
            self._number(part)

    def _automaton_of(self, lexeme: Lexeme) -> Automaton | None:
        known, key = self._known, id(lexeme)
        if key not in known.automata:
            known.lexemes[key] = lexeme
            try:
                automaton = known.automata[key] = build_automaton(lexeme.node)
            except TooManyPositionsError:
                known.automata[key] = None
                return None
            positions = {position for following in automaton.follow for position in following}
            known.continued[key] = merge_ranges([pair for at in positions for pair in automaton.chars[at].ranges])
        return known.automata[key]

    def _first_chars(self, automaton: Automaton | None) -> list[tuple[int, int]]:
        if automaton is None:
            return []  # it is cut in any case, and all are compared again
        return [pair for position in automaton.first for pair in automaton.chars[position].ranges]

    def _find_firsts(self) -> None:
        is_changed = True
        while is_changed:
            is_changed = False
            for name, node in self._rules.items():
                reach = self._reach_of(node)
                is_changed |= reach != self._reach[name]
                self._reach[name] = reach

    def _reach_of(self, node: Node) -> _Reach:
        match node:
            case Lexeme():
                index = self._lexemes[id(node)]
                return _Reach(1 << index, self._is_nullable[index])
            case Reference(name):
                return self._reach[name]
            case Sequence(parts):
                whole = _Reach(0, True)
                for part in parts:
                    reach = self._reach_of(part)
                    whole = _Reach(whole.first | reach.first, reach.is_nullable)
                    if not reach.is_nullable:
                        break
                return whole
            case Choice(options):
                reaches = [self._reach_of(option) for option in options]
                first = 0
                for reach in reaches:
                    first |= reach.first
                return _Reach(first, any(reach.is_nullable for reach in reaches))
            case Repeat(inner, least, _):
                reach = self._reach_of(inner)
                return _Reach(reach.first, reach.is_nullable or not least)
        return _Reach()

    def _find_follows(self) -> None:
        before = -1
        while before != (before := sum(value.bit_count() for value in (*self._follow, *self._follow_rule.values()))):
            for name, node in self._rules.items():
                self._spread(node, self._follow_rule[name])

    def _spread(self, node: Node, after: int) -> None:
        """Note that lexemes of the set `after` may come after a node."""
        match node:
            case Lexeme():
                self._follow[self._lexemes[id(node)]] |= after
            case Reference(name):
                self._follow_rule[name] |= after
            case Sequence(parts):
                for part in reversed(parts):
                    self._spread(part, after)
                    reach = self._reach_of(part)
                    after = reach.first | (after if reach.is_nullable else 0)
            case Choice(options):
                for option in options:
                    self._spread(option, after)
            case Repeat(inner, _, most):
                again = self._reach_of(inner).first if most is None or most > 1 else 0
                self._spread(inner, after | again)

    def _goes_on(self, index: int, other: int, after: Chars) -> bool:
        """Whether some text is all of one lexeme and the beginning of another, which goes on with one of `after`."""
        key = (self._ids[index], self._ids[other], after)
        verdict = self._known.verdicts.get(key)
        if verdict is None:
            lexeme, longer = self._automata[index], self._automata[other]
            may_go_on = (
                lexeme is not None and longer is not None and self._overlap(self._known.continued[key[1]], after)
            )
            verdict = may_go_on and self._compare(lexeme, longer, after)  # type: ignore[arg-type]
            self._known.verdicts[key] = verdict
        return verdict

    def _compare(self, lexeme: Automaton, longer: Automaton, after: Chars) -> bool:
        waiting = [(one, two) for one in lexeme.first for two in longer.first]
        seen = set(waiting)
        while waiting and self._known.budget > 0:
            one, two = waiting.pop()
            self._known.budget -= 1
            if not self._overlap(lexeme.chars[one], longer.chars[two]):
                continue
            following = longer.follow[two]
            if one in lexeme.last and any(self._overlap(longer.chars[position], after) for position in following):
                return True
            for pair in ((one_next, two_next) for one_next in lexeme.follow[one] for two_next in following):
                if pair not in seen:
                    seen.add(pair)
                    waiting.append(pair)
        return False

    def _overlap(self, first: Chars, second: Chars) -> bool:
        known = self._known.overlaps.get((first, second))
        if known is None:
            known = any(low <= end and start <= high for low, high in first.ranges for start, end in second.ranges)
            self._known.overlaps[first, second] = known
        return known


def _is_nullable(node: Node) -> bool:
    match node:
        case Sequence(parts):
            return all(map(_is_nullable, parts))
        case Choice(options):
            return any(map(_is_nullable, options))
        case Repeat(inner, least, _):
            return not least or _is_nullable(inner)
    return False


def _bits(value: int) -> Iterator[int]:
    while value:
        yield (value & -value).bit_length() - 1
        value &= value - 1
