"""OpenAI's request bodies. To add a field: declare it here and pass it on in `to_params`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hanlin.chat.reasoning import assistant_message
from hanlin.core.i18n import tr
from hanlin.core.records import Message, ToolCall
from hanlin.serve.api.body import RequestBody
from hanlin.serve.api.fields import JsonSchemaFormat, SamplingBody, StrictModel, TokenIds, Tool, split_prompts
from hanlin.serve.api.messages import Content, ToolCallEntry, parse_call_arguments, to_text
from hanlin.serve.api.tool_calls import build_call_schema
from hanlin.serve.errors import ApiError, unsupported_value_error
from hanlin.serve.registry import GenerationParams

_MAX_ANSWERS = 128


class _FunctionCall(StrictModel):
    name: str
    arguments: str | dict[str, Any] | None = None


class ChatMessage(RequestBody):
    """A message of a chat completion request; `function` and `function_call` are the older names of tools and calls.

    `name` of a user or an assistant has no effect: chat templates have no place for it.
    """

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"audio": (None,), "images": (None, [])}
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCallEntry] | None = None
    function_call: _FunctionCall | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    def to_message(self, index: int) -> Message:
        """The message in neutral form. Null content is an empty text in answers and results.

        Raises:
            ApiError: 400 that names `messages.{index}` if a question has no content, if a part is not text, or if
                the arguments of a call are not a JSON object.
        """
        param = f"messages.{index}"
        content = to_text(self.content, f"{param}.content")
        if self.role in ("tool", "function"):
            return Message("tool", content or "", (), self.name or "", tool_call_id=self.tool_call_id or "")
        if self.role == "assistant":
            text = (content or "") + (self.refusal or "")
            return assistant_message(text, self._get_calls(param), self.reasoning_content or self.reasoning or "")
        if content is None:
            raise ApiError(400, tr("a message has no content"), param=f"{param}.content")
        if self.tool_calls:
            raise unsupported_value_error(f"{param}.tool_calls", len(self.tool_calls))
        return Message("user" if self.role == "user" else "system", content)

    def _get_calls(self, param: str) -> tuple[ToolCall, ...]:
        calls = [call.to_tool_call(f"{param}.tool_calls") for call in self.tool_calls or ()]
        if self.function_call is not None:
            arguments = parse_call_arguments(self.function_call.arguments, f"{param}.function_call")
            calls.append(ToolCall(self.function_call.name, arguments))
        return tuple(calls)


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
        "echo": (None, False),
    }
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | _NamedToolChoice | None = None
    response_format: _ResponseFormat | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    @property
    def with_logprobs(self) -> bool:
        return bool(self.logprobs)

    def to_messages(self) -> list[Message]:
        """The messages in neutral form.

        Raises:
            ApiError: 400 for a message that is not text, and for vLLM's two fields if they ask for what the last
                message does not ask for: a last turn of the assistant is always gone on with, nothing else ever is.
        """
        continues = self.messages[-1].role == "assistant"
        if self.continue_final_message not in (None, continues):
            raise unsupported_value_error("continue_final_message", self.continue_final_message)
        if self.add_generation_prompt not in (None, not continues):
            raise unsupported_value_error("add_generation_prompt", self.add_generation_prompt)
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
