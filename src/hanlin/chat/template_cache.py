"""What a chat template makes of turns whatever is said in them: its text by their roles, and the ids around the texts.

Owns what is kept for a sequence of roles, and the proof that it holds for any text. Does not own what the template
writes (`outline`), where special tokens lie (`controls`), or what must be true of a conversation (`chat_template`).

Conversations differ in their texts and seldom in their roles, so a template is run, cut at its special tokens and
proven to be learnable once for each sequence of roles; then texts are put in. Where what is said could matter for more
than the place that it stands in, nothing is told here and the conversation goes the whole way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from hanlin.chat.jinja import FIRST_MARKS, MAX_CHARACTERS, Template, is_unmarked
from hanlin.chat.special_tokens import LEARNT, Controls, Part
from hanlin.chat.symbolic import FIRST_SEAT, MOST_PIECES, SEAT, Hole, Piece, Unseen, begins, filled
from hanlin.core.errors import UserError
from hanlin.core.records import Message, Role
from hanlin.tokenizer.tokenizer import Tokenizer

MOST_KEPT = 1_000
"""Sequences of roles of which something is kept."""


class _Fixed(NamedTuple):
    """Ids that are the same in every conversation of these roles, and which are learned."""

    ids: tuple[int, ...]
    learn: bytes


class _Open(NamedTuple):
    """Plain text that holds something said."""

    pieces: tuple[Piece, ...]
    learn: bytes
    """Whether it is learned, of one id."""
    inside: bool


_Form = tuple[_Fixed | _Open, ...]


class Forms:
    """The texts and ids of one template. `variables` gives what the template reads beside turns and tools; `parts` cuts
    what it writes for a conversation, and raises UserError where that cannot be learned from."""

    def __init__(
        self,
        template: Template,
        controls: Controls,
        tokenizer: Tokenizer,
        variables: Callable[[Any, Any, bool], dict[str, Any]],
        parts: Callable[[Sequence[Message]], list[Part]],
    ) -> None:
        self._template, self._controls, self._tokenizer = template, controls, tokenizer
        self._variables, self._parts = variables, parts
        self._outlines: dict[tuple[tuple[str, ...], bool], tuple[Piece, ...] | None] = {}
        self._forms: dict[tuple[str, ...], _Form | None] = {}
        self._holds = is_unmarked(template.source)

    def text(self, messages: Sequence[Message], prompt: bool) -> str | None:
        """The template's text, typed special tokens shielded by the first marks; None where that is not known, or
        where these marks are not free."""
        said = []
        for message in messages:
            if message.tool_calls or message.name or not is_unmarked(message.text):
                return None
            said.append(self._controls.shielded(message.text, FIRST_MARKS))
        if sum(map(len, said)) * MOST_PIECES > MAX_CHARACTERS:
            return None
        pieces = self._outline(tuple([message.role for message in messages]), prompt)
        return None if pieces is None else filled(pieces, said)

    def ids(self, messages: Sequence[Message]) -> tuple[list[int], bytes] | None:
        """The ids of a conversation in its order, and which are learned; None where that is not known."""
        said = []
        for message in messages:
            text = message.text
            if message.tool_calls or message.name or not is_unmarked(text) or self._controls.may_begin_in(text):
                return None
            said.append(text)
        if sum(map(len, said)) * MOST_PIECES > MAX_CHARACTERS:
            return None
        form = self._form(tuple([message.role for message in messages]))
        if form is None:
            return None
        ids: list[int] = []
        learn = bytearray()
        for part in form:
            if isinstance(part, _Fixed):
                ids += part.ids
                learn += part.learn
                continue
            text = filled(part.pieces, said)
            if not text:  # then what stands around it is cut otherwise
                return None
            found = self._tokenizer.encode(text, inside=part.inside)
            ids += found
            learn += part.learn * len(found)
        return ids, bytes(learn)

    def _outline(self, roles: tuple[str, ...], prompt: bool) -> tuple[Piece, ...] | None:
        if (roles, prompt) not in self._outlines:
            if len(self._outlines) >= MOST_KEPT:
                self._outlines.clear()
            self._outlines[roles, prompt] = self._made_outline(roles, prompt) if self._holds else None
        return self._outlines[roles, prompt]

    def _made_outline(self, roles: tuple[str, ...], prompt: bool) -> tuple[Piece, ...] | None:
        turns = [{"role": role, "content": Unseen(Hole(place))} for place, role in enumerate(roles)]
        variables = self._variables(self._controls.shielded(turns, FIRST_MARKS), None, prompt)
        return self._template.outline(FIRST_MARKS, variables)

    def _form(self, roles: tuple[str, ...]) -> _Form | None:
        if roles not in self._forms:
            if len(self._forms) >= MOST_KEPT:
                self._forms.clear()
            self._forms[roles] = self._made_form(roles)
        return self._forms[roles]

    def _made_form(self, roles: tuple[str, ...]) -> _Form | None:
        whole = None if self._controls.reach_out else self._outline(roles, False)
        if whole is None or not self._goes_on_in_turns(roles, whole):
            return None
        try:  # a character that nobody types stands for each text
            seats = [chr(FIRST_SEAT + place) for place in range(len(roles))]
            parts = self._parts([Message(cast(Role, role), seat) for role, seat in zip(roles, seats, strict=True)])
        except UserError:  # told when the conversation itself goes the whole way
            return None
        holes = [piece for piece in whole if isinstance(piece, Hole)]
        form: list[_Fixed | _Open] = []
        for part in parts:
            literals, seats = SEAT.split(part.text), SEAT.findall(part.text)
            if not seats:
                known = self._tokenizer.encode(part.text, inside=part.inside) if part.token_id is None else []
                ids = tuple(known) if part.token_id is None else (part.token_id,)
                form.append(_Fixed(ids, LEARNT[part.learned] * len(ids)))
                continue
            pieces: list[Piece] = [literals[0]]
            for seat, literal in zip(seats, literals[1:], strict=True):
                if not holes or holes[0].place != ord(seat) - FIRST_SEAT:
                    return None
                pieces += [holes.pop(0), literal]
            form.append(_Open(tuple(piece for piece in pieces if piece), LEARNT[part.learned], part.inside))
        return None if holes else tuple(form)

    def _goes_on_in_turns(self, roles: tuple[str, ...], whole: tuple[Piece, ...]) -> bool:
        """Whether, whatever is said, the prompt for each answer and the turns up to it begin the whole text."""
        for place, role in enumerate(roles):
            if role != "assistant":
                continue
            before, after = self._outline(roles[:place], True), self._outline(roles[: place + 1], False)
            if before is None or after is None or not (begins(whole, after) and begins(after, before)):
                return False
        return True
