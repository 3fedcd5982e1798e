"""A conversation as Markdown, to read or to pass on: the branch that is shown, with what was thought and called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hanlin.core.i18n import tr
from hanlin.web.chat.store import find_path


def write_markdown(conversation: Mapping[str, Any]) -> str:
    """The branch that is shown, turn by turn; an answer that was made better stands in its better form.

    Args:
        conversation: As `ChatStore.read_conversation` gives it.
    """
    path = find_path(conversation["messages"], conversation["leaf"])
    blocks = [f"# {_one_line(conversation['title']) or tr('Untitled')}"]
    system = next((message["request"].get("system", "") for message in path if message["role"] == "assistant"), "")
    if system.strip():
        blocks += [f"## {tr('System text')}", system.strip()]
    for message in path:
        blocks += _write_turn(message)
    return "\n\n".join(blocks) + "\n"


def _write_turn(message: Mapping[str, Any]) -> Iterator[str]:
    if message["role"] == "user":
        yield f"## {tr('You')}"
        yield message["content"].strip()
        return
    if message["role"] == "tool":
        yield f"## {tr('Result of')} `{_one_line(message['name']) or message['tool_call_id']}`"
        yield _fence(message["content"])
        return
    yield f"## {_one_line(message['model']) or tr('Answer')}"
    if message["better"] is not None:
        yield message["better"].strip()
        return
    if message["reasoning"].strip():
        yield "\n".join(f"> {line}".rstrip() for line in message["reasoning"].strip().splitlines())
    if message["content"].strip():
        yield message["content"].strip()
    for call in message["tool_calls"]:
        function = call.get("function") or {}
        yield f"{tr('calls')} `{_one_line(str(function.get('name', '')))}`"
        yield _fence(str(function.get("arguments", "")), "json")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _fence(text: str, language: str = "") -> str:
    """A block of code whose fence is longer than any in the text."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text}\n{ticks}"
