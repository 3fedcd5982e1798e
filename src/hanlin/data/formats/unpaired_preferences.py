"""Formats of unpaired preferences, as KTO uses them: a conversation in one of several formats, and a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import Format, collect_meta, find_unread_fields, is_own_record
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.labels import LABEL_FIELDS, find_label, find_verdicts
from hanlin.data.formats.content.tool_lists import Tools
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.turns import ParsedChat, finish_chat, join_turns
from hanlin.data.ledger import Drop


@dataclass(frozen=True, slots=True)
class ParsedUnpaired:
    """A prompt, an answer to it, and whether the answer is good.

    Attributes:
        prompt: Turns that end with the user or a tool.
        answer: The answer.
        good: Its label.
        meta: The row's other fields.
        tools: The tools that the answer may call.
        unread: Names of the row's fields that are in none of these; no part of what makes two of them equal.
    """

    prompt: tuple[Message, ...]
    answer: Message
    good: bool
    meta: Mapping[str, Any] = field(default_factory=dict)
    tools: Tools = ()
    unread: tuple[str, ...] = field(default=(), compare=False)


def _read_labeled(
    value: Any, read: Callable[[Mapping[str, Any]], Iterator[ParsedChat | Drop]]
) -> Iterator[ParsedUnpaired | Drop]:
    """Read the conversation of a row without its label, and split it into prompt and labeled answer."""
    label = find_label(value)
    if label is None:
        labels = [str(value[name])[:40] for name in LABEL_FIELDS if name in value] if isinstance(value, dict) else []
        yield Drop("no_label", ", ".join(labels)) if isinstance(value, dict) else Drop("other_format")
        return
    label_field, good = label
    verdicts = find_verdicts(value)  # they would drop a bad answer
    for chat in read({name: item for name, item in value.items() if name != label_field and name not in verdicts}):
        if isinstance(chat, Drop):
            yield chat
        elif not chat.messages or chat.messages[-1].role != "assistant":
            yield Drop("no_answer")
        elif len(chat.messages) < 2 or chat.messages[-2].role not in ("user", "tool"):
            yield Drop("no_question")
        elif good and chat.messages[-1].train is False:
            yield Drop("nothing_to_learn")
        else:
            answer = replace(chat.messages[-1], train=None)
            yield ParsedUnpaired(chat.messages[:-1], answer, good, {**chat.meta, **verdicts}, chat.tools, chat.unread)


def _add_label(chat_format: Format[ParsedChat]) -> Format[ParsedUnpaired]:
    """Make the format of conversations in a known format with a label beside them."""

    def recognize(value: Any) -> bool:
        return find_label(value) is not None and chat_format.recognize(value)

    def read(value: Any) -> Iterator[ParsedUnpaired | Drop]:
        return _read_labeled(value, chat_format.read)

    return Format(f"unpaired_{chat_format.name}", recognize, read, unpaired=True)


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("prompt"), list)
        and isinstance(value.get("answer"), dict)
        and isinstance(value.get("good"), bool)
    )


def read_record(value: Any) -> Iterator[ParsedUnpaired | Drop]:
    """Read Hanlin's own {prompt: [turns], answer: turn, good: true, tools}."""

    def read_turn_fields(row: Mapping[str, Any]) -> Iterator[ParsedChat | Drop]:
        turns = [*row["prompt"], row["answer"]]
        messages, is_own = join_turns(turns), is_own_record(row)
        used = ("prompt", "answer", "good", "tools", *(("id", "source", "meta") if is_own else ()))
        if isinstance(messages, Drop):
            yield messages
            return
        meta = row.get("meta") if is_own else collect_meta(row, used)
        unread = (*find_unread_fields(row, used), *find_unread_turn_fields(turns))
        yield finish_chat(row, ParsedChat(messages, (), meta if isinstance(meta, dict) else {}, unread))

    if _is_record(value):
        yield from _read_labeled(value, read_turn_fields)
    else:
        yield Drop("no_label" if isinstance(value, dict) else "other_format")


_CHAT_FORMATS_WITH_LABEL = ("sharegpt", "messages", "firefly", "alpaca", "prompt_response")
"""Formats of conversations that labeled answers are written in."""

UNPAIRED_FORMATS: tuple[Format[ParsedUnpaired], ...] = (
    Format("unpaired_records", _is_record, read_record, unpaired=True),
    *(_add_label(chat_format) for chat_format in CHAT_FORMATS if chat_format.name in _CHAT_FORMATS_WITH_LABEL),
)
