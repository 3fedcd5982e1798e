"""What of a long conversation still fits a model's context: the newest turns, whole, and always the system text.

Does not own what a turn looks like in ids (`tokens/chat_template`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hanlin.errors import UserError
from hanlin.language import say
from hanlin.records import Message
from hanlin.tokens.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Fitted:
    """The messages that were kept, their prompt as ids, and how many of the oldest turns were dropped."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    dropped: int


def turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages that open a conversation, and its turns: each a user's message with all that answers it."""
    start = next((place for place, message in enumerate(messages) if message.role != "system"), len(messages))
    groups: list[list[Message]] = []
    for message in messages[start:]:
        if message.role == "user" or not groups:
            groups.append([])
        groups[-1].append(message)
    return list(messages[:start]), groups


def fit(messages: Sequence[Message], template: ChatTemplate, budget: int) -> Fitted:
    """Drop the oldest turns until the prompt is at most `budget` tokens long.

    Raises UserError with the lengths when the last turn alone, with the system text, is longer.
    """
    opening, groups = turns(messages)
    for dropped in range(max(1, len(groups))):
        kept = (*opening, *(message for group in groups[dropped:] for message in group))
        ids = template.render(kept, prompt=True).ids
        if len(ids) <= budget:
            return Fitted(kept, tuple(ids), dropped)
    what = say(
        f"the message is {len(ids)} tokens long with the system text, but only {budget} fit beside the answer",
        f"该消息连同系统提示共 {len(ids)} 个词元，而除回答外只容纳 {budget} 个",
    )
    raise UserError(what, None, say("shorten it, or lower the length of the answer", "请缩短消息，或调小回答长度"))
