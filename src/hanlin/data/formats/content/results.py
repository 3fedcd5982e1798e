"""Results of tools: those that one turn holds together are split, and all are put in the order of their calls."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.content.calls import PARALLEL_CALL, number_id, parse_data, strip_namespace
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
        results = _order(message.tool_calls, _split_parallel(message.tool_calls, messages[index:end]))
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


def _split_parallel(calls: Sequence[ToolCall], results: Sequence[Message]) -> Sequence[Message]:
    """Give the results to a call of several calls (`multi_tool_use.parallel`) each to its own.

    One that lists as many results as there are calls is split; one that cannot be split stays, without its id.
    """
    split: list[Message] = []
    seen: dict[str, int] = {}
    for result in results:
        whole = result.tool_call_id
        own = [call for number, call in enumerate(_find_parts(calls, whole), 1) if call.id == number_id(whole, number)]
        if not own and result.name == PARALLEL_CALL:
            own = [call for call in calls if not call.id]
        if not own:
            name = strip_namespace(result.name)
            split.append(replace(result, name=name) if name in {call.name for call in calls} else result)
            continue
        listed = parse_data(result.text.strip()) if len(own) > 1 and result.text.lstrip()[:1] == "[" else None
        place = seen[whole] = seen.get(whole, -1) + 1
        if isinstance(listed, list) and len(listed) == len(own):
            texts = [_unwrap(item) for item in listed]
            split += [
                replace(result, text=text, name=call.name, tool_call_id=call.id)
                for text, call in zip(texts, own, strict=True)
            ]
        elif place < len(own) and (len(own) == 1 or _count(results, whole, result.name) == len(own)):
            split.append(replace(result, name=own[place].name, tool_call_id=own[place].id))
        else:
            split.append(replace(result, name="", tool_call_id=""))
    return split


def _find_parts(calls: Sequence[ToolCall], whole: str) -> list[ToolCall]:
    """The calls whose ids begin with that of a whole and a number."""
    known = {call.id for call in calls}
    return [] if not whole or whole in known else [call for call in calls if call.id.rpartition("_")[0] == whole]


def _count(results: Sequence[Message], whole: str, name: str) -> int:
    return sum(result.tool_call_id == whole and (bool(whole) or result.name == name) for result in results)


def _unwrap(item: Any) -> str:
    """A result in a list: its text, or that of an object that only names its tool besides."""
    if isinstance(item, dict) and isinstance(item.get("recipient_name"), str) and len(item) == 2:
        item = next(value for name, value in item.items() if name != "recipient_name")
    return to_text(item)


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
