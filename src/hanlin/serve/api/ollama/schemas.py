"""Ollama's request bodies and responses. Options that Ollama uses to load a model have no effect: it is loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from hanlin.chat.reasoning import assistant_message
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.inference.text_stream import TextDelta
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.body import RequestBody
from hanlin.serve.api.fields import JsonSchemaFormat, StopString, Tool, clean_sampling
from hanlin.serve.api.foreign_fields import FOREIGN_OLLAMA_FIELDS, FOREIGN_OLLAMA_OPTIONS
from hanlin.serve.api.messages import Content, ToolCallEntry, to_text
from hanlin.serve.api.streaming import encode_ndjson
from hanlin.serve.api.tool_calls import ToolCallDelta, ToolCallParser, build_call_schema, parse_arguments
from hanlin.serve.errors import ApiError, unsupported_value_error
from hanlin.serve.registry import GenerationJob, GenerationParams
from hanlin.serve.service import Answer


class Options(RequestBody):
    """SamplingParams options; None: the model's own generation settings decide."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = FOREIGN_OLLAMA_OPTIONS
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31)
    min_p: float | None = Field(None, ge=0, lt=1)
    repeat_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-100, le=100)
    frequency_penalty: float | None = Field(None, ge=-100, le=100)
    typical_p: float | None = Field(None, ge=0, le=1)
    repeat_last_n: int | None = Field(None, ge=-1)
    penalize_newline: bool | None = None
    num_predict: int | None = Field(None, ge=-2)
    seed: int | None = None
    stop: list[StopString] | None = Field(None, max_length=16)

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


class _AnswerRequest(RequestBody):
    """What every request for an answer may hold."""

    unsupported_fields: ClassVar[dict[str, tuple[Any, ...]]] = {
        "think": (None, False),
        "logprobs": (None, False),
        "top_logprobs": (None, 0),
        "images": (None, []),
        "template": (None, ""),
        "suffix": (None, ""),
        "context": (None, []),
        **FOREIGN_OLLAMA_FIELDS,
    }
    model: str = Field(min_length=1)
    stream: bool | None = None
    options: Options | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False

    def get_tools(self) -> list[dict[str, Any]]:
        """The tools that the model is offered."""
        return []

    def to_params(self) -> GenerationParams:
        options = self.options or Options.model_validate({})
        response_format = None
        if self.format:
            schema = {"type": "object"} if isinstance(self.format, str) else dict(self.format)
            if tools := self.get_tools():  # the model calls a tool or answers in the format
                schema = build_call_schema(tools, schema)
            response_format = JsonSchemaFormat(schema, "format", compact=False)
        return GenerationParams(options.to_sampling(), tuple(options.stop or ()), 1, response_format)


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

    messages: list[_ChatMessage] | None = None
    tools: list[Tool] | None = Field(None, max_length=128)

    def to_messages(self) -> list[Message]:
        return [message.to_message(index) for index, message in enumerate(self.messages or ())]

    def get_tools(self) -> list[dict[str, Any]]:
        return [tool.model_dump(exclude_none=True) for tool in self.tools or ()]


