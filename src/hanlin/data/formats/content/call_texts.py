"""Tool calls inside the text of an answer: between tags, as Python calls, or by nothing but their form."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.base import strip_turn
from hanlin.data.formats.content.calls import parse_data, read_arguments, read_calls, scan_brackets
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use


@dataclass(frozen=True, slots=True)
class CallText:
    """The text of an answer without the calls in it, the calls, and the thought before them."""

    text: str
    calls: tuple[ToolCall, ...]
    reasoning: str = ""


_TAGS = "(?:minimax:)?tool_calls?|function_calls?|functioncall|TOOLCALL|toolcall"
_BLOCK = compile_on_use(
    rf"<({_TAGS})>(.*?)(?:</\1>|(?=<(?:{_TAGS})>)|<\|endoftext\|>|<\|im_end\|>|\Z)"
    r"|<\|python_tag\|>(.*?)(?:<\|eom_id\|>|<\|eot_id\|>|\Z)"
    r"|\[TOOL_CALLS\]\s*(.*?)(?:\[/TOOL_CALLS\]|</s>|\Z)"
    r"|<\|action_start\|>\s*(?:<\|(?:plugin|interpreter)\|>)?(.*?)(?:<\|action_end\|>|\Z)"
    r"|<｜tool▁calls▁begin｜>(.*?)(?:<｜tool▁calls▁end｜>|\Z)"
    r"|<\|tool_calls_section_begin\|>(.*?)(?:<\|tool_calls_section_end\|>|\Z)"
    r"|<\|tool_call(?:_start)?\|>(.*?)(?:<\|/tool_call\|>|<\|tool_call_end\|>|\Z)"
    r"|(✿FUNCTION✿[:：].*)"
    r"|<\|fn_start\|>\s*(.*?)(?:<\|fn_end\|>|\Z)"
    r"|(<function=[^>]*>.*?</function>|<invoke name=.*?</invoke>)",
    re.S,
)
_FUNCTION = compile_on_use(r"<function=\"?([^>\"]+)\"?>(.*?)</function>|<invoke name=\"([^\"]+)\">(.*?)</invoke>", re.S)
_PARAMETER = compile_on_use(r"<parameter(?:=\"?| name=\")([^>\"]+)\"?>(.*?)</parameter>", re.S)
_KEY_VALUE = compile_on_use(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.S)
_DEEPSEEK = compile_on_use(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?([^\n<]+)(?:\n|<｜tool▁sep｜>)\s*(.*?)\s*<｜tool▁call▁end｜>",
    re.S,
)
_KIMI = compile_on_use(
    r"<\|tool_call_begin\|>\s*(?:functions\.)?([^\s<:]+)(?::\d+)?\s*<\|tool_call_argument_begin\|>(.*?)<\|tool_call_end\|>",
    re.S,
)
_QWEN_AGENT = compile_on_use(r"✿FUNCTION✿[:：][ \t]*([^\n]+?)[ \t]*\n✿ARGS✿[:：]\s*(.*?)\s*(?=✿FUNCTION✿|\Z)", re.S)
_ACTION_LIST = compile_on_use(r"\A(.*?)(?:\A|\n)[ \t]*Action[ \t]*[:：]\s*(```(?:json)?\s*\[.*?\]\s*```)\s*\Z", re.S)
"""Command R's calls."""
MAX_TAGS = 200
"""More calls than an answer has; every tag without an end costs a search through the rest of the text."""
_CALL_STARTS = frozenset("[{<")
FENCE = compile_on_use(r"\A\s*```(?:[A-Za-z]+\s)?\s*(.*?)\s*```\s*\Z", re.S)


def split_tagged_calls(text: str, tools: Sequence[Mapping[str, Any]] = ()) -> CallText | Drop | None:
    """Split the calls between tags off a text: Hermes and Qwen, glaive, Llama 3, Mistral and GLM write them so.

    Args:
        text: The text of an answer.
        tools: The tools, for the names of arguments without one.

    Returns:
        None if the text has no such tag, or only talks about one; a Drop if a tag holds no call.
    """
    if "<" not in text and "[TOOL_CALLS]" not in text and "✿FUNCTION✿" not in text:
        return None
    if text.count("<function=") + text.count("<invoke ") > MAX_TAGS:
        return Drop("broken_tool_call", text[:80])
    rest: list[str] = []
    calls: list[ToolCall] = []
    end = 0
    for match in _BLOCK.finditer(text):
        if text.count("```", 0, match.start()) % 2 or text[match.start() - 1 : match.start()] == "`":
            continue
        inner = next(part for part in match.groups()[1:] if part is not None)
        found = parse_calls(inner, tools)
        if isinstance(found, Drop):
            if not tools and inner.strip()[:1] not in _CALL_STARTS:
                continue
            return found
        calls += found
        rest.append(text[end : match.start()])
        end = match.end()
    if not calls:
        return None
    return CallText("\n".join(part for part in map(str.strip, [*rest, text[end:]]) if part), tuple(calls))


