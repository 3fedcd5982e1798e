"""A conversation in the form that chat templates read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanlin.core.records import Message, ToolCall


def to_template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as transformers passes them to a chat template: OpenAI's form, absent fields left out."""
    return [_as_dict(message) for message in messages]


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


def _as_dict(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        row["reasoning_content"] = message.reasoning
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
