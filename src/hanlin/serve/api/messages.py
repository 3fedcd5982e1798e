"""What the messages of several APIs hold alike: content as text or parts, and calls of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hanlin.core.i18n import tr
from hanlin.core.records import ToolCall
from hanlin.serve.api.fields import StrictModel
from hanlin.serve.errors import ApiError

Content = str | list[str | dict[str, Any]] | None
"""The content of a message: a text, or its parts."""

_TEXT_FIELDS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that hold text, and the field that holds it."""


class CalledFunction(StrictModel):
    """The function of a call. Clients send its arguments as JSON in a string, as an object, or leave them out."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCallEntry(StrictModel):
    """A call of a tool in a message."""

    function: CalledFunction
    id: str | None = None

    def to_tool_call(self, param: str) -> ToolCall:
        """Raises ApiError (400) that names `param` if the arguments are no JSON object."""
        return ToolCall(self.function.name, parse_call_arguments(self.function.arguments, param), self.id or "")


def to_text(content: Content, param: str) -> str | None:
    """The text of a message's content, its parts joined; None if there is none, or not a part.

    Args:
        content: A text, or parts.
        param: Path of the field, named in errors.

    Raises:
        ApiError: 400 for a part that is not text, such as an image, by its index and type.
    """
    if content is None or isinstance(content, str):
        return content
    if not content:
        return None
    return "".join(_part_text(part, f"{param}.{index}") for index, part in enumerate(content))


def parse_call_arguments(arguments: str | Mapping[str, Any] | None, param: str) -> Mapping[str, Any]:
    """The arguments of a call as an object; an empty text or none at all is no arguments.

    Args:
        arguments: JSON in a string, as OpenAI's API has it, or an object, as Ollama's has it.
        param: Path of the field, named in errors.

    Raises:
        ApiError: 400 if they are not a JSON object.
    """
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    if isinstance(arguments, Mapping):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = arguments
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ApiError(400, tr("the arguments of a tool call are not a JSON object"), param=param)
    return value


def _part_text(part: str | Mapping[str, Any], param: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type")
    field = _TEXT_FIELDS.get(kind) if isinstance(kind, str) else None
    if field is None:
        shown = repr(kind)[:60]
        what = tr("a part of type {shown} is not supported: the model reads text alone", shown=shown)
        raise ApiError(400, what, param=f"{param}.type", code="unsupported_value")
    text = part.get(field)
    if not isinstance(text, str):
        what = tr("a part has no text")
        raise ApiError(400, what, param=f"{param}.{field}")
    return text
