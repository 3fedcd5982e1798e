"""Items of a conversation as the Responses API writes them, and the way from them to messages.

reasoning, message, function_call, function_call    ->  one assistant's turn
function_call_output, function_call_output          ->  two tools' turns
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter

from hanlin.chat.reasoning import split_reasoning
from hanlin.core.i18n import tr
from hanlin.core.records import Message, Role, ToolCall
from hanlin.serve.api.body import BoundedModel
from hanlin.serve.api.messages import parse_call_arguments
from hanlin.serve.errors import ApiError, unsupported_value_error

_TEXT_PARTS = ("input_text", "output_text", "text")
_ENCRYPTED_PREFIX = "hanlin."


class _Item(BoundedModel):
    """Base of the items. Fields that say nothing to the model (ids, states) are kept, to be read again."""

    model_config = ConfigDict(extra="allow", strict=True)


class ContentPart(_Item):
    """A part of a message or of a tool's result. Any type is read here; `join_parts` rejects what is not text."""

    type: str
    text: str | None = None
    refusal: str | None = None


class MessageItem(_Item):
    """A turn of one role; clients may leave `type` out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[ContentPart]


class FunctionCallItem(_Item):
    """A call of a tool by the model."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class FunctionCallOutputItem(_Item):
    """What a tool returned."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[ContentPart]


class ReasoningItem(_Item):
    """What the model thought before the answer or the calls that follow."""

    type: Literal["reasoning"]
    summary: list[ContentPart] = Field(default_factory=list)
    content: list[ContentPart] | None = None
    encrypted_content: str | None = None


class ItemReference(_Item):
    """An item of a stored response, by its id."""

    type: Literal["item_reference"] | None = None
    id: str


class ForeignItem(_Item):
    """An item of any other type; it is rejected by the name of its type."""

    type: str


def _tag_of(item: Any) -> str:
    fields = item if isinstance(item, dict) else getattr(item, "__dict__", {})
    kind = fields.get("type")
    if kind is None:
        return "item_reference" if "id" in fields and "role" not in fields else "message"
    return kind if kind in _TAGS else "foreign"


_TAGS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[ForeignItem, Tag("foreign")],
    Discriminator(_tag_of),
]
read_items: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])
"""Reads items again that were stored as JSON."""


def to_messages(items: Sequence[InputItem], where: str = "input") -> list[Message]:
    """The turns of a conversation.

    Args:
        items: Its items, references resolved.
        where: The request field that holds them, named in errors.

    Raises:
        ApiError: 400 that names the item and the field that cannot be put before the model.
    """
    return _TurnBuilder(where).build(items)


class _TurnBuilder:
    """Joins the items that the model wrote in one go to one turn."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._messages: list[Message] = []
        self._reasoning: list[str] = []  # of the turn that has yet to begin
        self._is_open = False  # whether the last message is an assistant's turn that calls may still join

    def build(self, items: Sequence[InputItem]) -> list[Message]:
        for index, item in enumerate(items):
            self._add(item, f"{self._where}.{index}")
        if self._reasoning:
            what = tr("a reasoning item must be followed by the message or the calls that it led to")
            raise ApiError(400, what, param=f"{self._where}.{len(items) - 1}")
        return self._messages

    def _add(self, item: InputItem, path: str) -> None:
        if isinstance(item, ReasoningItem):
            self._is_open = False
            if reasoning := _read_reasoning(item, path):
                self._reasoning.append(reasoning)
        elif isinstance(item, FunctionCallItem):
            self._add_call(item, path)
        elif isinstance(item, MessageItem) and item.role == "assistant":
            self._add_assistant(Message("assistant", join_parts(item.content, f"{path}.content")))
        elif isinstance(item, MessageItem | FunctionCallOutputItem):
            self._add_other(item, path)
        else:
            raise unsupported_value_error(f"{path}.type", item.type)

    def _add_call(self, item: FunctionCallItem, path: str) -> None:
        arguments = parse_call_arguments(item.arguments, f"{path}.arguments")
        if item.namespace:
            raise unsupported_value_error(f"{path}.namespace", item.namespace)
        call = ToolCall(item.name, arguments, item.call_id)
        if self._is_open:
            last = self._messages[-1]
            self._messages[-1] = replace(last, tool_calls=(*last.tool_calls, call))
        else:
            self._add_assistant(Message("assistant", "", (call,)))

    def _add_assistant(self, message: Message) -> None:
        reasoning, self._reasoning = "\n\n".join(self._reasoning), []
        if not reasoning:
            reasoning, text = split_reasoning(message.text)
            message = replace(message, text=text)
        self._messages.append(replace(message, reasoning=reasoning))
        self._is_open = True

    def _add_other(self, item: MessageItem | FunctionCallOutputItem, path: str) -> None:
        if self._reasoning:  # the answer was cut off while the model thought
            self._add_assistant(Message("assistant", ""))
        self._is_open = False
        if isinstance(item, FunctionCallOutputItem):
            output = join_parts(item.output, f"{path}.output")
            self._messages.append(Message("tool", output, tool_call_id=item.call_id))
        else:
            role: Role = "system" if item.role in ("system", "developer") else "user"
            self._messages.append(Message(role, join_parts(item.content, f"{path}.content")))


def join_parts(content: str | Sequence[ContentPart], path: str) -> str:
    """The text of a content field.

    Raises:
        ApiError: 400 that names a part that is not text, such as an image.
    """
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        text = part.text if part.type in _TEXT_PARTS else part.refusal if part.type == "refusal" else None
        if text is None:
            raise unsupported_value_error(f"{path}.{index}.type", part.type)
        texts.append(text)
    return "".join(texts)


def _read_reasoning(item: ReasoningItem, path: str) -> str:
    """The text of a reasoning item: its content, or what stands in for it."""
    for parts in (item.content, item.summary):
        if text := "\n\n".join(part.text for part in parts or () if part.text):
            return text
    if not item.encrypted_content:
        return ""
    reasoning = open_reasoning(item.encrypted_content)
    if reasoning is None:
        what = tr("this server did not write it and cannot read it")
        raise ApiError(400, what, param=f"{path}.encrypted_content", code="invalid_encrypted_content")
    return reasoning


def seal_reasoning(reasoning: str) -> str:
    """Reasoning as `encrypted_content`: clients that keep no reasoning text send it back. It is encoded, no secret."""
    return _ENCRYPTED_PREFIX + base64.b64encode(reasoning.encode()).decode("ascii")


def open_reasoning(sealed: str) -> str | None:
    """What `seal_reasoning` was given; None if it did not write this."""
    if not sealed.startswith(_ENCRYPTED_PREFIX):
        return None
    try:
        return base64.b64decode(sealed.removeprefix(_ENCRYPTED_PREFIX), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
