"""The format of xLAM's function-calling data: a query, the tools, and the calls that answer it.

Source: the card of xlam-function-calling-60k; APIGen and BFCL use the same three parts under other names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.base import collect_meta, find_own_id, find_unread_fields
from hanlin.data.formats.content.call_texts import parse_calls
from hanlin.data.formats.content.calls import read_calls
from hanlin.data.formats.content.tool_lists import read_tools
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.turns import ParsedChat, join_turns
from hanlin.data.ledger import Drop

_QUERY_FIELDS = ("query", "question", "instruction", "prompt", "input")
_CALL_FIELDS = ("answers", "calls", "tool_calls", "function_calls", "answer")
_TOOL_FIELDS = ("tools", "functions")


def _find(row: Mapping[str, Any]) -> tuple[str, str, str] | None:
    query = next((name for name in _QUERY_FIELDS if isinstance(row.get(name), str | list) and row[name]), None)
    tools = next((name for name in _TOOL_FIELDS if isinstance(row.get(name), str | list | dict)), None)
    calls = next((name for name in _CALL_FIELDS if _is_call_list(row.get(name))), None)
    return (query, calls, tools) if query and calls and tools else None


def _is_call_list(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip()[:1] == "[" and not isinstance(parse_calls(value), Drop)
    return isinstance(value, list) and bool(value) and not isinstance(_read_list(value), Drop)


def _read_list(value: list[Any]) -> tuple[ToolCall, ...] | Drop:
    """Read a list of calls, each as an object or as text."""
    calls: list[ToolCall] = []
    for item in value:
        found = parse_calls(item) if isinstance(item, str) else read_calls([item])
        if isinstance(found, Drop):
            return found
        calls += found
    return tuple(calls)


def is_xlam(value: Any) -> bool:
    """Whether a row has a query, tools and a list of calls."""
    return isinstance(value, dict) and _find(value) is not None


def read_xlam(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {query, tools, answers}: the answer to the query are the calls; tools and calls may be JSON text.

    The query may be a list of turns, the last of which may begin the answer.
    """
    fields = _find(value) if isinstance(value, dict) else None
    if fields is None:
        yield Drop("no_answer" if isinstance(value, dict) else "other_format")
        return
    query, calls_field, tools_field = fields
    raw = value[calls_field]
    tools = read_tools(value[tools_field])
    known = () if isinstance(tools, Drop) else tools
    calls = parse_calls(raw, known) if isinstance(raw, str) else _read_list(raw)
    turns = value[query] if isinstance(value[query], list) else [{"role": "user", "content": value[query]}]
    prompt = join_turns(turns)
    for part in (calls, tools, prompt):
        if isinstance(part, Drop):
            yield part
            return
    assert not isinstance(calls, Drop) and not isinstance(tools, Drop) and not isinstance(prompt, Drop)
    answer = Message("assistant", "", calls)
    if prompt[-1].role == "assistant" and not prompt[-1].tool_calls:
        *before, last = prompt
        prompt, answer = tuple(before), replace(last, tool_calls=calls)
    used = (query, calls_field, tools_field, *find_own_id(value))
    unread = (*find_unread_fields(value, used), *find_unread_turn_fields(turns))
    yield ParsedChat((*prompt, answer), tools, collect_meta(value, used), unread)
