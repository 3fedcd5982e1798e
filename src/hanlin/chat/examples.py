"""Documents and preference answers as the token ids and loss masks of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanlin.chat.rendering.loss_rules import LossRules
from hanlin.chat.rendering.special_tokens import MASK_BYTE
from hanlin.chat.template import ChatTemplate, TokenizedExample
from hanlin.core.records import Message
from hanlin.tokenizer.tokenizer import Tokenizer


def render_documents(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[TokenizedExample]:
    """Begin token, text and end token of each text. All but the begin token carries loss, the end token too.

    A text without a token gives an empty example.
    """
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    for ids in tokenizer.encode_batch(texts):
        if ids:
            yield TokenizedExample(
                begin + ids + end, MASK_BYTE[False] * len(begin) + MASK_BYTE[True] * (len(ids) + len(end))
            )
        else:
            yield TokenizedExample([], b"")


def render_answer(
    turns: Sequence[Message],
    answer: Message,
    template: ChatTemplate,
    record_id: str,
    tools: Sequence[Mapping[str, Any]] = (),
    rules: LossRules = LossRules(),  # noqa: B008 (immutable)
) -> TokenizedExample:
    """Render turns that end with the user or a tool, and an answer to them; only this answer carries loss.

    Args:
        turns: The prompt.
        answer: The answer.
        template: The chat template.
        record_id: The record, for messages.
        tools: Tools that the assistant may call.
        rules: Whether reasoning carries loss.

    Raises:
        TemplateRefusal: The template has no form for the turns.
        UserError: As `ChatTemplate.render` does, with the record's id.
    """
    messages = (*(replace(turn, train=False) for turn in turns), replace(answer, train=True))
    (rendered,) = template.render_examples(messages, tools, record_id, rules)
    return rendered
