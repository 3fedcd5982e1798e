"""Formats of unpaired preferences, as KTO uses them: a conversation in one of several formats, and a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import Format
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.turns import ParsedChat, read_turn, read_turns
from hanlin.data.ledger import Drop


@dataclass(frozen=True, slots=True)
class ParsedUnpaired:
    """A prompt, an answer to it, and whether the answer is good."""

    prompt: tuple[Message, ...]
    answer: Message
    good: bool
    meta: Mapping[str, Any] = field(default_factory=dict)


_LABEL_FIELDS = ("label", "kto_tag", "good")
_LABEL_VALUES = {"true": True, "false": False, "1": True, "0": False}


def _find_label(value: Any) -> tuple[str, bool] | None:
    """Find the field that holds the label, and whether it says good: true, 1, "true" or their opposites (CSV has no
    booleans).
    """
    if isinstance(value, Mapping):
        for name in _LABEL_FIELDS:
            if isinstance(value.get(name), bool | int | str):
                good = _LABEL_VALUES.get(str(value[name]).strip().lower())
                if good is not None:
                    return name, good
    return None


def _read_labeled(
    value: Any, read: Callable[[Mapping[str, Any]], Iterator[ParsedChat | Drop]]
) -> Iterator[ParsedUnpaired | Drop]:
    """Read the conversation of a row without its label, and split it into prompt and labeled answer."""
    label = _find_label(value)
    if label is None:
        yield Drop("no_label" if isinstance(value, Mapping) else "other_format")
        return
    label_field, good = label
    for chat in read({name: content for name, content in value.items() if name != label_field}):
        if isinstance(chat, Drop):
            yield chat
        elif chat.tools:
            yield Drop("has_tools")
        elif not chat.messages or chat.messages[-1].role != "assistant":
            yield Drop("no_answer")
        elif len(chat.messages) < 2 or chat.messages[-2].role not in ("user", "tool"):
            yield Drop("no_question")
        else:
            yield ParsedUnpaired(chat.messages[:-1], chat.messages[-1], good, chat.meta)


def _add_label(chat_format: Format[ParsedChat]) -> Format[ParsedUnpaired]:
    """Make the format of conversations in a known format with a label beside them."""

    def recognize(value: Any) -> bool:
        return _find_label(value) is not None and chat_format.recognize(value)

    def read(value: Any) -> Iterator[ParsedUnpaired | Drop]:
        return _read_labeled(value, chat_format.read)

    return Format(f"unpaired_{chat_format.name}", recognize, read, unpaired=True)


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("prompt"), list)
        and isinstance(value.get("answer"), Mapping)
        and isinstance(value.get("good"), bool)
    )


def read_record(value: Any) -> Iterator[ParsedUnpaired | Drop]:
    """Read Hanlin's own {prompt: [turns], answer: turn, good: true}."""

    def read_turn_fields(row: Mapping[str, Any]) -> Iterator[ParsedChat | Drop]:
        prompt, answer = read_turns(row["prompt"]), read_turn(row["answer"])
        if isinstance(prompt, Drop) or isinstance(answer, Drop):
            yield prompt if isinstance(prompt, Drop) else answer  # type: ignore[misc]
            return
        meta = row.get("meta")
        yield ParsedChat((*prompt, answer), (), meta if isinstance(meta, Mapping) else {})

    if _is_record(value):
        yield from _read_labeled(value, read_turn_fields)
    else:
        yield Drop("no_label" if isinstance(value, Mapping) else "other_format")


_CHAT_FORMATS_WITH_LABEL = ("sharegpt", "messages", "alpaca", "prompt_response")
"""Formats of conversations that labeled answers are written in."""

UNPAIRED_FORMATS: tuple[Format[ParsedUnpaired], ...] = (
    Format("unpaired_records", _is_record, read_record, unpaired=True),
    *(_add_label(chat_format) for chat_format in CHAT_FORMATS if chat_format.name in _CHAT_FORMATS_WITH_LABEL),
)
