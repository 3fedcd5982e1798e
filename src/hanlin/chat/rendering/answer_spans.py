"""The rendered texts that the answers of a conversation are learned from: before each answer exactly its prompt.

Many templates rewrite earlier turns: they leave out old reasoning, or put an empty thinking block into a prompt that is
not there later. One text of the whole conversation would then teach answers to prompts that nobody ever sends. So each
answer is rendered as it is served, and answers share a text as far as the prompt of the next one goes on from it:

    question 1, thought 1, answer 1                                       example 1, thought 1 and answer 1 are learned
    question 1, answer 1, question 2, thought 2, answer 2                 example 2, thought 2 and answer 2 are learned
    question, call, result, answer, the template keeps all of it          one example, call and answer are learned
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hanlin.chat.reasoning import END_TAG, ReasoningForm
from hanlin.chat.rendering.jinja import Markers
from hanlin.core.records import Message

Render = Callable[[Sequence[Message], bool, bool], str]
"""Renders turns as (messages, prompt, thinking), with markers in the text."""

_EMPTY_BLOCK = re.compile(r"\s*(?:<think>)?\s*</think>\s*")
"""A thinking block without a thought, or what is left of one that the prompt opened."""


_WHOLE_EMPTY_BLOCK = re.compile(r"<think>\s*</think>")
_LEADING_LINE_END = re.compile(r"[^\S\r\n]*[\r\n]")


def has_empty_block(text: str) -> bool:
    """Whether a template wrote a thinking block without a thought; typed tags are shielded, so it was the template."""
    return END_TAG in text and _WHOLE_EMPTY_BLOCK.search(text) is not None


class AnswerSpan(NamedTuple):
    """Where an answer is in a text: its prompt ends at `start`, the loss is on `learned_from` to `end`."""

    start: int
    learned_from: int
    end: int


class MarkedText(NamedTuple):
    """Rendered text and the markers in it."""

    text: str
    markers: Markers


class UnlearnableAnswer(Exception):
    """The answer at `index` cannot be learned: `reason` is `prefix` (the text does not go on from the prompt) or
    `reasoning` (the reasoning is not in it).
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(index, reason)
        self.index, self.reason = index, reason


def find_examples(
    messages: Sequence[Message],
    answers: Sequence[int],
    render: Render,
    find_ends: Callable[[str, int], Iterator[int]],
    markers: Markers,
    reasoning_of: Callable[[Message], str],
    form: ReasoningForm,
    read_reasoning: bool,
) -> list[MarkedText]:
    """Render the texts that the answers are learned from, as few as can be.

    Args:
        messages: The conversation.
        answers: The indices of the answers to learn.
        render: Renders turns.
        find_ends: Yields the ends of the special tokens in a text from an offset on.
        markers: The markers that `render` writes.
        reasoning_of: The reasoning of a message as it is in rendered text.
        form: What the template does with reasoning.
        read_reasoning: Whether reasoning carries no loss.

    Raises:
        UnlearnableAnswer: An answer does not go on from its prompt, or its reasoning is not in it.
    """
    examples: list[MarkedText] = []
    text, spans = "", list[AnswerSpan]()
    for index in answers:
        thinking = bool(messages[index].reasoning.strip())
        before = _without_marks(render(messages[:index], True, thinking), markers)
        marked = render(messages[: index + 1], False, thinking)
        after = _without_marks(marked, markers)
        if not (after.startswith(before) and len(before) < len(after)) or _marked_from(marked, markers) > len(before):
            raise UnlearnableAnswer(index, "prefix")
        start = len(before)
        end = max(find_ends(after, start), default=len(after))
        learned_from = _loss_start(after[:end], start, reasoning_of(messages[index]), form, read_reasoning)
        if learned_from is None:
            raise UnlearnableAnswer(index, "reasoning")
        if spans and (
            not before.startswith(text[: spans[-1].end]) or begins_with_line_end(text, spans[-1].learned_from)
        ):
            examples.append(_mark(text, spans, markers))
            spans = []
        text = after
        spans.append(AnswerSpan(start, learned_from, end))
    return [*examples, _mark(text, spans, markers)] if spans else examples


def _loss_start(text: str, start: int, reasoning: str, form: ReasoningForm, read_reasoning: bool) -> int | None:
    """Where the loss on the answer at the end of a text begins; None if its reasoning is not there.

    An empty thinking block carries no loss: nobody means to teach it.
    """
    if not reasoning:
        block = _EMPTY_BLOCK.match(text, start)
        return start if block is None else block.end()
    closing = form.closing.strip()
    # a short thought may also be a word of the tag before it ("think")
    closed = re.compile(rf"{re.escape(reasoning)}\s*{re.escape(closing)}").search(text, start) if closing else None
    position = text.find(reasoning, start) if closed is None else closed.start()
    if position < 0:
        return None
    if not read_reasoning:
        return start
    position += len(reasoning)
    gap = re.compile(rf"\s*{re.escape(closing)}\s*").match(text, position)
    return position if gap is None else gap.end()


def end_marks_at_stop(marked: MarkedText, find_ends: Callable[[str, int], Iterator[int]]) -> MarkedText:
    """End the stretches that a template marks with their last special token: what it marks behind that is no answer.

        marked by the template     assistant ⟦你好！<|im_end|>↵⟧
        returned                   assistant ⟦你好！<|im_end|>⟧↵

    Args:
        marked: The text with markers around what the template says is generated.
        find_ends: Yields the ends of the special tokens in a text from an offset on.
    """
    text, markers = marked
    for start in reversed([found.end() for found in re.finditer(markers.start, text)]):
        end = max(find_ends(text[: text.index(markers.end, start)], start), default=-1)
        if end >= 0 and text[end] != markers.end:
            text = text[:end] + markers.end + text[end:].replace(markers.end, "", 1)
    return MarkedText(text, markers)


def _mark(text: str, spans: Sequence[AnswerSpan], markers: Markers) -> MarkedText:
    """Put markers around what is learned. An empty pair before reasoning that is only read lets it be encoded apart
    from the prompt, as the model wrote it.
    """
    for span in reversed(spans):
        learned = markers.start + text[span.learned_from : span.end] + markers.end
        if span.learned_from > span.start:
            learned = markers.start + markers.end + text[span.start : span.learned_from] + learned
        text = text[: span.start] + learned + text[span.end :]
    return MarkedText(text, markers)


def _marked_from(marked: str, markers: Markers) -> int:
    """Where the template's own mark of the last answer begins in the text without markers; 0 if it has none."""
    return len(_without_marks(marked[: max(0, marked.rfind(markers.start))], markers))


def _without_marks(text: str, markers: Markers) -> str:
    return text.replace(markers.start, "").replace(markers.end, "")


def begins_with_line_end(text: str, start: int) -> bool:
    """Whether an answer begins with a line end, which tokenizers join with that of the prompt.

    The answer is learned as the model writes it, after the prompt; in the next prompt it is encoded together with what
    is before it, and its ids may differ there.
    """
    return _LEADING_LINE_END.match(text, start) is not None
