"""The interface of the programs that read a model's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hanlin.chat.reasoning import REASONING_FIELDS, THINKING_SWITCHES
from hanlin.chat.template_data import to_template_messages, to_template_tools
from hanlin.core.records import Message


class BackendUnavailable(Exception):
    """A program cannot run here; the text says why."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Turns that end with the user or a tool; the assistant is next.

    `thinking` turns thinking on or off in templates that have a switch for it; None leaves that to the template.
    `reasoning_field` is the field in which the template reads reasoning; servers have a name of their own for it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: bool | None = None
    reasoning_field: str = REASONING_FIELDS[0]

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What a program hands the template besides the turns."""
        return {} if self.thinking is None else dict.fromkeys(THINKING_SWITCHES, self.thinking)


class Backend(Protocol):
    """A program that turns conversations into token ids by itself, from the files that it is given."""

    name: str

    def render_prompts(self, batch: Sequence[ChatPrompt]) -> list[list[int] | str]:
        """The ids of each prompt, or the program's message if it refused it.

        Raises BackendUnavailable if the program cannot run, UserError if it cannot read its files.
        """
        ...

    def stop_ids(self) -> frozenset[int] | None:
        """The ids at which the program ends an answer by itself; None if it does not say."""
        ...

    def close(self) -> None: ...


def openai_body(prompt: ChatPrompt, reasoning_field: str = REASONING_FIELDS[0]) -> dict[str, Any]:
    """A prompt as OpenAI's chat API takes it; `reasoning_field` is the one in which the server reads reasoning."""
    body: dict[str, Any] = {"messages": openai_messages(prompt.messages, reasoning_field)}
    tools = to_template_tools(prompt.tools)
    if prompt.thinking is not None:
        body["chat_template_kwargs"] = prompt.template_arguments
    return {**body, "tools": tools} if tools else body


def openai_messages(messages: Sequence[Message], reasoning_field: str = REASONING_FIELDS[0]) -> list[dict[str, Any]]:
    """Messages as OpenAI's API takes them: a call has an id and its arguments as JSON text, a result names its call.

    Servers turn the arguments back into an object before their template sees them, and pass it the ids too.
    """
    rows = to_template_messages(messages, reasoning_field)
    waiting: list[str] = []
    for index, row in enumerate(rows):
        calls = row.get("tool_calls", [])
        for number, call in enumerate(calls):
            call.setdefault("id", f"call_{index}_{number}")
            function = call["function"]
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        if calls:
            waiting = [call["id"] for call in calls]
        if row["role"] == "tool":
            row.setdefault("tool_call_id", waiting.pop(0) if waiting else f"call_{index}")
    return rows
