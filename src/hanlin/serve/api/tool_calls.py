"""Tool calls that a model writes as JSON, parsed while the answer is generated.

The form is `{"name": ..., "parameters": {...}}` (Llama 3.1; `arguments` is accepted too). How the tools are presented
to the model is the chat template's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.serve.errors import ApiError
from hanlin.serve.json_schema import SchemaError, embed_schema

_CALL_HEAD = re.compile(
    r'\s*(?:<\|python_tag\|>|<tool_call>)?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"([^"\\]{1,256})"'
    r'\s*,\s*"(?:parameters|arguments)"\s*:\s*(?=\{)'
)
_MAX_HEAD_CHARS = 512
_CALL_MARKERS = ("<|python_tag|>", "<tool_call>")


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A part of an answer: text for the user, or part of a tool call. `name` comes once, before the arguments."""

    text: str = ""
    name: str = ""
    arguments: str = ""


class ToolCallParser:
    """Separates the text of an answer from a call of one of the tools. What may still become a call is held back.

        feed('{"name": "weather", ')        -> []
        feed('"parameters": {"day": 3')     -> [Delta(name='weather'), Delta(arguments='{"day": 3')]
        feed('}}')                          -> [Delta(arguments='}')]; `is_complete` is True

    Args:
        names: Names of the tools that the model was offered; without any, everything is text.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._buffer = ""
        self._state = "undecided" if names else "text"
        self._depth, self._in_string, self._is_escaped = 0, False, False
        self.is_complete = False
        """Whether a call was written to its end."""

    def feed(self, text: str) -> list[ToolCallDelta]:
        """What the next piece of the answer adds."""
        if self._state == "undecided":
            self._buffer += text
            return self._classify_buffer()
        if self._state == "call":
            return self._read_arguments(text)
        return [ToolCallDelta(text)] if text and self._state == "text" else []

    def flush(self) -> list[ToolCallDelta]:
        """At the end of the answer: what was held back and is no call."""
        held, self._buffer = self._buffer, ""
        return [ToolCallDelta(held)] if held else []

    def _classify_buffer(self) -> list[ToolCallDelta]:
        head = _CALL_HEAD.match(self._buffer)
        if head and head[1] in self._names:
            rest, self._buffer, self._state = self._buffer[head.end() :], "", "call"
            return [ToolCallDelta(name=head[1]), *self._read_arguments(rest)]
        start = self._buffer.lstrip()
        may_become_call = start[:1] == "{" or any(marker.startswith(start[: len(marker)]) for marker in _CALL_MARKERS)
        if head or len(start) > _MAX_HEAD_CHARS or not may_become_call:
            self._state = "text"
            return self.flush()
        return []

    def _read_arguments(self, text: str) -> list[ToolCallDelta]:
        for index, char in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._in_string:
                self._is_escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if self._depth == 0:  # what follows is the end of the outer object
                    self._state, self.is_complete = "done", True
                    return [ToolCallDelta(arguments=text[: index + 1])]
        return [ToolCallDelta(arguments=text)] if text else []


def get_tool_names(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The names of the functions among the `tools` of a request."""
    return frozenset(str(_get_function(tool).get("name")) for tool in tools)


def build_call_schema(tools: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The JSON schema of a call of one of `tools`.

    Args:
        tools: The tools of a request; the references in their schemas are to their own parts.
        answer: The schema of an answer without a call, if the model may choose.

    Raises:
        ApiError: 400 for a tool whose schema has a reference to nowhere.
    """
    definitions: dict[str, Any] = {}
    alternatives: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        parameters = {"type": "object", **(_get_function(tool).get("parameters") or {"properties": {}})}
        alternatives.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": _get_function(tool)["name"]},
                    "parameters": _embed(parameters, definitions, f"tools.{index}.function.parameters"),
                },
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    if answer is not None:
        alternatives.append(_embed(answer, definitions, "response_format"))
    return {"anyOf": alternatives, "$defs": definitions}


def _embed(schema: Mapping[str, Any], definitions: dict[str, Any], param: str) -> dict[str, Any]:
    try:
        return embed_schema(schema, definitions)
    except SchemaError as error:
        raise ApiError(400, str(error), param=param) from error


def parse_arguments(arguments: str) -> dict[str, Any] | None:
    """The arguments of a call as an object; None if they are not a JSON object."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _get_function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function of a tool, given as OpenAI writes it or bare."""
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}
