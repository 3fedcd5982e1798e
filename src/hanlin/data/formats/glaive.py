"""The format of glaive-function-calling: one text of marked turns, with functions as JSON in the system text.

Source: the files of glaive-function-calling-v2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hanlin.core.records import Message, Role, ToolCall
from hanlin.data.formats.base import collect_meta, strip_turn
from hanlin.data.formats.turns import ParsedChat, prepend_system, read_calls, read_tools
from hanlin.data.ledger import Drop

_MARK = re.compile(r"(?:\A|\n)[ \t]*(USER|ASSISTANT|FUNCTION RESPONSE):[ ]?")
_ROLES: dict[str, Role] = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_CALL = "<functioncall>"
_QUOTED = re.compile(r"(\"arguments\":\s*)'(.*)'(?=\s*\}\s*\Z)", re.S)
_END = "<|endoftext|>"
_FUNCTIONS = re.compile(r"\{\s*\"")


def is_glaive(value: Any) -> bool:
    """Whether a row is in the format of Glaive: `chat` is a text that begins with the mark of a turn."""
    return (
        isinstance(value, Mapping) and isinstance(value.get("chat"), str) and bool(_MARK.match(value["chat"].strip()))
    )


def read_glaive(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {system, chat}.

    `USER:`, `ASSISTANT:` and `FUNCTION RESPONSE:` begin turns, `<functioncall>` a call whose arguments may be in single
    quotes. Functions are JSON objects in the system text, one after another.
    """
    if not is_glaive(value):
        yield Drop("other_format")
        return
    system = str(value.get("system") or "").strip().removeprefix("SYSTEM:").strip()
    functions = _FUNCTIONS.search(system)
    tools = read_tools(_decode_objects(system[functions.start() :])) if functions else ()
    if isinstance(tools, Drop):
        yield tools
        return
    messages: list[Message] = []
    _, *pieces = _MARK.split("\n" + value["chat"].strip())
    for name, content in zip(pieces[::2], pieces[1::2], strict=True):
        text, call, data = content.replace(_END, "").partition(_CALL)
        calls: tuple[ToolCall, ...] | Drop = read_calls([_unquote_arguments(data.strip())]) if call else ()
        if isinstance(calls, Drop):
            yield calls
            return
        messages.append(Message(_ROLES[name], strip_turn(text), calls))
    opening = strip_turn(system[: functions.start()] if functions else system)
    yield ParsedChat(prepend_system(opening, tuple(messages)), tools, collect_meta(value, ("system", "chat", "id")))


def _unquote_arguments(call: str) -> str:
    r"""Make a call valid JSON: arguments in single quotes are JSON themselves, with \' for '."""
    return _QUOTED.sub(lambda match: match[1] + match[2].replace("\\'", "'"), call)


def _decode_objects(text: str) -> list[Any] | str:
    """Decode JSON objects one after another; returns the remaining text at the first that is none."""
    values, decoder = [], json.JSONDecoder(parse_constant=_refuse_constant)
    while text := text.lstrip(" \t\r\n,"):
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError):
            return text
        values.append(value)
        text = text[end:]
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
