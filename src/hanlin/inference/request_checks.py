"""Checks of a request before it is decoded."""

from __future__ import annotations

from collections.abc import Sequence

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.inference.protocol import GenerationRequest


def max_completion_tokens(request: GenerationRequest, context_length: int, vocabulary: int) -> int:
    """How many tokens may be generated for a request: what it asks for, at most what the context leaves.

    Raises:
        UserError: If the prompt is empty, fills the context, or holds an id outside the vocabulary. A prompt is never
            truncated silently.
    """
    prompt = request.prompt_ids
    if not prompt:
        raise UserError(say("the prompt is empty", "提示为空"))
    check_ids(prompt, vocabulary)
    room = context_length - len(prompt)
    if room < 1:
        what = say(
            f"the prompt is {len(prompt)} tokens long, but the context holds {context_length} with the answer",
            f"提示共 {len(prompt)} 个词元，而上下文连同回答只容纳 {context_length} 个",
        )
        hint = say(
            "shorten the prompt or open the engine with a longer context_length", "缩短提示，或调大 context_length"
        )
        raise UserError(what, hint=hint)
    return min(room, request.sampling.max_new_tokens)


def check_pair(prefix: Sequence[int], continuation: Sequence[int], context_length: int, vocabulary: int) -> None:
    """Raise UserError unless both parts of the pair hold ids of the vocabulary and fit the context together."""
    if not prefix or not continuation:
        raise UserError(say("a prefix and a continuation need at least one token each", "前缀与续写都至少要有一个词元"))
    check_ids(prefix, vocabulary)
    check_ids(continuation, vocabulary)
    length = len(prefix) + len(continuation)
    if length > context_length:
        what = say(
            f"prefix and continuation are {length} tokens long, but the context holds {context_length}",
            f"前缀与续写共 {length} 个词元，而上下文只容纳 {context_length} 个",
        )
        raise UserError(what)


def check_text_ids(ids: Sequence[int], context_length: int, vocabulary: int) -> None:
    """Raise UserError unless `ids` is not empty, within the vocabulary and fits the context."""
    if not ids:
        raise UserError(say("the text is empty", "文本为空"))
    check_ids(ids, vocabulary)
    if len(ids) > context_length:
        what = say(
            f"the text is {len(ids)} tokens long, but the context holds {context_length}",
            f"文本共 {len(ids)} 个词元，而上下文只容纳 {context_length} 个",
        )
        raise UserError(what, hint=say("split it", "请将其拆分"))


def check_ids(ids: Sequence[int], vocabulary: int) -> None:
    """Raise UserError if an id is not in the vocabulary, as when another tokenizer made the prompt."""
    outside = max(ids) if max(ids) >= vocabulary else min(ids)
    if not 0 <= outside < vocabulary:
        what = say(
            f"token id {outside} is outside the model's vocabulary of {vocabulary}",
            f"词元编号 {outside} 超出模型词表（{vocabulary}）",
        )
        raise UserError(what, hint=say("use the tokenizer beside the model", "请使用模型旁的分词器"))
