"""The texts that the answers of a conversation are learned from, with markers around what carries loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hanlin.chat.rendering.answer_spans import (
    MarkedText,
    UnlearnableAnswer,
    begins_with_line_end,
    end_marks_at_stop,
    find_examples,
    has_empty_block,
)
from hanlin.chat.rendering.loss_rules import LossRules
from hanlin.chat.rendering.renderer import TemplateRenderer
from hanlin.chat.rendering.template_cache import hold_text_alone
from hanlin.chat.turn_order import order_tool_results
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message


class _RewritesTurns(Exception):
    """The template renders the turns before an answer otherwise than in the prompt for it."""


def training_texts(
    renderer: TemplateRenderer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    where: str | None,
    learned: Sequence[int],
    rules: LossRules,
    is_trusted: bool,
) -> list[MarkedText]:
    """Render the texts that answers are learned from: before each of them exactly its prompt.

    Args:
        renderer: The chat template.
        messages: The turns, in an order that was checked.
        tools: Tools that the assistant may call.
        where: Name of the record, for messages.
        learned: The indices of the answers that carry loss.
        rules: What carries loss.
        is_trusted: Whether the template's own `{% generation %}` blocks need no check.

    Raises:
        TemplateRefusal: The template has no form for the turns, or renders them otherwise in a prompt.
    """
    has_reasoning = False
    if tools or not hold_text_alone(messages):
        messages = order_tool_results(messages)
        renderer.check_support(messages, tools, learned, where)
        has_reasoning = any(message.reasoning for message in messages)
    answers = assistant_indices(messages)
    if list(learned) == answers and answers[0] > 0 and not (has_reasoning or renderer.thinking_switches):
        try:
            marked = _one_text(renderer, messages, tools, where, is_trusted)
        except _RewritesTurns:
            pass
        else:
            if is_trusted or not has_empty_block(marked.text):
                return [marked]
    markers = renderer.choose_markers(messages, tools)

    def render(turns: Sequence[Message], prompt: bool, thinking: bool) -> str:
        return renderer.render_text(turns, tools, prompt, where, markers, thinking=thinking).text

    def reasoning_of(message: Message) -> str:
        return str(renderer.special_tokens.shield(message.reasoning, markers)).strip()

    try:
        return find_examples(
            messages,
            learned,
            render,
            renderer.special_token_ends,
            markers,
            reasoning_of,
            renderer.reasoning_form,
            rules.reasoning == "read",
        )
    except UnlearnableAnswer as error:
        if error.reason == "reasoning":
            raise renderer.lacks_reasoning(where) from error
        raise renderer.rewrites_turns(error.index, where) from error


def assistant_indices(messages: Sequence[Message]) -> list[int]:
    """The indices of the assistant's turns."""
    return [index for index, message in enumerate(messages) if message.role == "assistant"]


RenderStart = Callable[[int, bool], str]
"""Renders the first so many turns of a conversation; the second argument is whether as a prompt."""


def _one_text(
    renderer: TemplateRenderer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    where: str | None,
    is_trusted: bool,
) -> MarkedText:
    """One text of all turns with markers around every answer. Raises _RewritesTurns if the template rewrites turns."""
    marked = renderer.render_text(messages, tools, False, where)
    if is_trusted and renderer.template.has_generation_blocks:
        return marked

    def render_start(count: int, prompt: bool) -> str:
        return renderer.render_text(messages[:count], tools, prompt, where, marked.markers).text

    answers = assistant_indices(messages)
    if renderer.template.has_generation_blocks:
        return _check_markers(renderer, marked, answers, render_start, where)
    return _derive_markers(renderer, marked, answers, render_start)


def _derive_markers(
    renderer: TemplateRenderer, full: MarkedText, answers: Sequence[int], render_start: RenderStart
) -> MarkedText:
    """Derive the markers that a template without `{% generation %}` lacks, and check them on this conversation.

    An answer begins where the prompt for it ends, and it ends with the last special token of its own turn. Both must be
    prefixes of the full text.
    """
    text, markers = full
    spans: list[tuple[int, int]] = []
    for index in answers:
        before = render_start(index, True)
        last = index == answers[-1]  # then what stands up to its end is the whole
        after = text if last else render_start(index + 1, False)
        if not (text.startswith(after) and after.startswith(before) and len(before) < len(after)):
            raise _RewritesTurns
        if not last and begins_with_line_end(after, len(before)):
            raise _RewritesTurns
        spans.append((len(before), max(renderer.special_token_ends(after, len(before)), default=len(after))))
    for start, end in reversed(spans):
        text = text[:start] + markers.start + text[start:end] + markers.end + text[end:]
    return MarkedText(text, markers)


def _check_markers(
    renderer: TemplateRenderer,
    full: MarkedText,
    answers: Sequence[int],
    render_start: RenderStart,
    where: str | None,
) -> MarkedText:
    """Check a template's own markers: one stretch for each answer, which begins where the prompt for it ends.

    Returns the text with stretches that end with their stop token: what some templates mark behind it is no answer.
    """
    markers = full.markers
    text = full.text.replace(markers.end + markers.start, "")  # one answer in two blocks
    starts = [found.end() for found in re.finditer(markers.start, text)]
    if len(starts) != len(answers):
        raise UserError(
            tr(
                "the chat template {origin} marks {count} of {total} answers as generated",
                origin=renderer.origin,
                count=len(starts),
                total=len(answers),
            ),
            where,
            tr("put {% generation %} around what every assistant turn writes"),
        )
    for index, start in zip(answers, starts, strict=True):
        if render_start(index, True) != text[: start - 1] or (
            index < answers[-1] and begins_with_line_end(text, start)
        ):
            raise _RewritesTurns
    return end_marks_at_stop(MarkedText(text, markers), renderer.special_token_ends)
