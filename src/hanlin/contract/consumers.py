"""Programs that read a model's chat template: what the check asks of each.

Owns the protocol. Does not own a program (one module each) or what is compared (`check`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hanlin.records import Message
from hanlin.tokens.turns import as_template_data, tools_as_template_data


class Unavailable(Exception):
    """A program that cannot be asked here; the text says why."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Turns that end with the user or a tool; the assistant speaks next."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


class Consumer(Protocol):
    """A program that makes token ids of turns by itself, from the files that it is given."""

    name: str

    def prompts(self, batch: Sequence[Prompt]) -> list[list[int] | str]:
        """The ids of each prompt, or what the program said when it refused it.

        Raises Unavailable when the program cannot be asked, UserError when it cannot read its files."""
        ...

    def stops(self) -> frozenset[int] | None:
        """The ids at which the program ends an answer by itself; None when it does not say."""
        ...

    def close(self) -> None: ...


def openai_body(prompt: Prompt) -> dict[str, Any]:
    """A prompt in the form of OpenAI's chat API: arguments of calls are JSON text, each call has an id."""
    turns = as_template_data(prompt.messages)
    calls = 0
    answered = 0
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            call["id"] = f"call_{calls}"
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
            calls += 1
        if turn["role"] == "tool":
            turn["tool_call_id"] = f"call_{answered}"
            answered += 1
    body: dict[str, Any] = {"messages": turns}
    tools = tools_as_template_data(prompt.tools)
    if tools:
        body["tools"] = tools
    return body
