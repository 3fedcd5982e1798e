"""The content of a turn: a text, or a list of typed parts, some of them reasoning, calls and results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import number_to_text, strip_turn
from hanlin.data.formats.content.calls import ARGUMENT_FIELDS, CALL_PARTS
from hanlin.data.formats.content.media import MEDIA_PARTS
from hanlin.data.formats.content.reasoning import (
    REASONING_PARTS,
    TURN_REASONING_FIELDS,
    join_reasoning,
    read_reasoning,
)
from hanlin.data.formats.content.results import RESULT_PARTS, to_text
from hanlin.data.ledger import Drop

CONTENT_FIELDS = (
    *("content", "value", "text", "utterance", "sentence", "message", "parts", "msg", "mes", "内容", "文本"),
)  # fmt: skip
"""Fields of a turn that hold its content."""
RESULT_ID_FIELDS = ("tool_call_id", "call_id", "tool_use_id")
"""Fields of a result that hold the id of its call."""


_ENCRYPTED_PARTS = frozenset({"redacted_thinking", "redacted_reasoning"})
"""Types of typed parts that hold reasoning which only the service that wrote it can read."""


@dataclass(slots=True)
class TurnContent:
    """The parts of a turn's content; a turn that is text alone has no lists of its own."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Any] = ()
    results: Sequence[Message] = ()


def split_content(content: Any) -> TurnContent | Drop:
    """Split the content of a turn, which may be a list of typed parts."""
    content = number_to_text(content)
    if isinstance(content, str):
        return TurnContent(content)
    if not isinstance(content, list):
        return Drop("not_text", type(content).__name__)
    split = TurnContent()
    for part in content:
        kind = str(part.get("type") or "text") if isinstance(part, dict) else type(part).__name__
        value = _part_value(part, kind) if isinstance(part, dict) else part
        if kind in ("text", "str", "input_text", "output_text", "refusal") and isinstance(value, str):
            split.text += value
        elif kind in REASONING_PARTS and (reasoning := read_reasoning(value)) is not None:
            split.reasoning = join_reasoning(split.reasoning, reasoning)
        elif kind in CALL_PARTS:
            split.calls = [*split.calls, *as_list(value)]
        elif kind in RESULT_PARTS:
            split.results = [*split.results, _read_result_part(part, value)]
        elif kind in _ENCRYPTED_PARTS:
            continue  # named by `find_unread_part_fields`
        elif kind in MEDIA_PARTS:
            return Drop("media", kind)
        else:
            return Drop("not_text", kind[:80])
    return split


_SUMMARY = "summary"
"""The field of a part of reasoning that holds its text if nothing else does, as in OpenAI's Responses API."""


def _part_value(part: Mapping[str, Any], kind: str) -> Any:
    """The value of a typed part: in `value`, in a field named like its type, in `text`; of a call, the part itself."""
    for name in ("value", kind, "text", "content", *TURN_REASONING_FIELDS):
        if part.get(name) is not None:
            return part[name]
    if kind in REASONING_PARTS and part.get(_SUMMARY) is not None:
        return part[_SUMMARY]
    return part if kind in CALL_PARTS else None


def _read_result_part(part: Mapping[str, Any], value: Any) -> Message:
    if isinstance(value, list) and all(isinstance(item, dict) and isinstance(item.get("text"), str) for item in value):
        value = "".join(item["text"] for item in value)
    call_id = next((str(part[key]) for key in RESULT_ID_FIELDS if part.get(key)), "")
    return Message("tool", strip_turn(to_text(value)), (), str(part.get("name") or ""), "", call_id)


def as_list(value: Any) -> list[Any]:
    """A value as a list: empty for one of nothing but nulls and empty texts, with which tables fill an object that is
    not there; its type alone is nothing.
    """
    items = value if isinstance(value, list) else [value] if value else []
    return [item for item in items if not (isinstance(item, dict) and _is_nothing(item))]


def _is_nothing(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_nothing(item) for name, item in value.items() if name != "type")
    return value in (None, "", [])


_PART_READ = frozenset(
    (
        *("type", "id", "call_id", "tool_call_id", "tool_use_id", "name", "function", "api_name", "tool_name", "tool"),
        *(*CONTENT_FIELDS, *ARGUMENT_FIELDS, *REASONING_PARTS, *CALL_PARTS, *RESULT_PARTS, *TURN_REASONING_FIELDS),
    )
)


def find_unread_part_fields(parts: Sequence[Any]) -> Iterator[str]:
    """Yield the fields of typed parts and of calls that no message carries."""
    for part in parts:
        if isinstance(part, dict):
            read = _PART_READ | {_SUMMARY} if part.get("type") in REASONING_PARTS else _PART_READ
            yield from (str(name) for name in part if name not in read and part[name] not in (None, "", [], {}))
