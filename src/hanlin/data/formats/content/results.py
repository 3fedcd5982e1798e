"""Results of tools: those that one turn holds together are split, and all are put in the order of their calls."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.content.calls import parse_data
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

RESULT_PARTS = frozenset({"tool_result", "tool_response", "function_response"})
"""Types of typed parts that hold a result."""
_BLOCK = compile_on_use(r"<(tool_response|function_response|tool_result|function_result)>\s*(.*?)\s*(?:</\1>|\Z)", re.S)


def has_result_tags(text: str) -> bool:
    """Whether a text is nothing but results between tags."""
    return text.lstrip()[:1] == "<" and bool(_BLOCK.match(text.lstrip())) and not _BLOCK.sub("", text).strip()


_MISTRAL = compile_on_use(r"\A\s*\[TOOL_RESULTS\](.*)\[/TOOL_RESULTS\]\s*\Z", re.S)
_OBSERVED = compile_on_use(r"\s*(?:EXECUTION RESULT of \[|Observation[ \t]*[:：]|观察[ \t]*[:：])", re.I)


def is_observation(text: str) -> bool:
    """Whether a user's turn after a call says that it is the result, as in OpenHands' and ReAct's traces."""
    return _OBSERVED.match(text) is not None


def split_result_tags(message: Message) -> list[Message]:
    """A tool's turn as one turn for each result between tags; the turn itself if it has none."""
    if (match := _MISTRAL.match(message.text)) is not None:
        return [replace(message, text=match[1].strip())]
    if not has_result_tags(message.text):
        return [message]
    return [_read_result(match[2], message) for match in _BLOCK.finditer(message.text)]


def _read_result(text: str, message: Message) -> Message:
    """The turn of one result, with name and id of its call if the result repeats them."""
    data = parse_data(text)
    fields = data if isinstance(data, dict) else {}
    name, call_id = fields.get("name"), fields.get("tool_call_id")
    return replace(
        message,
        text=text,
        name=message.name or (name if isinstance(name, str) else ""),
        tool_call_id=message.tool_call_id or (call_id if isinstance(call_id, str) else ""),
    )


def order_results(messages: Sequence[Message]) -> tuple[Message, ...] | Drop:
    """Put the results after each turn with calls in the order of the calls: by id, else by name if each is there once.

    Results that cannot be told apart stay as they are. One result that lists those of all calls by name becomes one for
    each call. A Drop if a call has no result though a later one has: a template without ids would give it that one.
    """
    if not any(message.tool_calls for message in messages):
        return tuple(messages)
    ordered: list[Message] = []
    index = 0
    while index < len(messages):
        message = messages[index]
        ordered.append(message)
        index += 1
        if not message.tool_calls:
            continue
        end = index
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        results = _order(message.tool_calls, messages[index:end])
        if isinstance(results, Drop):
            return results
        ordered += results
        index = end
    return tuple(ordered)


def _order(calls: Sequence[ToolCall], results: Sequence[Message]) -> Sequence[Message] | Drop:
    if len(results) == 1 and len(calls) > 1:
        split = _split_list(calls, results[0])
        if len(split) > 1:
            return split
    by_id = [call.id for call in calls], [result.tool_call_id for result in results]
    by_name = [call.name for call in calls], [result.name for result in results]
    for wanted, given in (by_id, by_name):
        if all(given) and len(set(given)) == len(given) and len(set(wanted)) == len(wanted) and set(given) <= {*wanted}:
            if {wanted.index(key) for key in given} != set(range(len(given))):
                return Drop("missing_result", next(key for key in wanted if key not in given)[:80])
            order = sorted(range(len(results)), key=[wanted.index(key) for key in given].__getitem__)
            return [results[place] for place in order]
    return results


def _split_list(calls: Sequence[ToolCall], result: Message) -> Sequence[Message]:
    data = parse_data(result.text.strip()) if result.text.lstrip()[:1] == "[" else None
    if not isinstance(data, list) or len(data) != len(calls):
        return [result]
    names = [item.get("name") if isinstance(item, dict) else None for item in data]
    if names != [call.name for call in calls]:
        return [result]
    return [
        replace(result, text=to_text(item), name=call.name, tool_call_id=call.id)
        for item, call in zip(data, calls, strict=True)
    ]


def to_text(value: Any) -> str:
    """A result as text: JSON unless it is text already."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
