"""Truncate a long conversation to a model's context: keep the system messages and the newest turns."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message


@dataclass(frozen=True, slots=True)
class TruncatedHistory:
    """The messages that were kept, their prompt as token ids, and what was left out.

    `dropped` counts the oldest turns that were left out, `cut` the characters removed from the end of the last
    question.
    """

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    dropped: int
    cut: int = 0


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Split a conversation into its leading system messages and its turns: a user message with all that answers it."""
    start = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    groups: list[list[Message]] = []
    for message in messages[start:]:
        if message.role == "user" or not groups:
            groups.append([])
        groups[-1].append(message)
    return list(messages[:start]), groups


def truncate(
    messages: Sequence[Message],
    template: ChatTemplate,
    budget: int,
    cut: bool = False,
    thinking: bool | None = None,
) -> TruncatedHistory:
    """Drop the oldest turns until the prompt is at most `budget` tokens long: whole turns, never the system text, never
    part of a tool exchange.

    `thinking` turns the next answer's thinking on or off. With `cut`, a last question that is too long even alone loses
    its end. Raises UserError with the lengths when the last turn with the system text is longer, or with `cut` what
    surrounds the question.
    """
    system, groups = split_turns(messages)

    def drop_turns(dropped: int) -> TruncatedHistory:
        kept = (*system, *(message for group in groups[dropped:] for message in group))
        return TruncatedHistory(kept, tuple(template.render(kept, prompt=True, thinking=thinking).ids), dropped)

    last = max(0, len(groups) - 1)
    truncated = drop_turns(0)
    if len(truncated.ids) > budget:  # the fewest dropped that fit lie between: fewer turns never make a longer prompt
        num_dropped = bisect_left(range(1, last + 1), True, key=lambda dropped: len(drop_turns(dropped).ids) <= budget)
        truncated = drop_turns(min(num_dropped + 1, last))
    if len(truncated.ids) > budget and cut and truncated.messages[len(system)].role == "user":
        truncated = _truncate_message(truncated, len(system), template, budget, thinking)
    if len(truncated.ids) <= budget:
        return truncated
    size = len(truncated.ids)
    what = tr(
        "the message is {size} tokens long with the system text, but only {budget} fit beside the answer",
        size=size,
        budget=budget,
    )
    raise UserError(what, None, tr("shorten it, or lower the length of the answer"))


def _truncate_message(
    truncated: TruncatedHistory, index: int, template: ChatTemplate, budget: int, thinking: bool | None
) -> TruncatedHistory:
    """The same turns, with the end of the message at `index` cut off so that they fit, if that is enough."""
    message = truncated.messages[index]

    def truncate_to(size: int) -> TruncatedHistory:
        kept = (
            *truncated.messages[:index],
            replace(message, text=message.text[:size]),
            *truncated.messages[index + 1 :],
        )
        ids = tuple(template.render(kept, prompt=True, thinking=thinking).ids)
        return TruncatedHistory(kept, ids, truncated.dropped, len(message.text) - size)

    sizes = range(1, len(message.text))
    too_long = bisect_left(sizes, True, key=lambda size: len(truncate_to(size).ids) > budget)
    return truncate_to(max(1, too_long))
