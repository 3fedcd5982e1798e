"""Which answers of a conversation carry loss, and whether their reasoning does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hanlin.chat.rendering.special_tokens import MASK_BYTE
from hanlin.core.records import Message

_RUN = re.compile(rb"\x01+")


class LossRules(NamedTuple):
    """What carries loss.

    Attributes:
        train_on: `all` answers or the `last` one; `Message.train` of an answer comes first.
        reasoning: `learn` the reasoning, or only `read` it: then the loss begins with the answer behind it.
    """

    train_on: Literal["all", "last"] = "all"
    reasoning: Literal["learn", "read"] = "learn"


DEFAULT_LOSS_RULES = LossRules()
"""Every answer and its reasoning carry loss."""


def learned_answers(messages: Sequence[Message], rules: LossRules) -> list[int]:
    """The indices of the assistant's turns that carry loss. A greeting before the first question answers nothing."""
    if messages and messages[-1].role == "assistant" and learns_all_answers(messages, rules):
        return [index for index, message in enumerate(messages) if message.role == "assistant"]
    first = next((index for index, message in enumerate(messages) if message.role == "user"), len(messages))
    answers = [index for index, message in enumerate(messages) if message.role == "assistant" and index > first]
    wanted = answers if rules.train_on == "all" else answers[-1:]
    flags = ((index, messages[index].train) for index in answers)
    return [index for index, train in flags if (index in wanted if train is None else train)]


def learns_all_answers(messages: Sequence[Message], rules: LossRules) -> bool:
    """Whether every assistant's turn surely carries loss: no turn is marked, and no greeting comes first.

    The turns end with the assistant. False says nothing: `learned_answers` does.
    """
    if rules.train_on != "all":
        return False
    for message in messages:
        if message.train is not None:
            return False
    return messages[messages[0].role == "system"].role == "user"


def mask_answers(loss_mask: bytes, learned: Sequence[bool]) -> bytes:
    """Take the loss off some answers of an example, their end tokens included.

        loss_mask       0 0 1 1 1 0 0 1 1
        learned         False, True
        result          0 0 0 0 0 0 0 1 1

    Args:
        loss_mask: A mask with one stretch of targets for each answer.
        learned: Whether each of them is learned.

    Raises:
        ValueError: There are not as many stretches as answers.
    """
    runs = list(_RUN.finditer(loss_mask))
    masked = bytearray(loss_mask)
    for run, keep in zip(runs, learned, strict=True):
        if not keep:
            masked[run.start() : run.end()] = MASK_BYTE[False] * (run.end() - run.start())
    return bytes(masked)
