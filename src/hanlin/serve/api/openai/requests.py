"""OpenAI's request bodies. To add a field: declare it here and pass it on in `to_params`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hanlin.chat.reasoning import assistant_message
from hanlin.core.i18n import tr
from hanlin.core.records import Message, ToolCall
from hanlin.serve.api.body import RequestBody
from hanlin.serve.api.fields import JsonSchemaFormat, SamplingBody, StrictModel, TokenIds, Tool, split_prompts
from hanlin.serve.api.tool_calls import build_call_schema
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationParams

_MAX_ANSWERS = 128


class _TextPart(StrictModel):
    type: Literal["text"]
    text: str


class _CalledFunction(StrictModel):
    name: str
    arguments: str


class _ToolCall(StrictModel):
    function: _CalledFunction
    id: str = ""


class ChatMessage(StrictModel):
    """A message of a chat completion request."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    def to_message(self, index: int) -> Message:
        """Raises ApiError (400) that names `messages.{index}` if it has no content, or calls that are not JSON."""
        content = "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content
        if content is None and not (self.role == "assistant" and self.tool_calls):
            raise ApiError(400, tr("a message has no content"), param=f"messages.{index}.content")
        role = "system" if self.role == "developer" else self.role
        calls = tuple(replace(_to_tool_call(call.function, index), id=call.id) for call in self.tool_calls or ())
        if role == "tool":
            return Message(role, content or "", calls, self.name or "", tool_call_id=self.tool_call_id or "")
        if role != "assistant":
            return Message(role, content or "", calls)
        return assistant_message(content or "", calls, self.reasoning_content or self.reasoning or "")


class _StreamOptions(StrictModel):
    include_usage: bool = False


class _FunctionName(StrictModel):
    name: str


class _NamedToolChoice(StrictModel):
    type: Literal["function"]
    function: _FunctionName


class _NamedSchema(StrictModel):
    name: str
    schema_: dict[str, Any] = Field(alias="schema")


class _ResponseFormat(StrictModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None


class _AnswerRequest(SamplingBody):
    """What every request for an answer may hold."""

    model: str
    stream_options: _StreamOptions | None = None

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_AnswerRequest):
    """The body of `POST /v1/chat/completions`."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "web_search_options": (None,),
    }
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | _NamedToolChoice | None = None
    response_format: _ResponseFormat | None = None

    @property
    def with_logprobs(self) -> bool:
        return bool(self.logprobs)

    def to_messages(self) -> list[Message]:
        return [message.to_message(index) for index, message in enumerate(self.messages)]

    def get_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is offered."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools or ()]

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other."""
        sampling = self.to_sampling()
        if self.max_completion_tokens is not None:
            sampling["max_new_tokens"] = self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, tr("top_logprobs needs logprobs"), param="logprobs")
        sampling["top_logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        return GenerationParams(sampling, self.stop_strings, self.choices, self._make_response_format())

    def _make_response_format(self) -> JsonSchemaFormat | None:
        required_tools = self._get_required_tools()
        if required_tools:
            return JsonSchemaFormat(build_call_schema(required_tools), "tools", compact=True)
        if self.response_format is None or self.response_format.type == "text":
            return None
        if self.response_format.type == "json_object":
            return JsonSchemaFormat({"type": "object"}, "response_format", compact=False)
        if self.response_format.json_schema is None:
            what = tr("json_schema is missing")
            raise ApiError(400, what, param="response_format.json_schema")
        schema = self.response_format.json_schema.schema_
        return JsonSchemaFormat(schema, "response_format.json_schema.schema", compact=False)

    def _get_required_tools(self) -> list[dict[str, Any]]:
        """The tools one of which must be called; empty if the model may choose."""
        if self.tool_choice in (None, "none", "auto"):
            return []
        tools = self.get_tools()
        if isinstance(self.tool_choice, _NamedToolChoice):
            tools = [tool for tool in tools if tool["function"]["name"] == self.tool_choice.function.name]
        if not tools:
            what = tr("tool_choice names no tool of this request")
            raise ApiError(400, what, param="tool_choice")
        return tools


class CompletionRequest(_AnswerRequest):
    """The body of `POST /v1/completions`: plain text or token ids to continue."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"suffix": (None, ""), "best_of": (None, 1)}
    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=128)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=128)]
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None

    @property
    def with_logprobs(self) -> bool:
        return self.logprobs is not None

    @property
    def prompts(self) -> list[str | list[int]]:
        return split_prompts(self.prompt)

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other."""
        if len(self.prompts) * self.choices > _MAX_ANSWERS:
            what = tr("the number of prompts times n exceeds {max_answers} answers", max_answers=_MAX_ANSWERS)
            raise ApiError(400, what, param="n")
        if self.echo and self.logprobs is not None:
            what = tr("echo with logprobs is not supported here")
            raise ApiError(400, what, param="echo", code="unsupported_value")
        return GenerationParams({**self.to_sampling(), "top_logprobs": self.logprobs}, self.stop_strings, self.choices)


class EmbeddingRequest(RequestBody):
    """The body of `POST /v1/embeddings`."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"dimensions": (None,)}
    model: str
    input: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        return split_prompts(self.input)


def _to_tool_call(function: _CalledFunction, index: int) -> ToolCall:
    try:
        arguments = json.loads(function.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        what = tr("the arguments of a tool call are not a JSON object")
        raise ApiError(400, what, param=f"messages.{index}.tool_calls")
    return ToolCall(function.name, arguments)
