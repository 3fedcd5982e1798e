"""Anthropic's request bodies. To add a field: declare it here and pass it on in `to_params`."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field

from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.serve.api.anthropic.blocks import InputMessage, TextBlock, check_results, make_system_turns
from hanlin.serve.api.body import MAX_MESSAGES, AnswerBody, RequestBody
from hanlin.serve.api.fields import SamplingBody, StopString, StructuredOutputBody
from hanlin.serve.api.foreign_fields import FOREIGN_SAMPLING_FIELDS, FOREIGN_THINKING_FIELDS
from hanlin.serve.api.structure.output_format import JsonSchemaFormat, OutputFormat, choose_answer_format
from hanlin.serve.api.thinking import ThinkingEffort
from hanlin.serve.errors import ApiError, unsupported_value_error
from hanlin.serve.registry import GenerationParams

_MAX_TOOLS = 512


class _Tool(RequestBody):
    """A tool that the client runs. `eager_input_streaming` has no effect: input always streams as it is written."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "defer_loading": (None, False),
        "allowed_callers": (None, ["direct"]),
        "input_examples": (None, []),
    }
    type: str | None = None
    name: str = Field(min_length=1, max_length=128)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    eager_input_streaming: bool | None = None

    def to_function(self, index: int) -> dict[str, Any]:
        """The tool as chat templates read it.

        Raises:
            ApiError: 400 for a tool that Anthropic's servers run, or one without `input_schema`.
        """
        if self.type not in (None, "custom"):
            raise unsupported_value_error(f"tools.{index}.type", self.type)
        if self.input_schema is None:
            raise ApiError(400, tr("a tool has no input_schema"), param=f"tools.{index}.input_schema")
        description = {} if self.description is None else {"description": self.description}
        function = {"name": self.name, **description, "parameters": self.input_schema}
        return {"type": "function", "function": function}


class _ToolChoice(RequestBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class _Thinking(RequestBody):
    """Whether the model thinks. `budget_tokens` has no effect: `max_tokens` bounds thinking and answer together."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class _JsonFormat(RequestBody):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(RequestBody):
    """`effort` has no effect: the model knows no levels."""

    format: _JsonFormat | None = None
    effort: str | None = None


class _Edit(RequestBody):
    """Which thinking of earlier turns stays is the chat template's rule."""

    type: Literal["clear_thinking_20251015"]


class _ContextManagement(RequestBody):
    edits: list[_Edit] | None = None


class CountTokensRequest(AnswerBody):
    """The body of `POST /v1/messages/count_tokens`: what makes the prompt."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "container": (None,),
        "mcp_servers": (None, []),
        "inference_geo": (None,),
        "speed": (None, "standard"),
        **FOREIGN_THINKING_FIELDS,
    }
    model: str
    messages: list[InputMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: str | list[TextBlock] | None = None
    tools: list[_Tool] | None = Field(None, max_length=_MAX_TOOLS)
    tool_choice: _ToolChoice | None = None
    thinking: _Thinking | None = None
    output_config: _OutputConfig | None = None
    output_format: _JsonFormat | None = None
    context_management: _ContextManagement | None = None
    cache_control: dict[str, Any] | None = None

    def to_messages(self) -> list[Message]:
        """The turns, after the system text.

        Raises:
            ApiError: 400 for a block that cannot be rendered, and for the result of a call that nobody made.
        """
        turns = [turn for index, message in enumerate(self.messages) for turn in message.to_messages(index)]
        check_results(self.messages)
        return [*make_system_turns(self.system), *turns]

    def rename_param(self, param: str | None) -> str | None:
        """The field of this request for one of the turns and functions that it was made into.

        For example `messages.1` is `messages.0` if a system text is the first turn, and `tools.0.function.parameters`
        is `tools.0.input_schema`.
        """
        turn = re.match(r"messages\.(\d+)", param or "")
        if param is None or turn is None:
            return param and param.replace("function.parameters", "input_schema").replace("function.", "")
        system = [(-1, message) for message in make_system_turns(self.system)]
        turns = [(index, turn) for index, message in enumerate(self.messages) for turn in message.to_messages(index)]
        source = [*system, *turns][int(turn[1])][0]
        return "system" if source < 0 else f"messages.{source}"

    def get_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is offered."""
        tools = [tool.to_function(index) for index, tool in enumerate(self.tools or ())]
        return [] if self.tool_choice is not None and self.tool_choice.type == "none" else tools

    @property
    def max_calls(self) -> int | None:
        """How many calls of an answer are read; None: all."""
        return 1 if self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use else None

    @property
    def thinks(self) -> ThinkingEffort | None:
        """How much the answer may think; None leaves that to the model. Claude Code enables it for every model."""
        efforts: dict[str, ThinkingEffort] = {"enabled": "high", "disabled": "none"}
        return efforts.get(self.thinking.type) if self.thinking is not None else None

    @property
    def shows_thinking(self) -> bool:
        """Whether thinking blocks hold their text."""
        return self.thinking is None or self.thinking.display != "omitted"

    def make_response_format(self) -> OutputFormat | None:
        """What the answer must be: a call that is demanded, or text of a schema; None if the model is free.

        Raises:
            ApiError: 400 for a demanded tool that is not offered, or two formats.
        """
        is_named = self.tool_choice is not None and self.tool_choice.type == "tool"
        text_formats = self._list_text_formats()
        return choose_answer_format(
            [*self.list_output_formats(), *text_formats[1:]],
            text_formats[0] if text_formats else None,
            self.get_tools(),
            self._get_required_tools(),
            {tool.name for tool in self.tools or () if tool.strict},
            1 if is_named else self.max_calls,
        )

    def list_output_formats(self) -> list[OutputFormat]:
        """Formats in other servers' fields."""
        return []

    def _list_text_formats(self) -> list[JsonSchemaFormat]:
        formats = []
        if self.output_config is not None and self.output_config.format is not None:
            formats.append(JsonSchemaFormat(self.output_config.format.schema_, "output_config.format.schema", False))
        if self.output_format is not None:
            formats.append(JsonSchemaFormat(self.output_format.schema_, "output_format.schema", False))
        return formats

    def _get_required_tools(self) -> list[dict[str, Any]]:
        """The tools one of which must be called; empty if the model may choose."""
        choice = self.tool_choice
        if choice is None or choice.type in ("auto", "none"):
            return []
        tools = self.get_tools()
        if choice.type == "tool":
            tools = [tool for tool in tools if tool["function"]["name"] == choice.name]
        if not tools:
            raise ApiError(400, tr("tool_choice names no tool of this request"), param="tool_choice")
        return tools


class MessagesRequest(StructuredOutputBody, CountTokensRequest, SamplingBody):
    """The body of `POST /v1/messages`. `metadata` and `service_tier` have no effect on the answer."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        **FOREIGN_SAMPLING_FIELDS,
        **CountTokensRequest.unsupported_fields,
    }
    max_tokens: int = Field(ge=1)
    stop_sequences: list[StopString] | None = Field(None, max_length=16)
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    n: Literal[1] | None = None

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other."""
        stops = (*(self.stop_sequences or ()), *self.stop_strings)
        return GenerationParams(self.to_sampling(), stops, 1, self.make_response_format(), self.extra_stop_ids)
