"""Turns of a conversation as other tools write them, to messages: roles, texts, typed parts, tool calls, tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hanlin.core.records import Message, Role, ToolCall
from hanlin.data.formats.base import strip_turn
from hanlin.data.io.json_rows import StrictDecoder
from hanlin.data.ledger import Drop


@dataclass(frozen=True, slots=True)
class ParsedChat:
    """A conversation as it was read.

    Attributes:
        messages: Its turns.
        tools: The tools that they may call.
        meta: The row's other fields.
        unread: Names of the row's fields that are in none of these; no part of what makes two conversations equal.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = field(default=(), compare=False)


ROLE_NAMES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "用户": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
    "bard": "assistant", "bing": "assistant", "moss": "assistant", "chatglm": "assistant", "助手": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "ipython": "tool", "tool_response": "tool",
}  # fmt: skip
_CALL_ROLES = ("function_call", "tool_call")


def read_turns(turns: Sequence[Any]) -> tuple[Message, ...] | Drop:
    """Read turns written as {from, value}, {role, content} or {role, text}; a tool call joins the text before it."""
    messages: list[Message] = []
    for turn in turns:
        message = read_turn(turn)
        if isinstance(message, Drop):
            return message
        previous = messages[-1] if messages else None
        if previous is not None and previous.role == message.role == "assistant" and message.tool_calls:
            calls = previous.tool_calls + message.tool_calls
            messages[-1] = replace(previous, text=previous.text or message.text, tool_calls=calls)
        else:
            messages.append(message)
    return tuple(messages)


def read_turn(turn: Any) -> Message | Drop:
    """Read one turn, with its tool calls."""
    if not isinstance(turn, Mapping):
        return Drop("other_format", f"a turn is a {type(turn).__name__}")
    name = str(turn.get("role", turn.get("from", ""))).strip().lower()
    role = ROLE_NAMES.get(name)
    if role is None:
        return Drop("unknown_role", name)
    if role == "assistant" and any(turn.get(key) in (0, False) for key in ("loss_weight", "weight", "loss", "train")):
        return Drop("zero_weight_answer")
    content = next((turn[key] for key in ("content", "value", "text") if turn.get(key) is not None), "")
    parts = _split_content(content)
    if isinstance(parts, Drop):
        return parts
    text, calls_in_content = parts
    if name in _CALL_ROLES:
        text, calls_in_content = "", [*calls_in_content, text]
    calls = read_calls([*calls_in_content, *_as_list(turn.get("tool_calls")), *_as_list(turn.get("function_call"))])
    if isinstance(calls, Drop):
        return calls
    return Message(role, strip_turn(text), calls, str(turn.get("name") or "") if role == "tool" else "")


def _as_list(value: Any) -> list[Any]:
    return [] if not value else value if isinstance(value, list) else [value]


def _split_content(content: Any) -> tuple[str, list[Any]] | Drop:
    """Split the content of a turn, which may be a list of typed parts, into its text and its tool calls."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        return Drop("not_text", type(content).__name__)
    texts, calls = [], []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        value = part.get("value", part.get(kind)) if isinstance(part, Mapping) else part
        if kind in ("text", "str") and isinstance(value, str):
            texts.append(value)
        elif kind in ("tool_call", "tool_calls", "function_call"):
            calls += _as_list(value)
        else:
            return Drop("not_text", str(kind))
    return "".join(texts), calls


def read_calls(raw: Sequence[Any]) -> tuple[ToolCall, ...] | Drop:
    """Read tool calls written as JSON text or objects, with OpenAI's wrapping {function: {...}} or without."""
    calls: list[ToolCall] = []
    for item in raw:
        data = parse_json(item) if isinstance(item, str) else item
        for call in data if isinstance(data, list) else [data]:
            inner = call.get("function", call) if isinstance(call, Mapping) else None
            if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
                return Drop("broken_tool_call", str(item)[:80])
            arguments = inner.get("arguments", inner.get("parameters", {}))
            arguments = parse_json(arguments) if isinstance(arguments, str) else arguments
            if not isinstance(arguments, Mapping):
                return Drop("broken_tool_call", str(item)[:80])
            calls.append(ToolCall(inner["name"], arguments))
    return tuple(calls)


def read_tools(raw: Any) -> tuple[Mapping[str, Any], ...] | Drop:
    """Read the list of tools, as JSON text or data, each without OpenAI's wrapping."""
    if isinstance(raw, str):
        if not raw.strip():
            return ()
        raw = parse_json(raw)
    if raw is None or raw == []:
        return () if raw == [] else Drop("broken_tools")
    tools = [tool.get("function", tool) if isinstance(tool, Mapping) else tool for tool in _as_list(raw)]
    if not all(isinstance(tool, Mapping) and "name" in tool for tool in tools):
        return Drop("broken_tools", str(raw)[:80])
    return tuple(tools)


def parse_json(text: str) -> Any:
    """Parse JSON as strictly as a row; None if it is not JSON."""
    value = StrictDecoder().decode_row(text)
    return None if isinstance(value, Drop) else value


def prepend_system(system: Any, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put a system turn before the turns, unless they begin with one or `system` is no text."""
    if isinstance(system, str) and system.strip() and not (messages and messages[0].role == "system"):
        return (Message("system", strip_turn(system)), *messages)
    return messages


def alternate_roles(texts: Sequence[str]) -> tuple[Message, ...]:
    """Make messages of alternating texts, the user first."""
    roles: tuple[Role, Role] = ("user", "assistant")
    return tuple(Message(roles[index % 2], strip_turn(text)) for index, text in enumerate(texts))
