"""Rows and turns as the APIs of OpenAI and Google write them, in the fields of other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.data.formats.content.roles import ROLE_FIELDS, find_role_name

_REQUEST_FIELDS = ("input", "request", "body", "data", "conversation", "sample", "result")
"""Fields of a row that hold a request as an object with its messages."""
_LIFTED = ("messages", "tools", "system", "functions")
_SYSTEM_SPEAKERS = frozenset(("system", "sys"))
_USER_SPEAKERS = frozenset(("user", "usr"))


_TURN_LISTS = ("messages", "conversations", "conversation")


def unfold_request(row: dict[str, Any]) -> dict[str, Any]:
    """Move the messages of a request, and of the response to it, out of the objects that hold them.

    Args:
        row: A row. `{"request": {"messages": [...]}, "response": {"choices": [{"message": {...}}]}}` is a log of
            OpenAI's API, `{"input": {"messages": [...]}, "preferred_output": [...]}` its form of preferences.

    Returns:
        A row with `messages`, and with the other fields of the objects as `request.model`; the row itself if it holds
        no request.
    """
    row = _lift_thinking(row)
    if any(name in row and isinstance(row[name], list) for name in _TURN_LISTS) or "messages" in row:
        return row
    for field in _REQUEST_FIELDS:
        inner = row.get(field)
        if not isinstance(inner, dict):
            continue
        turns = next((name for name in _TURN_LISTS if is_turn_list(inner.get(name))), "")
        if turns:
            names = {turns, *_LIFTED}
            rest = {f"{field}.{name}": item for name, item in inner.items() if name not in names or name in row}
            lifted = {name: inner[name] for name in inner if name in names and name not in row}
            others = {name: item for name, item in row.items() if name != field}
            return _append_response({**others, **lifted, **rest})
    return row


def _lift_thinking(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose `chat_template_kwargs` turn thinking on or off, with the switch beside its other fields."""
    kwargs = row.get("chat_template_kwargs")
    if not isinstance(kwargs, dict) or not isinstance(kwargs.get("enable_thinking"), bool) or "enable_thinking" in row:
        return row
    rest = {name: item for name, item in kwargs.items() if name != "enable_thinking" and item not in (None, "", [], {})}
    return {**row, "chat_template_kwargs": rest, "enable_thinking": kwargs["enable_thinking"]}


def _append_response(row: dict[str, Any]) -> dict[str, Any]:
    response = row.get("response")
    if not isinstance(response, dict):
        return row
    body = response.get("body", response)
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return row
    message = choices[0].get("message")
    if not isinstance(message, dict) or not isinstance(body, dict):
        return row
    objects = [choices[0], body] if body is response else [choices[0], body, response]
    rest = {f"response.{name}": item for fields in objects for name, item in fields.items() if name not in _ANSWERED}
    others = {name: item for name, item in row.items() if name != "response"}
    return {**others, **rest, "messages": [*row["messages"], message]}


_ANSWERED = frozenset(("message", "index", "choices", "body"))


