"""Calls of tools that a model writes as JSON, read from its answer while it is written.

Owns the form `{"name": ..., "parameters": {...}}` (Llama 3.1; `arguments` is taken too). Does not own how tools are
told to the model: that is the chat template's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_HEAD = re.compile(
    r'\s*(?:<\|python_tag\|>|<tool_call>)?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]{1,256})"'
    r'\s*,\s*"(?:parameters|arguments)"\s*:\s*(?=\{)'
)
_LONGEST_HEAD = 512


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of an answer: text for the person, or part of a call. `name` comes once, before the arguments."""

    text: str = ""
    name: str = ""
    arguments: str = ""


class CallReader:
    """Tells the text of an answer from a call of one of `names`. What may still become a call is held back."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._state = "open" if names else "text"
        self._depth, self._quoted, self._escaped = 0, False, False
        self.called = False
        """Whether a call was written to its end."""

    def put(self, text: str) -> list[Said]:
        if self._state == "open":
            self._held += text
            return self._decide()
        if self._state == "call":
            return self._arguments(text)
        return [Said(text)] if text and self._state == "text" else []

    def end(self) -> list[Said]:
        """What was held back in vain."""
        held, self._held = self._held, ""
        return [Said(held)] if held else []

    def _decide(self) -> list[Said]:
        head = _HEAD.match(self._held)
        if head and head[1] in self._names:
            rest, self._held, self._state = self._held[head.end() :], "", "call"
            return [Said(name=head[1]), *self._arguments(rest)]
        start = self._held.lstrip()
        may_become = start[:1] == "{" or any(
            opening.startswith(start[: len(opening)]) for opening in ("<|python_tag|>", "<tool_call>")
        )
        if head or len(start) > _LONGEST_HEAD or not may_become:
            self._state = "text"
            return self.end()
        return []

    def _arguments(self, text: str) -> list[Said]:
        for place, letter in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = letter == "\\"
                self._quoted = letter != '"'
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:  # what follows is the end of the outer object
                    self._state, self.called = "done", True
                    return [Said(arguments=text[: place + 1])]
        return [Said(arguments=text)] if text else []


def names_of(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(str(_function(tool).get("name")) for tool in tools)


def schema_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The JSON schema of a call of one of `tools`."""
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": _function(tool)["name"]},
                    "parameters": {"type": "object", **(_function(tool).get("parameters") or {})},
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
            for tool in tools
        ]
    }


def parsed(arguments: str) -> dict[str, Any] | None:
    """The arguments of a call as an object; None where they are none."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    found = tool.get("function", tool)
    return found if isinstance(found, Mapping) else {}
