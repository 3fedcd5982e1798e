"""Programs that read a model's chat template: what the check asks of each.

Owns the protocol. Does not own a program (one module each) or what is compared (`check`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hanlin.chat.template_data import to_template_messages, to_template_tools
from hanlin.core.records import Message


class BackendUnavailable(Exception):
    """A program that cannot be asked here; the text says why."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Turns that end with the user or a tool; the assistant speaks next."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


class Backend(Protocol):
    """A program that makes token ids of turns by itself, from the files that it is given."""

    name: str

    def render_prompts(self, batch: Sequence[ChatPrompt]) -> list[list[int] | str]:
        """The ids of each prompt, or what the program said when it refused it.

        Raises Unavailable when the program cannot be asked, UserError when it cannot read its files."""
        ...

    def stop_ids(self) -> frozenset[int] | None:
        """The ids at which the program ends an answer by itself; None when it does not say."""
        ...

    def close(self) -> None: ...


def openai_body(prompt: ChatPrompt) -> dict[str, Any]:
    """A prompt as OpenAI's chat API takes it."""
    body: dict[str, Any] = {"messages": openai_messages(prompt.messages)}
    tools = to_template_tools(prompt.tools)
    return {**body, "tools": tools} if tools else body


def openai_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns as OpenAI's API takes them: a call has an id and its arguments as JSON text, a result names its call.

    Servers turn the arguments back into an object before their template sees them, and give it the ids too.
    """
    rows = to_template_messages(messages)
    waiting: list[str] = []
    for index, row in enumerate(rows):
        calls = row.get("tool_calls", [])
        for number, call in enumerate(calls):
            call["id"] = f"call_{index}_{number}"
            function = call["function"]
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        if calls:
            waiting = [call["id"] for call in calls]
        if row["role"] == "tool":
            row["tool_call_id"] = waiting.pop(0) if waiting else f"call_{index}"
    return rows
