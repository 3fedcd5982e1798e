"""OpenAI's request bodies. To add a field: declare it here and pass it on in `to_params`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hanlin.chat.reasoning import assistant_message
from hanlin.core.i18n import tr
from hanlin.core.records import Message, ToolCall
from hanlin.serve.api.body import MAX_MESSAGES, RequestBody
from hanlin.serve.api.fields import (
    ClosedModel,
    SamplingBody,
    StrictModel,
    StructuredOutputBody,
    TokenIds,
    TokenLimit,
    Tool,
    check_stream_options,
    clean_sampling,
    get_strict_names,
    split_prompts,
)
from hanlin.serve.api.foreign_fields import FOREIGN_CHAT_FIELDS, FOREIGN_SAMPLING_FIELDS, FOREIGN_THINKING_FIELDS
from hanlin.serve.api.messages import Content, ToolCallEntry, parse_call_arguments, to_text
from hanlin.serve.api.structure.output_format import (
    JsonSchemaFormat,
    OutputFormat,
    choose_answer_format,
    choose_output_format,
)
from hanlin.serve.api.thinking import ThinkingBody
from hanlin.serve.errors import ApiError, clip_name, unsupported_value_error
from hanlin.serve.registry import GenerationParams

_MAX_ANSWERS = 128
_NEUTRAL_FOR_SCORES: dict[str, tuple[Any, ...]] = {
    "suffix": (None, ""),
    "stream": (None, False),
    "n": (None, 1),
    "stop": (None, []),
    "stop_token_ids": (None, []),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "repeat_penalty": (None, 1),
    "min_tokens": (None, 0, 1),
    "ignore_eos": (None, False),
}
"""Fields of a request that scores its prompt, with the values that change nothing in it."""


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


def _check_results(messages: Sequence[ChatMessage]) -> None:
    """Refuse the results of calls that nobody made.

    A result follows the turn that calls, or other results of it. Clients that give their calls no ids are matched by
    that alone; the older `function` names no call. Turns of the assistant in a row count as one.

    Raises:
        ApiError: 400 that names the field of the message that OpenAI names.
    """
    has_calls, ids = False, set[str]()
    for index, message in enumerate(messages):
        if message.role == "assistant":
            calls = message.tool_calls or []
            if index == 0 or messages[index - 1].role != "assistant":
                has_calls, ids = False, set()
            has_calls = has_calls or bool(calls) or message.function_call is not None
            ids |= {call.id for call in calls if call.id}
        elif message.role == "tool":
            if not has_calls:
                what = tr("a message of role `tool` must follow a message with `tool_calls`, whose result it is")
                raise ApiError(400, what, param=f"messages.{index}.role")
            if message.tool_call_id and ids and message.tool_call_id not in ids:
                shown = clip_name(message.tool_call_id)
                what = tr("the message before it has no call with the id '{shown}'", shown=shown)
                raise ApiError(400, what, param=f"messages.{index}.tool_call_id")
        elif message.role != "function":
            has_calls = False


class _StreamOptions(RequestBody):
    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "continuous_usage_stats": (None, False),
        "include_obfuscation": (None, False),
    }
    include_usage: bool | None = None


class _FunctionName(StrictModel):
    name: str


class _NamedToolChoice(StrictModel):
    type: Literal["function"]
    function: _FunctionName


class _AllowedTools(StrictModel):
    mode: Literal["auto", "required"]
    tools: list[_NamedToolChoice]


class _AllowedToolsChoice(StrictModel):
    type: Literal["allowed_tools"]
    allowed_tools: _AllowedTools


class _NamedSchema(StrictModel):
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class _ResponseFormat(ClosedModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """Where clients of llama.cpp and Together put the schema."""

    def to_format(self) -> JsonSchemaFormat | None:
        """Raises ApiError (400) if `json_schema` is asked for without one."""
        if self.type == "text":
            return None
        if self.schema_ is not None:
            return JsonSchemaFormat(self.schema_, "response_format.schema", compact=False)
        if self.type == "json_object":
            return JsonSchemaFormat({"type": "object"}, "response_format", compact=False)
        if self.json_schema is None:
            raise ApiError(400, tr("json_schema is missing"), param="response_format.json_schema")
        schema = {"type": "object"} if self.json_schema.schema_ is None else self.json_schema.schema_
        return JsonSchemaFormat(schema, "response_format.json_schema.schema", compact=False)


class _AnswerRequest(StructuredOutputBody, SamplingBody):
    """What every request for an answer may hold."""

    model: str
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None

    def model_post_init(self, context: Any) -> None:
        """Raises ApiError (400) for options of a stream that is not asked for."""
        super().model_post_init(context)
        check_stream_options(self)

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatRequest(ThinkingBody, _AnswerRequest):
    """The body of `POST /v1/chat/completions`.

    `prediction` (a hint for speed) and `verbosity` have no effect: no chat template has a form for them.
    """

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {**FOREIGN_SAMPLING_FIELDS, **FOREIGN_CHAT_FIELDS}
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required", "any"] | _NamedToolChoice | _AllowedToolsChoice | None = None
    parallel_tool_calls: bool | None = None
    prediction: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    def model_post_init(self, context: Any) -> None:
        """Turn a choice among some of the tools into a request of only these, and Mistral's `any` into `required`.

        Raises:
            ApiError: 400 if a tool that is allowed is not offered.
        """
        super().model_post_init(context)
        if self.tool_choice == "any":
            self.tool_choice = "required"
        if isinstance(self.tool_choice, _AllowedToolsChoice):
            allowed = {tool.function.name for tool in self.tool_choice.allowed_tools.tools}
            offered = {tool.function.name: tool for tool in self.tools or ()}
            if not allowed <= offered.keys():
                what = tr("tool_choice names no tool of this request")
                raise ApiError(400, what, param="tool_choice.allowed_tools.tools")
            self.tools = [tool for name, tool in offered.items() if name in allowed]
            self.tool_choice = self.tool_choice.allowed_tools.mode

    @property
    def with_logprobs(self) -> bool:
        return bool(self.logprobs)

    @property
    def max_calls(self) -> int | None:
        """How many calls of an answer are read; None: all."""
        return 1 if self.parallel_tool_calls is False else None

    def to_messages(self) -> list[Message]:
        """The messages in neutral form.

        Raises:
            ApiError: 400 for a message that is not text, for a result without its call, and for vLLM's two fields if
                they ask for what the last message does not ask for: a last turn of the assistant is always gone on
                with, nothing else ever is.
        """
        continues = self.messages[-1].role == "assistant"
        if self.continue_final_message not in (None, continues):
            raise unsupported_value_error("continue_final_message", self.continue_final_message)
        if self.add_generation_prompt not in (None, not continues):
            raise unsupported_value_error("add_generation_prompt", self.add_generation_prompt)
        messages = [message.to_message(index) for index, message in enumerate(self.messages)]
        _check_results(self.messages)
        return messages

    def get_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is offered."""
        if self.tool_choice == "none":
            return []
        return [tool.to_function() for tool in self.tools or ()]

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other."""
        sampling = self.to_sampling()
        if self.max_completion_tokens is not None:
            sampling |= clean_sampling({"max_new_tokens": self.max_completion_tokens})
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, tr("top_logprobs needs logprobs"), param="logprobs")
        sampling["top_logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        response_format = self._make_response_format()
        return GenerationParams(sampling, self.stop_strings, self.choices, response_format, self.extra_stop_ids)

    def _make_response_format(self) -> OutputFormat | None:
        text_format = self.response_format.to_format() if self.response_format is not None else None
        is_named = isinstance(self.tool_choice, _NamedToolChoice)
        return choose_answer_format(
            self.list_output_formats(),
            text_format,
            self.get_tools(),
            self._get_required_tools(),
            get_strict_names(self.tools or ()),
            1 if is_named else self.max_calls,
        )

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

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {**FOREIGN_SAMPLING_FIELDS, **FOREIGN_THINKING_FIELDS}
    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=128)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=128)]
    )
    max_tokens: Annotated[int, Field(ge=-1)] | None = None
    suffix: str | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    return_tokens_as_token_ids: bool | None = None

    def model_post_init(self, context: Any) -> None:
        """Raises ApiError (400) if no token is wanted, which has a meaning only where the prompt is scored."""
        super().model_post_init(context)
        if self.max_tokens == 0 and not self.scores_prompt:
            what = tr("must be at least 1, or -1 for no limit")
            raise ApiError(400, f"max_tokens: {what}", param="max_tokens")

    @property
    def with_logprobs(self) -> bool:
        return self.logprobs is not None

    @property
    def scores_prompt(self) -> bool:
        """Whether the log probabilities of the prompt's own tokens are wanted."""
        return bool(self.echo) and self.logprobs is not None

    def check_scoring(self) -> bool:
        """Whether the likeliest token behind the prompt is wanted too, of a request that scores its prompt.

        Raises:
            ApiError: 400 for a field that asks for more than that.
        """
        length = self._merge_aliases("max_tokens", "n_predict")
        if length not in (0, 1):
            what = tr("`echo` with `logprobs` scores the prompt: set max_tokens to 0 or 1")
            raise ApiError(400, what, param="max_tokens", code="unsupported_value")
        wrong = [name for name, neutral in _NEUTRAL_FOR_SCORES.items() if getattr(self, name) not in neutral]
        wrong += [output_format.param for output_format in self.list_output_formats()]
        if length and self.temperature:
            wrong.append("temperature")
        if wrong:
            what = tr("{name} has no meaning where `echo` with `logprobs` scores the prompt", name=wrong[0])
            raise ApiError(400, what, param=wrong[0], code="unsupported_value")
        return length == 1

    @property
    def prompts(self) -> list[str | list[int]]:
        return split_prompts(self.prompt)

    def list_output_formats(self) -> list[OutputFormat]:
        """As `StructuredOutputBody`, and `response_format`, which vLLM takes here too."""
        text_format = self.response_format.to_format() if self.response_format is not None else None
        return [*super().list_output_formats(), *([text_format] if text_format is not None else [])]

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other."""
        if len(self.prompts) * self.choices > _MAX_ANSWERS:
            what = tr("the number of prompts times n exceeds {max_answers} answers", max_answers=_MAX_ANSWERS)
            raise ApiError(400, what, param="n")
        sampling = {**self.to_sampling(), "top_logprobs": self.logprobs}
        output_format = choose_output_format(self.list_output_formats())
        return GenerationParams(sampling, self.stop_strings, self.choices, output_format, self.extra_stop_ids)


class EmbeddingRequest(RequestBody):
    """The body of `POST /v1/embeddings`."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "truncate_prompt_tokens": (None,),
        "input_type": (None, ""),
        "task": (None, ""),
        "messages": (None, []),
    }
    model: str
    input: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    truncate: bool | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        return split_prompts(self.input)

    def check_texts(self) -> None:
        """Raises ApiError (400) that names the first text that is empty: its embedding would be that of nothing."""
        for index, prompt in enumerate(self.prompts):
            if prompt == "":
                param = "input" if isinstance(self.input, str) else f"input.{index}"
                raise ApiError(400, tr("the text is empty"), param=param)
