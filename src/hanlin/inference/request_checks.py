"""Checks of a request before it is decoded."""

from __future__ import annotations

from collections.abc import Sequence

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.protocol import GenerationRequest


def max_completion_tokens(request: GenerationRequest, context_length: int, vocabulary: int) -> int:
    """How many tokens may be generated for a request: what it asks for, at most what the context leaves.

    Raises:
        UserError: If the prompt is empty, fills the context, or holds an id outside the vocabulary. A prompt is never
            truncated silently.
    """
    prompt = request.prompt_ids
    if not prompt:
        raise UserError(tr("the prompt is empty"))
    check_ids(prompt, vocabulary)
    available = context_length - len(prompt)
    if available < 1:
        what = tr(
            "the prompt is {count} tokens long, but the context holds {context_length} with the answer",
            count=len(prompt),
            context_length=context_length,
        )
        hint = tr("shorten the prompt or open the engine with a longer context_length")
        raise UserError(what, hint=hint)
    return min(available, request.sampling.max_new_tokens)


def check_pair(prefix: Sequence[int], continuation: Sequence[int], max_length: int, vocabulary: int) -> None:
    """Raise UserError unless both parts of the pair hold ids of the vocabulary and have at most `max_length` (see
    `Engine.max_scored_length`) ids together.
    """
    if not prefix or not continuation:
        raise UserError(tr("a prefix and a continuation need at least one token each"))
    check_ids(prefix, vocabulary)
    check_ids(continuation, vocabulary)
    length = len(prefix) + len(continuation)
    if length > max_length:
        what = tr(
            "prefix and continuation are {length} tokens long, but at most {max_length} can be scored",
            length=length,
            max_length=max_length,
        )
        raise UserError(what)


def check_text_ids(ids: Sequence[int], context_length: int, vocabulary: int) -> None:
    """Raise UserError unless `ids` is not empty, within the vocabulary and fits the context."""
    if not ids:
        raise UserError(tr("the text is empty"))
    check_ids(ids, vocabulary)
    if len(ids) > context_length:
        what = tr(
            "the text is {count} tokens long, but the context holds {context_length}",
            count=len(ids),
            context_length=context_length,
        )
        raise UserError(what, hint=tr("split it"))


def check_scored_text(ids: Sequence[int], context_length: int, max_length: int, vocabulary: int) -> None:
    """Raise UserError as `check_text_ids`, or if an engine scores at most `max_length` ids of a text, which may be
    fewer than its context holds.
    """
    check_text_ids(ids, context_length, vocabulary)
    if len(ids) > max_length:
        what = tr(
            "the text is {count} tokens long, but at most {max_length} can be scored",
            count=len(ids),
            max_length=max_length,
        )
        raise UserError(what, hint=tr("split it"))


def check_ids(ids: Sequence[int], vocabulary: int) -> None:
    """Raise UserError if an id is not in the vocabulary, as when another tokenizer made the prompt."""
    outside = max(ids) if max(ids) >= vocabulary else min(ids)
    if not 0 <= outside < vocabulary:
        what = tr(
            "token id {outside} is outside the model's vocabulary of {vocabulary}",
            outside=outside,
            vocabulary=vocabulary,
        )
        raise UserError(what, hint=tr("use the tokenizer beside the model"))
