"""A cache of what a chat template makes of each sequence of roles: its text, and the token ids around the messages.

Conversations differ in their texts and seldom in their roles. So a template is rendered symbolically, split at its
special tokens and checked for its loss mask once for each sequence of roles; afterwards only texts are filled in. If a
text could matter for more than its own place, the cache returns None and the conversation is rendered in full.

    roles ("user", "assistant") -> [_FixedTokens(<user>), _TextSlot(text 0), _FixedTokens(</user><assistant>), ...]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from hanlin.chat.rendering.answer_spans import begins_with_line_end
from hanlin.chat.rendering.jinja import DEFAULT_MARKERS, JinjaTemplate, has_no_marker_chars
from hanlin.chat.rendering.special_tokens import MASK_BYTE, Span, SpecialTokens
from hanlin.chat.rendering.symbolic import (
    FIRST_PLACEHOLDER_CODE,
    MAX_SEGMENTS,
    PLACEHOLDER_CHAR,
    Placeholder,
    Segment,
    SymbolicText,
    fill,
    is_prefix,
)
from hanlin.chat.rendering.work_budget import MAX_CHARACTERS
from hanlin.core.errors import UserError
from hanlin.core.records import Message, Role
from hanlin.tokenizer.tokenizer import Tokenizer

MAX_ENTRIES = 1_000
"""Sequences of roles of which something is kept."""


class _FixedTokens(NamedTuple):
    """Token ids that are the same in every conversation with these roles, and their loss mask."""

    ids: tuple[int, ...]
    loss_mask: bytes


class _TextSlot(NamedTuple):
    """Plain text that holds a message. `loss_mask` is that of one of its tokens."""

    segments: tuple[Segment, ...]
    loss_mask: bytes
    """Whether it is learned, of one id."""
    continuation: bool
    in_loss: bool


_TokenPlan = tuple[_FixedTokens | _TextSlot, ...]


class TemplateCache:
    """Texts and token ids of one template.

    Args:
        template: The compiled template.
        special_tokens: Finds special tokens in its output.
        tokenizer: Encodes plain text.
        variables: Returns the template's variables for (messages, tools, add_generation_prompt).
        spans: Renders a conversation and splits it; raises UserError if it cannot be trained on.
    """

    def __init__(
        self,
        template: JinjaTemplate,
        special_tokens: SpecialTokens,
        tokenizer: Tokenizer,
        variables: Callable[[Any, Any, bool], dict[str, Any]],
        spans: Callable[[Sequence[Message]], list[Span]],
    ) -> None:
        self._template, self._special_tokens, self._tokenizer = template, special_tokens, tokenizer
        self._variables, self._split = variables, spans
        self._symbolics: dict[tuple[tuple[str, ...], bool], tuple[Segment, ...] | None] = {}
        self._plans: dict[tuple[str, ...], _TokenPlan | None] = {}
        self._source_has_no_markers = has_no_marker_chars(template.source)

    def render_text(self, messages: Sequence[Message], prompt: bool) -> str | None:
        """The template's text for a conversation, typed special tokens shielded by the default markers.

        None if that is not known from the roles alone, or if these markers occur in a text.
        """
        texts = []
        if not hold_text_alone(messages):
            return None
        for message in messages:
            if not has_no_marker_chars(message.text):
                return None
            texts.append(self._special_tokens.shield(message.text, DEFAULT_MARKERS))
        if sum(map(len, texts)) * MAX_SEGMENTS > MAX_CHARACTERS:
            return None
        segments = self._symbolic(tuple([message.role for message in messages]), prompt)
        return None if segments is None else fill(segments, texts)

    def render_ids(self, messages: Sequence[Message]) -> tuple[list[int], bytes] | None:
        """Token ids and loss mask of a conversation; None if they are not known from the roles alone."""
        texts = []
        for message in messages:
            text = message.text
            if (  # as `hold_text_alone`, in one pass: this is done for all training data
                message.tool_calls
                or message.name
                or message.reasoning
                or message.tool_call_id
                or not has_no_marker_chars(text)
                or self._special_tokens.may_occur_in(text)
            ):
                return None
            texts.append(text)
        if sum(map(len, texts)) * MAX_SEGMENTS > MAX_CHARACTERS:
            return None
        plan = self._plan(tuple([message.role for message in messages]))
        if plan is None:
            return None
        ids: list[int] = []
        loss_mask = bytearray()
        for span in plan:
            if isinstance(span, _FixedTokens):
                ids += span.ids
                loss_mask += span.loss_mask
                continue
            text = fill(span.segments, texts)
            if not text:  # then what stands around it is cut otherwise
                return None
            if span.in_loss and text[0].isspace() and begins_with_line_end(text, 0):
                return None
            encoded = self._tokenizer.encode(text, continuation=span.continuation)
            ids += encoded
            loss_mask += span.loss_mask * len(encoded)
        return ids, bytes(loss_mask)

    def _symbolic(self, roles: tuple[str, ...], prompt: bool) -> tuple[Segment, ...] | None:
        if (roles, prompt) not in self._symbolics:
            if len(self._symbolics) >= MAX_ENTRIES:
                self._symbolics.clear()
            self._symbolics[roles, prompt] = (
                self._build_symbolic(roles, prompt) if self._source_has_no_markers else None
            )
        return self._symbolics[roles, prompt]

    def _build_symbolic(self, roles: tuple[str, ...], prompt: bool) -> tuple[Segment, ...] | None:
        turns = [{"role": role, "content": SymbolicText(Placeholder(index))} for index, role in enumerate(roles)]
        variables = self._variables(self._special_tokens.shield(turns, DEFAULT_MARKERS), None, prompt)
        return self._template.render_symbolic(DEFAULT_MARKERS, variables)

    def _plan(self, roles: tuple[str, ...]) -> _TokenPlan | None:
        if roles not in self._plans:
            if len(self._plans) >= MAX_ENTRIES:
                self._plans.clear()
            self._plans[roles] = self._build_plan(roles)
        return self._plans[roles]

    def _build_plan(self, roles: tuple[str, ...]) -> _TokenPlan | None:
        full = None if self._special_tokens.affect_neighbors else self._symbolic(roles, False)
        if full is None or not self._turns_are_prefixes(roles, full):
            return None
        try:  # a character that nobody types stands for each text
            placeholder_chars = [chr(FIRST_PLACEHOLDER_CODE + index) for index in range(len(roles))]
            spans = self._split(
                [
                    Message(cast(Role, role), placeholder_char)
                    for role, placeholder_char in zip(roles, placeholder_chars, strict=True)
                ]
            )
        except UserError:  # told when the conversation itself goes the whole way
            return None
        placeholders = [segment for segment in full if isinstance(segment, Placeholder)]
        plan: list[_FixedTokens | _TextSlot] = []
        for span in spans:
            literals, placeholder_chars = PLACEHOLDER_CHAR.split(span.text), PLACEHOLDER_CHAR.findall(span.text)
            if not placeholder_chars:
                known = (
                    self._tokenizer.encode(span.text, continuation=span.continuation) if span.token_id is None else []
                )
                ids = tuple(known) if span.token_id is None else (span.token_id,)
                plan.append(_FixedTokens(ids, MASK_BYTE[span.in_loss] * len(ids)))
                continue
            segments: list[Segment] = [literals[0]]
            for placeholder_char, literal in zip(placeholder_chars, literals[1:], strict=True):
                if not placeholders or placeholders[0].text_index != ord(placeholder_char) - FIRST_PLACEHOLDER_CODE:
                    return None
                segments += [placeholders.pop(0), literal]
            plan.append(
                _TextSlot(
                    tuple(segment for segment in segments if segment),
                    MASK_BYTE[span.in_loss],
                    span.continuation,
                    span.in_loss,
                )
            )
        return None if placeholders else tuple(plan)

    def _turns_are_prefixes(self, roles: tuple[str, ...], full: tuple[Segment, ...]) -> bool:
        """Whether, for all texts, the prompt of each answer and the turns up to it are prefixes of the full text."""
        for index, role in enumerate(roles):
            if role != "assistant":
                continue
            before, after = self._symbolic(roles[:index], True), self._symbolic(roles[: index + 1], False)
            if before is None or after is None or not (is_prefix(full, after) and is_prefix(after, before)):
                return False
        return True


def hold_text_alone(messages: Sequence[Message]) -> bool:
    """Whether a template can read no more of the messages than their roles and texts."""
    for message in messages:
        if message.tool_calls or message.name or message.reasoning or message.tool_call_id:
            return False
    return True
