"""A conversation in the form that chat templates read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanlin.chat.reasoning import REASONING_FIELDS, with_tags
from hanlin.core.records import Message, ToolCall


def to_template_messages(
    messages: Sequence[Message], reasoning_field: str = REASONING_FIELDS[0]
) -> list[dict[str, Any]]:
    """Messages as transformers passes them to a chat template: OpenAI's form, absent fields left out.

    Args:
        messages: The turns.
        reasoning_field: The field in which the template reads reasoning.
    """
    return [_as_dict(message, reasoning_field) for message in messages]


def to_inline_reasoning(
    turns: Sequence[Mapping[str, Any]], keep_past: bool, reasoning_field: str = REASONING_FIELDS[0]
) -> list[dict[str, Any]]:
    """The turns with their reasoning as part of the texts, within `<think>`.

    Args:
        turns: Turns as `to_template_messages` makes them.
        keep_past: Whether answers before the last question keep theirs; else it is left out.
        reasoning_field: The field in which it is now.
    """
    last = max((index for index, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    rows = []
    for index, turn in enumerate(turns):
        row = dict(turn)
        reasoning = row.pop(reasoning_field, "")
        if reasoning and (keep_past or index > last):
            row["content"] = with_tags(reasoning, row["content"])
        rows.append(row)
    return rows


def to_template_tools(tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """Tools in OpenAI's form, each with name, description and parameters in this order; None if there are none.

    vLLM rewrites every tool like this before its template sees it; a template that writes a tool as JSON would give
    other ids otherwise.
    """
    return [{"type": "function", "function": _function(tool.get("function", tool))} for tool in tools] or None


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    usual = {"name": None, "description": "", "parameters": {"type": "object", "properties": {}}}
    return {**{name: function.get(name, value) for name, value in usual.items()}, **function}


def iter_texts(data: Any) -> Iterator[str]:
    """Every text within nested data, keys included."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from iter_texts(key)
            yield from iter_texts(value)
    elif isinstance(data, list | tuple):
        for item in data:
            yield from iter_texts(item)


def _as_dict(message: Message, reasoning_field: str) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning.strip():
        row[reasoning_field] = message.reasoning
    if message.tool_calls:
        row["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.name:
        row["name"] = message.name
    if message.tool_call_id:
        row["tool_call_id"] = message.tool_call_id
    return row


def _call(call: ToolCall) -> dict[str, Any]:
    row = {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
    return {"id": call.id, **row} if call.id else row
