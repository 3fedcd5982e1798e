"""The format of glaive-function-calling: one text of marked turns, with functions as JSON in the system text.

Source: the files of glaive-function-calling, whose `sample` begins with the system text, and of its version 2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from hanlin.core.records import Message, Role
from hanlin.data.formats.base import collect_meta, find_own_id, find_unread_fields, strip_turn
from hanlin.data.formats.content.calls import read_calls
from hanlin.data.formats.content.tool_lists import read_tools
from hanlin.data.formats.turns import ParsedChat, prepend_system
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

_MARK = compile_on_use(r"(?:\A|\n)[ \t]*(USER|ASSISTANT|FUNCTION RESPONSE):[ ]?")
_SYSTEM = compile_on_use(r"\A\s*SYSTEM:(.*?)(?=\n[ \t]*USER:)", re.S)
_ROLES: dict[str, Role] = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_CALL = "<functioncall>"
_QUOTED = compile_on_use(r"(\"arguments\":\s*)'(.*)'(?=\s*\}\s*\Z)", re.S)
_END = "<|endoftext|>"
_FUNCTIONS = compile_on_use(r"\{\s*\"")


def _find_text(value: Any) -> tuple[str, str, str] | None:
    """The field, the system text and the turns of a row."""
    if not isinstance(value, dict):
        return None
    for field in ("chat", "sample"):
        text = value.get(field)
        if not isinstance(text, str):
            continue
        system = _SYSTEM.match(text)
        turns = text[system.end() :].strip() if system else text.strip()
        if _MARK.match(turns):
            return field, system[1].strip() if system else "", turns
    return None


def is_glaive(value: Any) -> bool:
    """Whether a row is in the format of Glaive: `chat` or `sample` is a text that begins with the mark of a turn."""
    return _find_text(value) is not None


def read_glaive(value: Any) -> Iterator[ParsedChat | Drop]:
    """Read {system, chat}, or {sample} with the system text in it.

    `USER:`, `ASSISTANT:` and `FUNCTION RESPONSE:` begin turns, `<functioncall>` a call whose arguments may be in single
    quotes. Functions are JSON objects in the system text, one after another.
    """
    found = _find_text(value)
    if found is None:
        yield Drop("other_format")
        return
    field, inner_system, turns = found
    system = inner_system or str(value.get("system") or "").strip().removeprefix("SYSTEM:").strip()
    functions = _FUNCTIONS.search(system)
    tools = read_tools(_decode_objects(system[functions.start() :])) if functions else ()
    if isinstance(tools, Drop):
        yield tools
        return
    messages: list[Message] = []
    _, *pieces = _MARK.split("\n" + turns)
    for name, content in zip(pieces[::2], pieces[1::2], strict=True):
        content = content.replace(_END, "")
        text, *data = content.split(_CALL) if name == "ASSISTANT" else [content]
        calls = read_calls([_unquote_arguments(call.strip()) for call in data])
        if isinstance(calls, Drop):
            yield calls
            return
        messages.append(Message(_ROLES[name], strip_turn(text), calls))
    opening = strip_turn(system[: functions.start()] if functions else system)
    used = ("system", field, *find_own_id(value))
    yield ParsedChat(
        prepend_system(opening, tuple(messages)), tools, collect_meta(value, used), find_unread_fields(value, used)
    )


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
