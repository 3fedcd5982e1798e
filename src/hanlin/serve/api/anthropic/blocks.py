"""Content blocks of Anthropic's messages, and the turns that they make.

A turn of blocks becomes one message, or several: each `tool_result` of a user's turn is a tool's turn of its own.

    user: [tool_result A, tool_result B, text]   ->   tool A, tool B, user
    assistant: [thinking, text, tool_use]        ->   assistant (reasoning, text, one call)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from hanlin.chat.reasoning import assistant_message
from hanlin.core.i18n import tr
from hanlin.core.records import Message, ToolCall
from hanlin.serve.api.body import RequestBody
from hanlin.serve.errors import ApiError, clip_name

_BILLING_HEADER = "x-anthropic-billing-header:"
_ERROR_PREFIX = "Error: "
"""Stands before the result of a tool that failed (`is_error`): no chat template has a field for it."""


class _Block(RequestBody):
    """Base of the blocks. `cache_control` has no effect: the server reuses every prefix by itself."""

    cache_control: dict[str, Any] | None = None


class TextBlock(_Block):
    """A text."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"citations": (None, [])}
    type: Literal["text"]
    text: str


class _ToolUseBlock(_Block):
    """A call, in a turn of the assistant."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"toolset_name": (None,)}
    type: Literal["tool_use"]
    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    input: dict[str, Any]


class _ThinkingBlock(RequestBody):
    """What the assistant thought. The signature is for Anthropic's own servers."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class _RedactedThinkingBlock(RequestBody):
    """Thoughts that only Anthropic's own servers can read: there is nothing to give to the model."""

    type: Literal["redacted_thinking"]
    data: str


class _OtherBlock(RequestBody):
    """A block that a model of text cannot read (`image`, `document`, ...); refused by name."""

    type: str


def _get_type(block: Any) -> str:
    block_type = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return block_type if block_type in ("text", "tool_use", "tool_result", "thinking", "redacted_thinking") else "other"


_ResultBlock = Annotated[
    Annotated[TextBlock, Tag("text")] | Annotated[_OtherBlock, Tag("other")],
    Discriminator(lambda block: "text" if _get_type(block) == "text" else "other"),
]


class _ToolResultBlock(_Block):
    """The result of a call, in a turn of the user."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"toolset_name": (None,)}
    type: Literal["tool_result"]
    tool_use_id: str = Field(min_length=1)
    content: str | list[_ResultBlock] | None = None
    is_error: bool | None = None

    def to_message(self, param: str) -> Message:
        """The tool's turn. Raises ApiError (400) that names a block that is no text."""
        text = self.content if isinstance(self.content, str) else join_texts(self.content or (), f"{param}.content")
        return Message("tool", (_ERROR_PREFIX if self.is_error else "") + text, tool_call_id=self.tool_use_id)


_ContentBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[_ToolUseBlock, Tag("tool_use")]
    | Annotated[_ToolResultBlock, Tag("tool_result")]
    | Annotated[_ThinkingBlock, Tag("thinking")]
    | Annotated[_RedactedThinkingBlock, Tag("redacted_thinking")]
    | Annotated[_OtherBlock, Tag("other")],
    Discriminator(_get_type),
]


class InputMessage(RequestBody):
    """A turn of a request. Newer clients also send `system` between the turns."""

    role: Literal["user", "assistant", "system"]
    content: str | list[_ContentBlock]

    def to_messages(self, index: int) -> list[Message]:
        """The turns that it makes.

        Args:
            index: Its position, for errors.

        Raises:
            ApiError: 400 that names the block that its role cannot have, or that no model of text can read.
        """
        param = f"messages.{index}.content"
        if self.role == "assistant":
            return [self._to_answer(param)]
        if isinstance(self.content, str):
            return [Message(self.role, self.content)]
        if self.role == "system":
            return [Message("system", join_texts(self.content, param))]
        return self._to_user_turns(self.content, param)

    def _to_answer(self, param: str) -> Message:
        if isinstance(self.content, str):
            return assistant_message(self.content)
        texts, thoughts, calls = [], [], []
        for index, block in enumerate(self.content):
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, _ToolUseBlock):
                calls.append(ToolCall(block.name, block.input, block.id))
            elif isinstance(block, _ThinkingBlock):
                thoughts.append(block.thinking)
            elif not isinstance(block, _RedactedThinkingBlock):
                raise _unreadable(block.type, f"{param}.{index}")
        return assistant_message("".join(texts), tuple(calls), "\n".join(filter(None, thoughts)))

    def _to_user_turns(self, content: Sequence[Any], param: str) -> list[Message]:
        turns: list[Message] = []
        texts: list[str] = []
        for index, block in enumerate(content):
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, _ToolResultBlock):
                turns += [Message("user", _join(texts))] if texts else []
                turns.append(block.to_message(f"{param}.{index}"))
                texts = []
            else:
                raise _unreadable(block.type, f"{param}.{index}")
        return [*turns, Message("user", _join(texts))] if texts or not turns else turns


def check_results(messages: Sequence[InputMessage]) -> None:
    """Refuse the results of calls that the turn before them did not make; turns of one role in a row are one.

    Raises:
        ApiError: 400 that names the block, as Anthropic does.
    """
    call_ids: set[str] = set()
    previous = ""
    for index, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role == "assistant" and previous != "assistant":
            call_ids = set()
        previous = message.role
        for place, block in enumerate(() if isinstance(message.content, str) else message.content):
            if isinstance(block, _ToolUseBlock) and message.role == "assistant":
                call_ids.add(block.id)
            elif isinstance(block, _ToolResultBlock) and message.role == "user" and block.tool_use_id not in call_ids:
                shown = clip_name(block.tool_use_id)
                what = tr("the message before it has no tool_use block with the id '{shown}'", shown=shown)
                raise ApiError(400, what, param=f"messages.{index}.content.{place}.tool_use_id")


def join_texts(blocks: Sequence[Any], param: str) -> str:
    """The text of blocks that must all be text, as paragraphs.

    Raises:
        ApiError: 400 that names the first other block.
    """
    for index, block in enumerate(blocks):
        if not isinstance(block, TextBlock):
            raise _unreadable(block.type, f"{param}.{index}")
    return _join([block.text for block in blocks])


def make_system_turns(system: str | Sequence[TextBlock] | None) -> list[Message]:
    """The system text of a request as turns.

    Claude Code's first block is a line for billing that differs in every request. It is no text for the model, and
    before everything else it would keep the prefix from being reused: it is left out.
    """
    if not isinstance(system, str):
        texts = [block.text for block in system or () if not block.text.startswith(_BILLING_HEADER)]
        system = _join(texts)
    return [Message("system", system)] if system else []


def _join(texts: Sequence[str]) -> str:
    """Blocks as paragraphs of one text."""
    return "\n\n".join(texts)


def _unreadable(block_type: str, param: str) -> ApiError:
    if _get_type({"type": block_type}) != "other":
        what = tr("a block of type {block_type} cannot be here", block_type=block_type)
    else:
        what = tr("blocks of type {block_type} are not supported: the model reads text only", block_type=block_type)
    return ApiError(400, what, param=param, code="unsupported_value")