def parse_calls(text: str, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[ToolCall, ...] | Drop:
    """Parse a text that is nothing but calls, in any of the ways that sets write them; a Drop if it is not."""
    text = text.strip()
    fence = FENCE.match(text)
    text = fence[1].strip() if fence else text
    for parse in (_parse_data_calls, _parse_markup_calls, _parse_line_call):
        calls = parse(text)
        if calls:
            return calls
    return parse_python_calls(text, tools) or Drop("broken_tool_call", text[:80])


def _parse_data_calls(text: str) -> tuple[ToolCall, ...] | None:
    if text[:1] not in ("{", "["):
        return None
    calls = read_calls([text])
    if not isinstance(calls, Drop):
        return calls
    lines = [line for line in text.splitlines() if line.strip()]
    calls = read_calls(lines) if len(lines) > 1 and all(line.lstrip()[:1] == "{" for line in lines) else calls
    return None if isinstance(calls, Drop) else calls


def _parse_markup_calls(text: str) -> tuple[ToolCall, ...] | None:
    """Parse `<function=name>` with parameters or JSON in it, and GLM's name with keys and values."""
    if "<arg_key>" in text:
        name = text.partition("<arg_key>")[0].strip()
        rest = _KEY_VALUE.sub("", text).strip()
        pairs = {key.strip(): _parse_value(value) for key, value in _KEY_VALUE.findall(text)}
        return (ToolCall(name, pairs),) if name and rest == name else None
    for pattern in (_DEEPSEEK, _KIMI, _QWEN_AGENT):
        marks = ("tool_call_begin", "tool▁call▁begin", "✿FUNCTION✿")
        if sum(map(text.count, marks)) <= MAX_TAGS and pattern.search(text):
            return _parse_named_arguments(pattern, text)
    calls = []
    if text.count("<function=") + text.count("<invoke ") > MAX_TAGS:
        return None
    for match in _FUNCTION.finditer(text):
        name, body = (match[1], match[2]) if match[1] else (match[3], match[4])
        parameters = _PARAMETER.findall(body)
        arguments = (
            {key.strip(): value.removeprefix("\n").removesuffix("\n") for key, value in parameters}
            if parameters or not body.strip()
            else read_arguments(body)
        )
        if arguments is None:
            return None
        calls.append(ToolCall(name.strip(), arguments))
    return tuple(calls) if calls and not _FUNCTION.sub("", text).strip() else None


def _parse_named_arguments(pattern: re.Pattern[str], text: str) -> tuple[ToolCall, ...] | None:
    """Parse calls that a pattern matches, its groups being the name and the arguments, perhaps in a fence."""
    calls = []
    for name, raw in pattern.findall(text):
        fence = FENCE.match(raw)
        arguments = read_arguments(fence[1] if fence else raw)
        if arguments is None:
            return None
        calls.append(ToolCall(name.strip(), arguments))
    return tuple(calls) if not pattern.sub("", text).strip() else None


def _parse_value(text: str) -> Any:
    value = parse_data(text.strip())
    return text if value is None else value


_LINE_CALL = compile_on_use(r"([^\s{}\[\]()<>:：]{1,80})[ \t\r]*\n[ \t]*(\{.*\})\Z", re.S)


def _parse_line_call(text: str) -> tuple[ToolCall, ...] | None:
    """Parse GLM-4's call: the name on a line, then the arguments as JSON."""
    match = _LINE_CALL.match(text)
    arguments = read_arguments(match[2]) if match else None
    return None if match is None or arguments is None else (ToolCall(match[1], arguments),)


# --- Python calls -----------------------------------------------------------------------------------------------------

_NAME = compile_on_use(r"\s*([^\s()\[\]{}\"'`，。！？：；:;,=<>][^()\[\]{}\"'`，。！？：；:;=<>\n]{0,120}?)\s*\(")
_KEYWORD = compile_on_use(r"\s*([^\s()\[\]{}\"',=]{1,80})\s*=(?!=)\s*")
_CONSTANTS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


def parse_python_calls(text: str, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[ToolCall, ...] | None:
    """Parse `[name(key=value, ...), ...]`, with or without the brackets; names may hold blanks, as in ToolACE.

    Args:
        text: Nothing but the calls.
        tools: The tools; an argument without a name takes the name of the parameter at its place.

    Returns:
        The calls; None if the text is anything else, or a value is no literal.
    """
    text = text.strip().rstrip(";")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    calls: list[ToolCall] = []
    position = 0
    while position < len(text):
        match = _NAME.match(text, position)
        end = _find_close(text, match.end()) if match else None
        if match is None or end is None:
            return None
        arguments = _parse_python_arguments(text[match.end() : end], match[1], tools)
        if arguments is None:
            return None
        calls.append(ToolCall(match[1], arguments))
        position = end + 1
        while position < len(text) and text[position] in " \t\r\n,;":
            position += 1
    return tuple(calls) or None


def _parse_python_arguments(text: str, name: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    arguments: dict[str, Any] = {}
    for number, part in enumerate(_split_top_level(text)):
        match = _KEYWORD.match(part)
        key = match[1] if match else find_parameter(name, number, tools)
        raw = (part[match.end() :] if match else part).strip()
        value = _CONSTANTS[raw] if raw in _CONSTANTS else parse_data(_fix_literal(raw))
        if key is None or key in arguments or (value is None and raw not in _CONSTANTS):
            return None
        arguments[key] = value
    return arguments


def _fix_literal(text: str) -> str:
    """Write true, false and null of JSON in a literal with single quotes as Python does, outside of quotes."""
    if "'" not in text:
        return text
    pieces = re.split(r"('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", text)
    pieces[::2] = [re.sub(r"\b(true|false|null)\b", lambda match: repr(_CONSTANTS[match[1]]), p) for p in pieces[::2]]
    return "".join(pieces)


def find_parameter(name: str, number: int, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """Find the name of a tool's parameter by its place, from 0; None if the tool has none there or is unknown."""
    for tool in tools:
        parameters = tool.get("parameters")
        if tool.get("name") == name and isinstance(parameters, dict):
            properties = parameters.get("properties")
            names = list(properties) if isinstance(properties, dict) else []
            return str(names[number]) if number < len(names) else None
    return None


def _find_close(text: str, start: int) -> int | None:
    """Index of the bracket that closes one before `start`."""
    return next((index for index, _, depth in scan_brackets(text, start) if depth < 0), None)


def _split_top_level(text: str) -> list[str]:
    """Split at the commas outside of brackets and quotes; blank parts are left out."""
    ends = [index for index, char, depth in scan_brackets(text, 0) if char == "," and depth == 0]
    parts = [text[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(text)], strict=True)]
    return [part for part in parts if part.strip()]


# --- calls and results in one answer --------------------------------------------------------------------------------

_INLINE = compile_on_use(r"<\|startofthink\|>(.*?)<\|endofthink\|>(?:\s*<\|startofexec\|>(.*?)<\|endofexec\|>)?", re.S)
_FENCES = compile_on_use(r"\A\s*```[A-Za-z]*\s*(.*?)\s*```\s*\Z", re.S)


def split_inline_trace(message: Message) -> list[Message] | Drop | None:
    """Split an answer of ModelScope-Agent, which holds calls and their results, into turns; None for other answers."""
    if "<|startofthink|>" not in message.text:
        return None
    if message.text.count("<|startofthink|>") > MAX_TAGS:
        return Drop("broken_tool_call", message.text[:80])
    turns: list[Message] = []
    end = 0
    for match in _INLINE.finditer(message.text):
        calls = parse_calls(match[1])
        if isinstance(calls, Drop):
            return calls
        text = strip_turn(message.text[end : match.start()])
        turns.append(replace(message, text=text, tool_calls=calls, reasoning="" if turns else message.reasoning))
        if match[2] is not None:
            fence = _FENCES.match(match[2])
            turns.append(Message("tool", strip_turn(fence[1] if fence else match[2]), name=calls[0].name))
        end = match.end()
    rest = strip_turn(message.text[end:])
    if rest or not turns:
        turns.append(replace(message, text=rest, reasoning="" if turns else message.reasoning))
    return turns


# --- calls by nothing but their form ----------------------------------------------------------------------------------

_CALL_START = compile_on_use(
    r"\A\s*(?:[\[{]|<|```|[\w./ -]{1,60}\()|(?:\A|\n)[ \t]*(?:Action|行动|动作)[ \t]*[:：]", re.I
)


def split_untagged_calls(text: str, tools: Sequence[Mapping[str, Any]], has_result: bool) -> CallText | Drop | None:
    """Split the calls of a text that marks them by nothing but their form (ReAct's apart).

    Args:
        text: The text of an answer.
        tools: The tools of the conversation.
        has_result: Whether a tool's result follows the answer. Without one, only calls of known tools count.

    Returns:
        None if the answer is text; a Drop if it begins as a call does and is none.
    """
    listed = _ACTION_LIST.match(text) if "Action" in text else None
    if listed is not None:
        calls = parse_calls(listed[2], tools)
        return calls if isinstance(calls, Drop) else CallText(strip_turn(listed[1]), calls)
    if not has_result and not (tools and (text.lstrip()[:1] in ("[", "{", "`") or _begins_with_call(text, tools))):
        return None
    calls = parse_calls(text, tools)
    if not isinstance(calls, Drop):
        return CallText("", calls) if has_result or are_known(calls, tools) else None
    if not has_result:
        return None
    line = re.search(r"\n[ \t]*([\[{].*)\Z", text, re.S)
    tail = parse_calls(line[1], tools) if line else calls
    if line and not isinstance(tail, Drop):
        return CallText(strip_turn(text[: line.start()]), tail)
    return calls if _CALL_START.search(text) else None


def _begins_with_call(text: str, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a text begins with the name of a tool and a bracket, as a call in Python does."""
    name, bracket, _ = text.lstrip()[:_MAX_NAME].partition("(")
    return bool(bracket) and any(tool.get("name") == name.rstrip() for tool in tools)


_MAX_NAME = 120


def are_known(calls: Collection[ToolCall], tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the tools of all calls are in a list of tools."""
    names = {tool.get("name") for tool in tools}
    return all(call.name in names for call in calls)
