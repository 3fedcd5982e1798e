"""Ollama's request bodies. Options that Ollama uses to load a model have no effect: it is loaded."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hanlin.chat.reasoning import assistant_message
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.serve.api.body import MAX_MESSAGES, AnswerBody, RequestBody
from hanlin.serve.api.fields import StopString, Tool, clean_sampling, get_strict_names
from hanlin.serve.api.foreign_fields import FOREIGN_OLLAMA_FIELDS, FOREIGN_OLLAMA_OPTIONS
from hanlin.serve.api.messages import Content, ToolCallEntry, to_text
from hanlin.serve.api.structure.output_format import JsonSchemaFormat, choose_answer_format
from hanlin.serve.api.thinking import ThinkingEffort, wants_thinking
from hanlin.serve.errors import ApiError, unsupported_value_error
from hanlin.serve.registry import GenerationParams


class Options(RequestBody):
    """SamplingParams options; None: the model's own generation settings decide."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = FOREIGN_OLLAMA_OPTIONS
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repeat_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-100, le=100)
    frequency_penalty: float | None = Field(None, ge=-100, le=100)
    typical_p: float | None = Field(None, ge=0, le=1)
    repeat_last_n: int | None = Field(None, ge=-1)
    penalize_newline: bool | None = None
    num_predict: int | None = Field(None, ge=-2)
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def to_sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams`; None for those that the client did not set.

        Raises:
            ApiError: 400 for newlines that are to be spared from a penalty.
        """
        if self.penalize_newline is False and (
            self.repeat_penalty not in (None, 1) or self.presence_penalty or self.frequency_penalty
        ):
            raise unsupported_value_error("penalize_newline", False)
        same_name = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")
        sampling = {name: getattr(self, name) for name in (*same_name, "typical_p", "repeat_last_n")}
        max_new_tokens = self.num_predict if (self.num_predict or 0) > 0 else None  # -1 and -2: as much as fits
        return clean_sampling({**sampling, "repetition_penalty": self.repeat_penalty, "max_new_tokens": max_new_tokens})


class _AnswerRequest(AnswerBody):
    """What every request for an answer may hold."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "images": (None, []),
        "template": (None, ""),
        "context": (None, []),
        **FOREIGN_OLLAMA_FIELDS,
    }
    model: str = Field(min_length=1)
    stream: bool | None = None
    options: Options | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    think: bool | ThinkingEffort | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    keep_alive: str | float | None = None
    truncate: bool | None = None
    """A prompt that is too long is shortened, as Ollama does it, unless this is false; see `api.truncation`."""

    @property
    def max_new_tokens(self) -> int | None:
        """The limit of the answer; None: what fits."""
        return self.options.to_sampling()["max_new_tokens"] if self.options is not None else None

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False

    @property
    def unloads(self) -> bool:
        """Whether a request without a prompt asks to unload the model: `keep_alive` 0, as a number or a duration."""
        return re.fullmatch(r"0+(\.0*)?(ns|us|ms|s|m|h)?", str(self.keep_alive)) is not None

    def get_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is offered."""
        return []

    @property
    def strict_names(self) -> frozenset[str]:
        """Names of the tools whose calls are held to their schemas."""
        return frozenset()

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, tr("top_logprobs needs logprobs"), param="logprobs")
        options = self.options or Options.model_validate({})
        text_format = None
        if self.format:
            schema = {"type": "object"} if isinstance(self.format, str) else dict(self.format)
            text_format = JsonSchemaFormat(schema, "format", compact=False)
        response_format = choose_answer_format((), text_format, self.get_tools(), (), self.strict_names)
        sampling = {**options.to_sampling(), "top_logprobs": (self.top_logprobs or 0) if self.logprobs else None}
        return GenerationParams(sampling, options.stop_strings, 1, response_format)


class _ChatMessage(RequestBody):
    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {"images": (None, [])}
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content = None
    tool_calls: list[ToolCallEntry] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None
    thinking: str | None = None

    def to_message(self, index: int) -> Message:
        """The message in neutral form. Null content is an empty text in answers and results.

        Raises:
            ApiError: 400 that names `messages.{index}` if a question has no content, if a part is not text, or if
                the arguments of a call are not a JSON object.
        """
        param = f"messages.{index}"
        content = to_text(self.content, f"{param}.content")
        if self.role == "assistant":
            calls = tuple(call.to_tool_call(f"{param}.tool_calls") for call in self.tool_calls or ())
            return assistant_message(content or "", calls, self.thinking or "")
        if self.role == "tool":
            name = self.tool_name or self.name or ""
            return Message("tool", content or "", (), name, tool_call_id=self.tool_call_id or "")
        if content is None:
            raise ApiError(400, tr("a message has no content"), param=f"{param}.content")
        if self.tool_calls:
            raise unsupported_value_error(f"{param}.tool_calls", len(self.tool_calls))
        return Message("user" if self.role == "user" else "system", content)


class ChatRequest(_AnswerRequest):
    """The body of `POST /api/chat`; without messages it only asks whether the model is loaded."""

    messages: list[_ChatMessage] | None = Field(None, max_length=MAX_MESSAGES)
    tools: list[Tool] | None = Field(None, max_length=128)

    def to_messages(self) -> list[Message]:
        return [message.to_message(index) for index, message in enumerate(self.messages or ())]

    def get_tools(self) -> list[dict[str, Any]]:
        return [tool.to_function() for tool in self.tools or ()]

    @property
    def strict_names(self) -> frozenset[str]:
        return get_strict_names(self.tools or ())


class GenerateRequest(_AnswerRequest):
    """The body of `POST /api/generate`: a question, or with `raw` plain text to continue."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None

    @property
    def continues_text(self) -> bool:
        """Whether the prompt is text as it is, without the chat template."""
        return bool(self.raw or self.suffix)

    def to_params(self) -> GenerationParams:
        """Raises ApiError (400) for fields that contradict each other."""
        for name, is_set in (("system", self.system), ("think", wants_thinking(self.think))):
            if is_set and self.continues_text:
                field = "raw" if self.raw else "suffix"
                raise ApiError(400, tr("{name} has no place beside {field}", name=name, field=field), param=name)
        return super().to_params()

    def to_messages(self, prompt: str) -> list[Message]:
        """The system text, and `prompt` as the question."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, Message("user", prompt)]


class EmbedRequest(RequestBody):
    """The body of `POST /api/embed`."""

    model: str = Field(min_length=1)
    input: str | list[str] | None = None
    """Nothing, or an empty text, asks whether the model is loaded, as in the other routes."""
    truncate: bool | None = None
    """Ollama truncates a text that is too long, unless this is false."""
    dimensions: int | None = Field(None, ge=1)


class LegacyEmbedRequest(RequestBody):
    """The body of `POST /api/embeddings`, which `/api/embed` superseded."""

    model: str = Field(min_length=1)
    prompt: str | None = None
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1)


class ShowRequest(RequestBody):
    """The body of `POST /api/show`; older clients send `name`."""

    model: str | None = None
    name: str | None = None
