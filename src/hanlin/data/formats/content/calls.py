"""Tool calls as data: JSON text or objects, in the wrappings of different APIs and sets."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanlin.core.records import ToolCall
from hanlin.data.io.json_rows import StrictDecoder
from hanlin.data.ledger import Drop

CALL_PARTS = frozenset({"tool_call", "tool_calls", "function_call", "tool_use"})
"""Types of typed parts that hold calls."""
ARGUMENT_FIELDS = (
    *("arguments", "parameters", "args", "params", "input", "kwargs", "action_input", "tool_input", "tool_args"),
)  # fmt: skip
_WRAPPERS = ("function", "tool_call", "function_call")
_NAME_FIELDS = ("name", "function", "function_name", "func_name", "tool_name", "tool", "api_name", "api", "action")
_ID_FIELDS = ("id", "call_id", "tool_call_id", "tool_use_id")
_MAX_LITERAL = 200_000


def parse_json(text: str) -> Any:
    """Parse JSON as strictly as a row; None if it is not JSON."""
    value = StrictDecoder().decode_row(text)
    return None if isinstance(value, Drop) else value


def parse_data(text: str) -> Any:
    """Parse JSON, or a literal of Python (`{'city': None}`), which some sets write instead; None if it is neither."""
    value = parse_json(text)
    if value is not None or not text or text[0] not in "{[('\"" or len(text) > _MAX_LITERAL:
        return value
    try:
        value = ast.literal_eval(text.replace("\n", "\\n") if text[0] in "'\"" else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return json.loads(json.dumps(value)) if is_json(value) else None


_OPEN, _CLOSE = "([{", ")]}"


def scan_brackets(text: str, start: int) -> Iterator[tuple[int, str, int]]:
    """Yield index, character and depth of brackets for every character outside of quotes.

    A single quote after a letter or digit is an apostrophe and begins no quotes.

    Args:
        text: Calls, a list or an object.
        start: Index of the first character; the depth is that after the character, 0 before the first.
    """
    depth, quote, index = 0, "", start
    while index < len(text):
        char = text[index]
        if quote:
            if char == "\\":
                index += 1
            elif char == quote:
                quote = ""
        elif char == '"' or (char == "'" and not (index > start and text[index - 1].isalnum())):
            quote = char
        else:
            depth += char in _OPEN
            depth -= char in _CLOSE
            yield index, char, depth
        index += 1


def is_json(value: Any, depth: int = 50) -> bool:
    """Whether JSON can hold a value as it is."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(name, str) and is_json(item, depth - 1) for name, item in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_json(item, depth - 1) for item in value)
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")  # noqa: PLR0124
    return value is None or isinstance(value, str | int)


def read_calls(raw: Sequence[Any]) -> tuple[ToolCall, ...] | Drop:
    """Read tool calls written as JSON text or objects, with OpenAI's wrapping {function: {...}} or without.

    Name and arguments may have any of their usual names (`api_name`, `parameters`, ...); arguments may be JSON text.
    """
    calls: list[ToolCall] = []
    for item in raw:
        data = parse_data(item.strip().strip("`").strip()) if isinstance(item, str) else item
        for value in data if isinstance(data, list) else [data]:
            call = _read_call(value)
            unfolded = None if call is None else _unfold_parallel(call)
            if unfolded is None:
                return Drop("broken_tool_call", str(item)[:80])
            calls += unfolded
    return tuple(calls)


PARALLEL_CALL = "multi_tool_use.parallel"
"""Name of the call of OpenAI's models that holds several calls."""
_NAMESPACE = "functions."
"""Begins the names of tools in such a call, and in results to it."""


def _unfold_parallel(call: ToolCall) -> list[ToolCall] | None:
    """The calls in a call of several, `{"tool_uses": [{"recipient_name": "functions.f", "parameters": {...}}]}`.

    Each has the id of the whole with its number, from 1. Any other call is alone; None if it holds something else.
    """
    if call.name != PARALLEL_CALL:
        return [call]
    uses = call.arguments.get("tool_uses")
    if len(call.arguments) != 1 or not isinstance(uses, list) or not uses:
        return None
    calls = []
    for number, use in enumerate(uses, 1):
        name = use.get("recipient_name") if isinstance(use, dict) else None
        arguments = read_arguments(use.get("parameters") or {}) if isinstance(use, dict) else None
        if not isinstance(name, str) or not strip_namespace(name) or arguments is None:
            return None
        calls.append(ToolCall(strip_namespace(name), arguments, number_id(call.id, number)))
    return calls


def number_id(call_id: str, number: int) -> str:
    """The id of a call in one of several, empty without an id of the whole."""
    return f"{call_id}_{number}" if call_id else ""


def strip_namespace(name: str) -> str:
    """The name of a tool without the namespace that OpenAI's models write before it."""
    return name.strip().removeprefix(_NAMESPACE)


def _read_call(value: Any) -> ToolCall | None:
    if isinstance(value, str):
        value = parse_data(value)
    if not isinstance(value, dict):
        return None
    call_id = _read_id(value)
    inner = next((value[name] for name in _WRAPPERS if isinstance(value.get(name), dict)), value)
    name_field = next((name for name in _NAME_FIELDS if isinstance(inner.get(name), str) and inner[name].strip()), None)
    if name_field is None:
        return None
    field = next((name for name in ARGUMENT_FIELDS if inner.get(name) is not None), None)
    if field is None and name_field != "name":
        return None
    arguments = read_arguments(inner[field]) if field is not None else {}
    if arguments is None:
        return None
    return ToolCall(inner[name_field].strip(), arguments, call_id or _read_id(inner))


def _read_id(value: Mapping[str, Any]) -> str:
    return next((str(value[name]) for name in _ID_FIELDS if isinstance(value.get(name), str | int)), "")


def read_arguments(value: Any) -> Mapping[str, Any] | None:
    """Read the arguments of a call, an object or its text; None if they are something else."""
    if isinstance(value, str):
        value = parse_data(value.strip()) if value.strip() else {}
    if isinstance(value, list) and not value:
        return {}
    return value if isinstance(value, dict) and is_json(value) else None
