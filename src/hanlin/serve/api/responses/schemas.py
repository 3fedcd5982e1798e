"""The body of `POST /v1/responses`. To add a field: declare it here and pass it on in `to_params`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError

from hanlin.core.i18n import tr
from hanlin.serve.api.body import AnswerBody
from hanlin.serve.api.fields import (
    SamplingBody,
    StrictModel,
    StructuredOutputBody,
    TokenLimit,
    Tool,
    check_stream_options,
    no_limit_as_none,
)
from hanlin.serve.api.foreign_fields import FOREIGN_SAMPLING_FIELDS, FOREIGN_THINKING_FIELDS
from hanlin.serve.api.responses.items import InputItem, MessageItem
from hanlin.serve.api.structure.output_format import JsonSchemaFormat, OutputFormat, choose_answer_format
from hanlin.serve.api.thinking import ThinkingEffort
from hanlin.serve.errors import ApiError, unsupported_value_error
from hanlin.serve.registry import GenerationParams

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED_REASONING = "reasoning.encrypted_content"
_Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
]
"""What a response may additionally hold; all but the first two belong to items that never occur here."""


class _ResponseTool(StrictModel):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def to_tool(self, path: str) -> Tool:
        """Raises ApiError (400) for a tool that is no function, by its type, or that has no proper name."""
        if self.type != "function":
            raise unsupported_value_error(f"{path}.type", self.type)
        function = self.model_dump(include={"name", "description", "parameters", "strict"}, exclude_none=True)
        try:
            return Tool.model_validate({"type": "function", "function": function})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            param = f"{path}.{first['loc'][-1]}"
            raise ApiError(400, f"{param}: {first['msg']}", param=param) from error

    def to_json(self) -> dict[str, Any]:
        """The tool as a response repeats it."""
        fields = self.model_dump()
        return {**fields, "parameters": self.parameters or {}, "strict": bool(self.strict)}


class _ToolReference(StrictModel):
    type: str
    name: str | None = None


class _ToolChoice(StrictModel):
    type: str
    name: str | None = None
    mode: Literal["auto", "required"] = "auto"
    tools: list[_ToolReference] | None = None


class _TextFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class _TextSettings(StrictModel):
    """`verbosity` has no effect: no chat template has a form for it. The response says `medium`."""

    format: _TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class _ReasoningSettings(StrictModel):
    effort: ThinkingEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None

    @property
    def with_summary(self) -> bool:
        return (self.summary or self.generate_summary) is not None


class _StreamOptions(StrictModel):
    include_obfuscation: bool | None = None


class PromptBody(AnswerBody):
    """What makes the prompt of a response; also the body of `POST /v1/responses/input_tokens`."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "conversation": (None,),
        "prompt": (None,),
        **FOREIGN_THINKING_FIELDS,
    }

    model: str
    input: str | list[InputItem] = Field(min_length=1)
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[_ResponseTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning: _ReasoningSettings | None = None
    text: _TextSettings | None = None
    truncation: Literal["auto", "disabled"] | None = None

    @property
    def input_items(self) -> list[InputItem]:
        """The input as items; a text is the user's message."""
        return [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input

    def get_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is offered, in the form of chat completions.

        Raises:
            ApiError: 400 for a tool, or a choice of one, that is no function.
        """
        tools = [tool.to_tool(f"tools.{index}") for index, tool in enumerate(self.tools or ())]
        allowed = self._get_allowed_names()
        if self.tool_choice == "none":
            return []
        offered = [tool.to_function() for tool in tools]
        return [tool for tool in offered if allowed is None or tool["function"]["name"] in allowed]

    def _get_allowed_names(self) -> set[str] | None:
        """Names that `tool_choice` restricts the calls to; None if it does not."""
        choice = self.tool_choice
        if not isinstance(choice, _ToolChoice) or choice.type == "function":
            return None
        if choice.type != "allowed_tools":
            raise unsupported_value_error("tool_choice.type", choice.type)
        names = set()
        for index, tool in enumerate(choice.tools or ()):
            if tool.type != "function":
                raise unsupported_value_error(f"tool_choice.tools.{index}.type", tool.type)
            names.add(tool.name or "")
        return names

    def make_response_format(self) -> OutputFormat | None:
        """What the answer must be: a call that is demanded, or text of a schema; None if the model is free.

        Raises:
            ApiError: 400 for a demanded tool that is not offered, a schema that is missing, or two formats.
        """
        schema, param = self._get_text_schema()
        is_named = isinstance(self.tool_choice, _ToolChoice) and self.tool_choice.type == "function"
        return choose_answer_format(
            self.list_output_formats(),
            None if schema is None else JsonSchemaFormat(schema, param, compact=False),
            self.get_tools(),
            self._get_required_tools(),
            {tool.name or "" for tool in self.tools or () if tool.strict},
            1 if is_named or self.parallel_tool_calls is False else None,
        )

    def list_output_formats(self) -> list[OutputFormat]:
        """Formats in other servers' fields."""
        return []

    def _get_text_schema(self) -> tuple[dict[str, Any] | None, str]:
        """The schema that a text must fit, if any, and the field that holds it."""
        text_format = self.text.format if self.text is not None else None
        if text_format is None or text_format.type == "text":
            return None, ""
        if text_format.type == "json_object":
            return {"type": "object"}, "text.format"
        if text_format.schema_ is None:
            raise ApiError(400, tr("json_schema is missing"), param="text.format.schema")
        return text_format.schema_, "text.format.schema"

    def _get_required_tools(self) -> list[dict[str, Any]]:
        """The tools one of which must be called; empty if the model may choose."""
        choice, tools = self.tool_choice, self.get_tools()
        if isinstance(choice, _ToolChoice) and choice.type == "function":
            tools = [tool for tool in tools if tool["function"]["name"] == choice.name]
        elif choice != "required" and not (isinstance(choice, _ToolChoice) and choice.mode == "required"):
            return []
        if not tools:
            raise ApiError(400, tr("tool_choice names no tool of this request"), param="tool_choice")
        return tools


class ResponseRequest(StructuredOutputBody, PromptBody, SamplingBody):
    """The body of `POST /v1/responses`."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "background": (None, False),
        "context_management": (None, []),
        "moderation": (None,),
        **FOREIGN_SAMPLING_FIELDS,
        **PromptBody.unsupported_fields,
    }
    n: Literal[1] | None = None
    max_output_tokens: Annotated[TokenLimit, AfterValidator(no_limit_as_none)] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[_Include] | None = None
    store: bool | None = None
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        None, max_length=16
    )
    stream_options: _StreamOptions | None = None
    max_tool_calls: int | None = Field(None, ge=1)
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def with_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @property
    def with_summary(self) -> bool:
        """Whether reasoning is given as its summary, which is then the whole of it."""
        return self.reasoning is not None and self.reasoning.with_summary

    @property
    def with_encrypted_reasoning(self) -> bool:
        return ENCRYPTED_REASONING in (self.include or ())

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other or ask for what is not supported."""
        if self.max_tokens is not None:
            what = tr("unknown field {name}: did you mean {similar}?", name="max_tokens", similar="max_output_tokens")
            raise ApiError(400, what, param="max_tokens", code="unknown_parameter")
        check_stream_options(self)
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            raise unsupported_value_error("stream_options.include_obfuscation", True)
        sampling = self.to_sampling()
        if self.max_output_tokens is not None:
            sampling["max_new_tokens"] = self.max_output_tokens
        sampling["top_logprobs"] = (self.top_logprobs or 0) if self.with_logprobs else None
        response_format = self.make_response_format()
        return GenerationParams(sampling, self.stop_strings, 1, response_format, self.extra_stop_ids)