class GenerateRequest(_AnswerRequest):
    """The body of `POST /api/generate`: a question, or with `raw` plain text to continue."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None

    def to_messages(self) -> list[Message]:
        system = [Message("system", self.system)] if self.system else []
        return [*system, Message("user", self.prompt or "")]


class EmbedRequest(RequestBody):
    """The body of `POST /api/embed`."""

    model: str = Field(min_length=1)
    input: str | list[str]
    truncate: bool | None = None
    """Ollama truncates a text that is too long, unless this is false."""
    dimensions: int | None = Field(None, ge=1)


class LegacyEmbedRequest(RequestBody):
    """The body of `POST /api/embeddings`, which `/api/embed` superseded."""

    model: str = Field(min_length=1)
    prompt: str
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1)


class ShowRequest(RequestBody):
    """The body of `POST /api/show`; older clients send `name`."""

    model: str | None = None
    name: str | None = None


class ResponseFormatter:
    """Makes the JSON of one answer: a single object, or the lines of a stream.

    Args:
        model: The name that the client used.
        is_chat: The text is a `message` (`/api/chat`), else a `response` (`/api/generate`).
        tool_names: Tools whose calls are parsed out of the answer.
    """

    def __init__(self, model: str, is_chat: bool, tool_names: Collection[str] = ()) -> None:
        self._model, self._is_chat = model, is_chat
        self._parser = ToolCallParser(tool_names)
        self._call = ToolCallDelta()
        self._start_ns = time.perf_counter_ns()
        self._first_text_ns: int | None = None

    def build_response(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        """The only object of a response that is not streamed."""
        (answer,) = answers
        self._first_text_ns = answer.first_text_ns
        deltas = [
            delta for text_delta in answer.text_deltas for delta in self._join_calls(self._parser.feed(text_delta.text))
        ]
        deltas += self._join_calls(self._parser.flush(), is_end=True)
        text = "".join(delta.text for delta in deltas)
        call = next((delta for delta in deltas if delta.name), None)
        return self._format_done(job, answer.end, text, call)

    def format_text(self, text_delta: TextDelta) -> list[bytes]:
        """The lines that the next text of the answer makes; none while it may still become a tool call."""
        self._first_text_ns = self._first_text_ns or time.perf_counter_ns()
        return [self._format_delta(delta) for delta in self._join_calls(self._parser.feed(text_delta.text))]

    def format_end(self, job: GenerationJob, end: AnswerEnd) -> list[bytes]:
        """The last lines: what was held back, then `done` with the counts and durations."""
        held = [self._format_delta(delta) for delta in self._join_calls(self._parser.flush(), is_end=True)]
        return [*held, encode_ndjson(self._format_done(job, end, "", None))]

    def format_load(self) -> dict[str, Any]:
        """The response to a request without a prompt, which only loads a model."""
        return {**self._format_head(), **self._format_content("", None), "done": True, "done_reason": "load"}

    def _join_calls(self, deltas: list[ToolCallDelta], is_end: bool = False) -> list[ToolCallDelta]:
        """Ollama sends a tool call whole: its parts are joined; a call that was cut off becomes text again."""
        joined: list[ToolCallDelta] = []
        for delta in deltas:
            if delta.name or delta.arguments:
                name, arguments = self._call.name or delta.name, self._call.arguments + delta.arguments
                self._call = ToolCallDelta(name=name, arguments=arguments)
            else:
                joined.append(delta)
        if self._call.name and self._parser.is_complete:
            if parse_arguments(self._call.arguments) is None:
                joined.append(ToolCallDelta(self._call.arguments))
            else:
                joined.append(self._call)
            self._call = ToolCallDelta()
        elif self._call.name and is_end:
            text = f'{{"name": {json.dumps(self._call.name)}, "parameters": {self._call.arguments}'
            joined.append(ToolCallDelta(text))
        return joined

    def _format_delta(self, delta: ToolCallDelta) -> bytes:
        call = delta if delta.name else None
        return encode_ndjson({**self._format_head(), **self._format_content(delta.text, call), "done": False})

    def _format_done(self, job: GenerationJob, end: AnswerEnd, text: str, call: ToolCallDelta | None) -> dict[str, Any]:
        now_ns = time.perf_counter_ns()
        first_text_ns = self._first_text_ns or now_ns
        return {
            **self._format_head(),
            **self._format_content(text, call),
            "done": True,
            "done_reason": end.finish_reason,
            "total_duration": now_ns - self._start_ns,
            "load_duration": 0,
            "prompt_eval_count": job.prompt_tokens,
            "prompt_eval_duration": first_text_ns - self._start_ns,
            "eval_count": end.completion_tokens,
            "eval_duration": now_ns - first_text_ns,
        }

    def _format_content(self, text: str, call: ToolCallDelta | None) -> dict[str, Any]:
        if not self._is_chat:
            return {"response": text}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if call is not None:
            message["tool_calls"] = [{"function": {"name": call.name, "arguments": parse_arguments(call.arguments)}}]
        return {"message": message}

    def _format_head(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": format_time()}


def format_time(seconds: float | None = None) -> str:
    """A Unix time in RFC 3339, UTC; None is now."""
    time_utc = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return time_utc.isoformat(timespec="microseconds").replace("+00:00", "Z")