def is_turn_list(value: Any) -> bool:
    """Whether a value is a list of turns with roles."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) for turn in value)
        and (any(name in value[0] for name in ROLE_FIELDS))
    )


_UNFOLDED = frozenset(("type", "parts", "speaker"))
"""Fields of turns that are unfolded."""


def unfold_turns(turns: Sequence[Any]) -> list[Any] | None:
    """Write the items of OpenAI's Responses API, the parts of Gemini and speakers named `SYSTEM` as turns with roles.

    Args:
        turns: A list in a row.

    Returns:
        The turns; None if there is nothing of this kind in them.
    """
    for turn in turns:
        if not isinstance(turn, dict):
            return None
    if turns and turns[0].get("role") == "usr":  # who calls the user so calls the answerer `sys` (CrossWOZ)
        return [{**turn, "role": "assistant"} if turn.get("role") == "sys" else turn for turn in turns]
    if all(map(_UNFOLDED.isdisjoint, turns)):
        return None
    is_changed = False
    unfolded: list[Any] = []
    for turn in turns:
        new = turn
        if "type" in turn:
            new = _read_item(turn)
        elif isinstance(turn.get("parts"), list):
            new = {**turn, "parts": [_read_part(part) for part in turn["parts"]]}
        is_changed |= new is not turn
        unfolded.append(new)
    if turns and "speaker" in turns[0] and _is_system_the_answerer(turns):
        return [{**turn, "speaker": "assistant"} if _speaker(turn) in _SYSTEM_SPEAKERS else turn for turn in unfolded]
    return unfolded if is_changed else None


def _speaker(turn: Mapping[str, Any]) -> str:
    return str(turn.get("speaker")).strip().lower()


def _is_system_the_answerer(turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a dialogue has only the speakers USER and SYSTEM, and the user begins (MultiWOZ, SGD)."""
    names = [_speaker(turn) for turn in turns]
    is_known = {*names} <= _SYSTEM_SPEAKERS | _USER_SPEAKERS and not any(
        "role" in turn or "from" in turn for turn in turns
    )
    return is_known and names[0] in _USER_SPEAKERS and any(name in _SYSTEM_SPEAKERS for name in names)


_ITEM_READ = frozenset(
    ("type", "id", "call_id", "status", "name", "arguments", "input", "output", "summary", "content")
)


def _read_item(item: dict[str, Any]) -> dict[str, Any]:
    """An item of the Responses API as a turn; other turns with a type are returned as they are."""
    kind = item["type"]
    if kind == "message" and find_role_name(item):
        return {name: value for name, value in item.items() if name not in ("type", "id", "status")}
    if find_role_name(item):
        return item
    call_id = item.get("call_id") or item.get("id") or ""
    rest = {name: value for name, value in item.items() if name not in _ITEM_READ}
    if kind in ("function_call", "custom_tool_call") and isinstance(item.get("name"), str):
        arguments = item.get("arguments", item.get("input"))
        if kind == "custom_tool_call":
            arguments = {"input": arguments}
        return {
            **rest,
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": call_id, "name": item["name"], "arguments": arguments}],
        }
    if kind in ("function_call_output", "custom_tool_call_output") and "output" in item:
        return {**rest, "role": "tool", "tool_call_id": call_id, "content": item["output"]}
    if kind == "reasoning" and ("summary" in item or "content" in item):
        texts = [
            part.get("text") for part in item.get("content") or item.get("summary") or () if isinstance(part, dict)
        ]
        return {**rest, "role": "reasoning", "content": "\n\n".join(text for text in texts if isinstance(text, str))}
    return item


_PART_READ = frozenset(("functionCall", "function_call", "functionResponse", "function_response", "thought", "text"))


def _read_part(part: Any) -> Any:
    """A part of Gemini with the type that other APIs give it: a thought, a call, a result, a file."""
    if not isinstance(part, dict) or "type" in part:
        return part
    rest = {name: value for name, value in part.items() if name not in _PART_READ}
    call = part.get("functionCall", part.get("function_call"))
    if isinstance(call, dict):
        return {
            **rest,
            "type": "tool_use",
            "name": call.get("name"),
            "input": call.get("args") or {},
            "id": call.get("id") or "",
        }
    result = part.get("functionResponse", part.get("function_response"))
    if isinstance(result, dict):
        name, call_id = result.get("name") or "", result.get("id") or ""
        return {
            **rest,
            "type": "tool_result",
            "name": name,
            "tool_use_id": call_id,
            "content": result.get("response") or "",
        }
    if part.get("thought") is True and isinstance(part.get("text"), str):
        return {**rest, "type": "reasoning", "text": part["text"]}
    if any(name in part for name in ("inlineData", "inline_data", "fileData", "file_data")):
        return {"type": "image"}
    return part
