"""The format of the MOSS data: turns of tagged parts, with inner thoughts, commands and their results.

Its tool calls are Python-like (`Calculate("1+2")`); they become tool calls like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.base import collect_meta, find_unread_fields, strip_turn
from hanlin.data.formats.content.calls import parse_json
from hanlin.data.formats.turns import ParsedChat, prepend_system
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

_TAG = compile_on_use(r"(?:\[(Human|MOSS|Inner Thoughts|Commands|Results|Tool Responses)\]|<\|([A-Za-z ]+)\|>):[ ]?")
_END = compile_on_use(r"\s*<eo[a-z]>\s*\Z")
_STRING = compile_on_use(r"\"(?:[^\"\\]|\\.)*\"")
_CALL = compile_on_use(rf"([A-Za-z_][\w ]*)\(\s*({_STRING.pattern}(?:\s*,\s*{_STRING.pattern})*|[^()\"]*)\s*\)")
_RESULT = compile_on_use(r"^[ \t]*([A-Za-z_][\w ]*)\(.*\)[ \t]*=>", re.M)
_NO_COMMAND = compile_on_use(r"(?<![\w\"])None(?![\w\"])\.?")
_TOOL_LINE = compile_on_use(r"^-\s*(.+?): enabled\. API: ([\w ]+)\(([^)]*)\)", re.M)


def is_moss(value: Any) -> bool:
    """Whether a row is in the format of MOSS: `chat` is an object, or `plain_text` holds the tag of a turn."""
    return isinstance(value, dict) and (
        isinstance(value.get("chat"), dict) or bool(_TAG.search(str(value.get("plain_text", ""))))
    )


def read_moss(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read turns of tagged parts (`<|Human|>: ...<eoh>`), written as an object or as one plain text.

    Commands become tool calls and their results tool turns; `None` among the commands is none. Inner thoughts are the
    reasoning of the turn that they lead to: the calls, or the answer without any.
    """
    if not is_moss(value):
        yield Drop("other_format")
        return
    system = value.get("meta_instruction") or value.get("prefix") or ""
    turns = list(_split_turns(value))
    if not isinstance(system, str) or not all(isinstance(turn, dict) for turn in turns):
        yield Drop("not_text")
        return
    tools = {match[2]: match for match in _TOOL_LINE.finditer(system)}
    messages: list[Message] = []
    for turn in turns:
        calls = _parse_calls(turn.get("Commands", ""), tools)
        if isinstance(calls, Drop):
            yield calls
            return
        thought = turn.get("Inner Thoughts", "")
        messages.append(Message("user", turn.get("Human", "")))
        if calls:
            results = turn.get("Results") or turn.get("Tool Responses", "")
            messages += [
                Message("assistant", "", calls, reasoning=thought),
                *_split_results(results, calls),
            ]
            thought = ""
        messages.append(Message("assistant", turn.get("MOSS", ""), reasoning=thought))
    used = ("meta_instruction", "prefix", "plain_text", "chat", "num_turns")
    schemas = tuple(_build_schema(match) for match in tools.values())
    unread = (*find_unread_fields(value, used), *_find_unread_parts(turns))
    yield ParsedChat(prepend_system(system, tuple(messages)), schemas, collect_meta(value, used), unread)


_PARTS = frozenset({"Human", "MOSS", "Inner Thoughts", "Commands", "Results", "Tool Responses"})


def _find_unread_parts(turns: list[dict[str, str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"turn.{name}" for turn in turns for name in turn if name not in _PARTS and turn[name]))


def _split_results(results: str, calls: tuple[ToolCall, ...]) -> list[Message]:
    """One turn for each call if the results repeat `Name(...) =>` of each, in order; else one turn."""
    starts = [match.start() for match in _RESULT.finditer(results)]
    names = [match[1].strip() for match in _RESULT.finditer(results)]
    if len(calls) > 1 and names == [call.name for call in calls]:
        ends = [*starts[1:], len(results)]
        texts = [results[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        return [Message("tool", text, name=call.name) for text, call in zip(texts, calls, strict=True)]
    return [Message("tool", results, name=calls[0].name)]


def _split_turns(row: Mapping[str, Any]) -> Iterator[dict[str, str] | Any]:
    """Yield the parts of each turn by name; None for a turn in another form."""
    if isinstance(row.get("chat"), dict):
        for _, parts in sorted(row["chat"].items(), key=lambda item: _turn_index(item[0])):
            if isinstance(parts, dict) and all(isinstance(text, str | None) for text in parts.values()):
                yield {name: _strip_part(_TAG.sub("", text, count=1)) for name, text in parts.items() if text}
            else:
                yield None
        return
    pieces = _TAG.split(row["plain_text"])
    turn: dict[str, str] = {}
    for bracketed, barred, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        name = bracketed or barred
        if name == "Human" and turn:
            yield turn
            turn = {}
        turn[name] = _strip_part(text)
    if turn:
        yield turn


def _turn_index(name: str) -> int:
    return int("".join(filter(str.isdigit, name)) or 0)


def _strip_part(text: str) -> str:
    text = strip_turn(_END.sub("", text))
    return "" if text in ("None", "None.") else text


def _parse_calls(commands: str, tools: Mapping[str, re.Match[str]]) -> tuple[ToolCall, ...] | Drop:
    if not commands:
        return ()
    calls = []
    for match in _CALL.finditer(commands):
        tool = tools.get(match[1])
        calls.append(ToolCall(match[1], _parse_arguments(match[2].strip(), tool[3] if tool else "")))
    rest = _NO_COMMAND.sub("", _CALL.sub("", commands)).strip(" ,;\n\t")
    return Drop("broken_tool_call", commands[:80]) if rest else tuple(calls)


def _parse_arguments(arguments: str, names: str) -> dict[str, str]:
    """Arguments of a call by the parameter names of the tool.

    Args:
        arguments: The text between the parentheses: one argument without quotes, or several with.
        names: Parameter names of the tool, with commas between.
    """
    parameters = [name.strip() for name in names.split(",") if name.strip()] or ["input"]
    texts = [(parse_json(text), text) for text in _STRING.findall(arguments)] or [(None, arguments)]
    return {
        parameters[index] if index < len(parameters) else f"{parameters[-1]}_{index + 1}": raw.strip('"')
        if text is None
        else text
        for index, (text, raw) in enumerate(texts)
    }


def _build_schema(match: re.Match[str]) -> dict[str, Any]:
    """JSON schema of a tool that the system text describes."""
    names = [name.strip() for name in match[3].split(",") if name.strip()]
    properties = {name: {"type": "string"} for name in names}
    parameters = {"type": "object", "properties": properties, "required": names}
    return {"name": match[2], "description": match[1], "parameters": parameters}
