"""What a template writes for turns of any text: the template is run on holes in place of the texts.

Owns the holes and what may be done with one unseen. Does not own the language (`template_language`).

A hole can be added to text, stripped of white space and written out. Whatever else a template does with it (compare it,
look into it, measure it, take it apart) would make what it writes depend on the text: then there is no outline, and
each conversation is rendered for itself. What is left is exact: the same steps, with other texts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, cast

import jinja2
from jinja2 import nodes

MOST_PIECES = 64
"""Pieces of a text that a template builds: so a text in use is at most so many times as long as what is said."""
FIRST_SEAT = 0x100000
SEAT = re.compile("[\U00100000-\U0010fffd]")
"""Characters that stand for texts, of a plane that nobody types: the first for the first, and so on."""


class Looked(BaseException):
    """The template did with a hole what depends on its text. Not an Exception: Jinja swallows some."""


class Hole(NamedTuple):
    """Where the text number `place` stands, after the stripping `steps` (a method of str and its argument)."""

    place: int
    steps: tuple[tuple[str, str | None], ...] = ()

    def filled(self, texts: Sequence[str]) -> str:
        text = texts[self.place]
        for name, characters in self.steps:
            text = getattr(text, name)(characters)
        return text


Piece = str | Hole


class Unseen:
    """Text of which only the pieces are known."""

    def __init__(self, *pieces: Piece) -> None:
        if len(pieces) > MOST_PIECES:
            raise Looked
        self.pieces = pieces

    def __add__(self, other: Any) -> Unseen:
        return Unseen(*self.pieces, *_pieces(other))

    def __radd__(self, other: Any) -> Unseen:
        return Unseen(*_pieces(other), *self.pieces)

    def strip(self, characters: str | None = None) -> Unseen:
        return self._stripped("strip", characters)

    def lstrip(self, characters: str | None = None) -> Unseen:
        return self._stripped("lstrip", characters)

    def rstrip(self, characters: str | None = None) -> Unseen:
        return self._stripped("rstrip", characters)

    def _stripped(self, name: str, characters: str | None) -> Unseen:
        (hole, *others) = self.pieces
        if others or isinstance(hole, str) or not (characters is None or type(characters) is str):
            raise Looked
        return Unseen(Hole(hole.place, (*hole.steps, (name, characters))))

    def _look(self, *_: Any) -> NoReturn:
        raise Looked

    __getattr__ = __str__ = __repr__ = __format__ = __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = _look
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _look
    __int__ = __float__ = __index__ = __call__ = __reversed__ = __reduce_ex__ = _look


_TOLD_OF_TEXT = {"string": True, "sequence": True, "iterable": True, "defined": True}
_TOLD_OF_TEXT |= dict.fromkeys(("undefined", "none", "mapping", "number", "integer", "float", "boolean"), False)
"""What tests say of every text."""


def _pieces(value: Any) -> tuple[Piece, ...]:
    if isinstance(value, Unseen):
        return value.pieces
    if isinstance(value, str):
        return (str(value),)
    raise Looked


def _known(value: Any) -> bool:
    return isinstance(value, str | Unseen)


def _guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes no hole; `trim` does."""

    @functools.wraps(call)
    def guard(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(value, Unseen) for value in (*args, *kwargs.values())):
            return call(*args, **kwargs)
        if name != "trim" or kwargs or not isinstance(args[0], Unseen):
            raise Looked
        return args[0].strip(*args[1:])

    return guard


def _told(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A test that says of a hole what it says of every text, or nothing."""

    @functools.wraps(call)
    def test(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(value, Unseen) for value in (*args, *kwargs.values())):
            return call(*args, **kwargs)
        if name not in _TOLD_OF_TEXT or len(args) > 1:
            raise Looked
        return _TOLD_OF_TEXT[name]

    return test


def _only_writes(tree: nodes.Template) -> bool:
    """Whether all that a template writes goes straight into its text: nothing that is written is caught in between,
    but for what stands in `{% generation %}`."""
    if any(tree.find_all((nodes.Macro, nodes.FilterBlock, nodes.AssignBlock, nodes.Block))):
        return False
    return all(isinstance(block.call.node, nodes.ExtensionAttribute) for block in tree.find_all(nodes.CallBlock))


class Outliner:
    """A template of which outlines can be made."""

    def __init__(self, environment: jinja2.Environment, source: str) -> None:
        """The environment is changed for holes: it is to be one of its own."""
        self._taken: list[Unseen] = []
        concat = cast(Callable[..., str], environment.globals["hanlin_concat"])
        binop = environment.call_binop  # type: ignore[attr-defined]

        def joined(*parts: Any) -> Any:
            if not any(isinstance(part, Unseen) for part in parts):
                return concat(*parts)
            return Unseen(*(piece for part in parts for piece in _pieces(part if _known(part) else str(part))))

        def operated(context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator != "+" and (isinstance(left, Unseen) or isinstance(right, Unseen)):
                raise Looked
            return binop(context, operator, left, right)

        environment.finalize = self._seated
        environment.filters = {name: _guarded(name, call) for name, call in environment.filters.items()}
        environment.tests = {
            name: _told(name, cast(Callable[..., bool], call)) for name, call in environment.tests.items()
        }
        environment.globals["hanlin_concat"] = joined
        environment.call_binop = operated  # type: ignore[attr-defined]
        self._template = environment.from_string(source) if _only_writes(environment.parse(source)) else None

    def of(self, variables: Mapping[str, Any]) -> tuple[Piece, ...] | None:
        """The pieces of what the template writes where some texts of its variables are `Unseen`; None where that
        depends on these texts."""
        if self._template is None:
            return None
        self._taken.clear()
        try:
            return self._pieces_of(self._template.render(**variables))
        except (Looked, Exception):  # what goes wrong with holes is told with texts
            return None

    def _seated(self, value: Any) -> Any:
        """What is written of a value: of an unseen text, one character that stands for it until all is written."""
        if not isinstance(value, Unseen):
            return value
        if len(self._taken) == MOST_PIECES:
            raise Looked
        self._taken.append(value)
        return chr(FIRST_SEAT + len(self._taken) - 1)

    def _pieces_of(self, text: str) -> tuple[Piece, ...]:
        if [ord(seat) - FIRST_SEAT for seat in SEAT.findall(text)] != list(range(len(self._taken))):
            raise Looked  # the template wrote such a character itself
        found: list[Piece] = []
        for place, literal in enumerate(SEAT.split(text)):
            found += [*(self._taken[place - 1].pieces if place else ()), *([literal] if literal else [])]
        if len(found) > MOST_PIECES:
            raise Looked
        return tuple(found)


def filled(pieces: Sequence[Piece], texts: Sequence[str]) -> str:
    """What the template writes when `texts` are what is said."""
    return "".join([piece if isinstance(piece, str) else piece.filled(texts) for piece in pieces])


def begins(whole: Sequence[Piece], start: Sequence[Piece]) -> bool:
    """Whether, whatever is said, the text of `start` begins that of `whole`."""
    one, other = _merged(whole), _merged(start)
    if len(other) > len(one):
        return False
    *same, last = other or ("",)
    if one[: len(same)] != same:
        return False
    end = one[len(same)] if len(same) < len(one) else ""
    return end == last or (isinstance(end, str) and isinstance(last, str) and end.startswith(last))


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        if found and isinstance(piece, str) and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found
