"""Documents and preference answers as the token ids and loss masks of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanlin.chat.rendering.loss_rules import LossRules
from hanlin.chat.rendering.refusal import TemplateRefusal
from hanlin.chat.rendering.special_tokens import MASK_BYTE
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.core.records import Conversation, Message, Preference, UnpairedPreference
from hanlin.tokenizer.tokenizer import Tokenizer

ChatRecord = Conversation | Preference | UnpairedPreference
"""The records that a chat template renders."""
CHAT_RECORDS: dict[str, type[ChatRecord]] = {kind.kind: kind for kind in (Conversation, Preference, UnpairedPreference)}
"""Their classes by the names of their kinds."""


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
    (rendered,) = template.render_examples(_with_one_answer(turns, answer), tools, record_id, rules)
    return rendered


def training_turns(record: ChatRecord) -> list[tuple[str, Sequence[Message]]]:
    """The turns that each part of a record is learned from, by its name: `chosen` and `rejected` of a preference pair,
    `good` or `bad` of a labeled answer, and the whole conversation (an empty name) otherwise.
    """
    if isinstance(record, Conversation):
        return [("", drop_reasoning(record.messages) if turns_thinking_off(record) else record.messages)]
    if isinstance(record, Preference):
        answers = {"chosen": record.chosen, "rejected": record.rejected}
    else:
        answers = {"good" if record.good else "bad": record.answer}
    return [(part, _with_one_answer(record.prompt, answer)) for part, answer in answers.items()]


def turns_thinking_off(record: Conversation) -> bool:
    """Whether the row itself says that its answers are learned without their reasoning (`enable_thinking` false)."""
    return record.meta.get("enable_thinking", True) is False


def drop_reasoning(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same turns without their reasoning."""
    return tuple(replace(message, reasoning="") if message.reasoning else message for message in messages)


def find_refusal(record: ChatRecord, template: ChatTemplate) -> TemplateRefusal | None:
    """Why a chat template has no form for a record; None if it has one. Nothing is encoded."""
    try:
        for _, turns in training_turns(record):
            template.check(turns, record.tools, record.source or record.id)
    except TemplateRefusal as refusal:
        return refusal
    return None


def _with_one_answer(turns: Sequence[Message], answer: Message) -> tuple[Message, ...]:
    """A prompt and its answer, which alone carries loss."""
    return (*(replace(turn, train=False) for turn in turns), replace(answer, train=True))
