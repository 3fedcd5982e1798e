"""Ollama's requests and answers, as its clients send and read them.

Does not own HTTP or generation. Options that Ollama uses when it loads a model change nothing here: it is loaded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from pydantic import Field

from hanlin.core.i18n import say
from hanlin.core.records import Message, ToolCall
from hanlin.inference.text_stream import TextDelta
from hanlin.serve.api.body import Body
from hanlin.serve.api.fields import Form, Stop, Strict, Tool
from hanlin.serve.api.tool_calls import CallReader, Said, parsed
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, Wanted
from hanlin.serve.service import Answer, End


class Options(Body):
    """How an answer is chosen; what is left out, the model's own generation settings decide."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        "mirostat": (None, 0),
        "tfs_z": (None, 1),
        "typical_p": (None, 1),
        "repeat_last_n": (None, -1),
    }
    temperature: float | None = Field(None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31)
    min_p: float | None = Field(None, ge=0, lt=1)
    repeat_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-100, le=100)
    frequency_penalty: float | None = Field(None, ge=-100, le=100)
    num_predict: int | None = Field(None, ge=-2)
    seed: int | None = None
    stop: list[Stop] | None = Field(None, max_length=16)

    def asked(self) -> dict[str, Any]:
        same = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")
        asked = {name: getattr(self, name) for name in same}
        limit = self.num_predict if (self.num_predict or 0) > 0 else None  # -1 and -2: as much as fits
        return {**asked, "repetition_penalty": self.repeat_penalty, "max_new_tokens": limit}


class _Asking(Body):
    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        "think": (None, False),
        "logprobs": (None, False),
        "top_logprobs": (None, 0),
        "images": (None, []),
        "template": (None, ""),
        "suffix": (None, ""),
        "context": (None, []),
    }
    model: str = Field(min_length=1)
    stream: bool | None = None
    options: Options | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None

    @property
    def streamed(self) -> bool:
        return self.stream is not False

    def wanted(self) -> Wanted:
        options = self.options or Options.model_validate({})
        form = None
        if self.format:
            form = Form({"type": "object"} if self.format == "json" else dict(self.format), "format", False)
        return Wanted(options.asked(), tuple(options.stop or ()), 1, form)


class _CalledFunction(Strict):
    name: str
    arguments: dict[str, Any]


class _Call(Strict):
    function: _CalledFunction


class _Turn(Body):
    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {"images": (None, [])}
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[_Call] | None = None
    tool_name: str | None = None

    def message(self, place: int) -> Message:
        if self.content is None and not self.tool_calls:
            raise ApiError(400, say("a message has no content", "消息没有内容"), param=f"messages.{place}.content")
        calls = tuple(ToolCall(call.function.name, call.function.arguments) for call in self.tool_calls or ())
        return Message(self.role, self.content or "", calls, (self.tool_name or "") if self.role == "tool" else "")


class ChatRequest(_Asking):
    """The body of `POST /api/chat`; without messages it only asks whether the model is loaded."""

    messages: list[_Turn] | None = None
    tools: list[Tool] | None = Field(None, max_length=128)

    def turns(self) -> list[Message]:
        return [turn.message(place) for place, turn in enumerate(self.messages or ())]

    @property
    def offered(self) -> list[dict[str, Any]]:
        return [tool.model_dump(exclude_none=True) for tool in self.tools or ()]


class GenerateRequest(_Asking):
    """The body of `POST /api/generate`: a question, or with `raw` plain text to go on from."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None

    def turns(self) -> list[Message]:
        opening = [Message("system", self.system)] if self.system else []
        return [*opening, Message("user", self.prompt or "")]


class EmbedRequest(Body):
    """The body of `POST /api/embed`."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {"dimensions": (None,)}
    model: str = Field(min_length=1)
    input: str | list[str]
    truncate: bool | None = None


class OldEmbedRequest(Body):
    """The body of `POST /api/embeddings`, the form before `/api/embed`."""

    model: str = Field(min_length=1)
    prompt: str


class ShowRequest(Body):
    """The body of `POST /api/show`; older clients say `name`."""

    model: str | None = None
    name: str | None = None


class Lines:
    """The lines of one answer; `chat` says whether text is a message or a response."""

    def __init__(self, model: str, chat: bool, names: Collection[str] = ()) -> None:
        self._model, self._chat = model, chat
        self._reader = CallReader(names)
        self._call = Said()
        self._begun = time.perf_counter_ns()
        self._first: int | None = None

    def whole(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        (answer,) = answers
        self._first = answer.first
        said = [part for piece in answer.pieces for part in self._shown(self._reader.put(piece.text))]
        said += self._shown(self._reader.end(), last=True)
        text = "".join(part.text for part in said)
        call = next((part for part in said if part.name), None)
        return self._last(job, answer.end, text, call)

    def piece(self, told: TextDelta) -> list[bytes]:
        self._first = self._first or time.perf_counter_ns()
        return [self._line(part) for part in self._shown(self._reader.put(told.text))]

    def end(self, job: GenerationJob, end: End) -> list[bytes]:
        rest = [self._line(part) for part in self._shown(self._reader.end(), last=True)]
        return [*rest, line(self._last(job, end, "", None))]

    def loaded(self) -> dict[str, Any]:
        return {**self._head(), **self._said("", None), "done": True, "done_reason": "load"}

    def _shown(self, said: list[Said], last: bool = False) -> list[Said]:
        """Ollama sends a call whole: its parts are gathered; one that was cut off is text again."""
        shown: list[Said] = []
        for part in said:
            if part.name or part.arguments:
                name, arguments = self._call.name or part.name, self._call.arguments + part.arguments
                self._call = Said(name=name, arguments=arguments)
            else:
                shown.append(part)
        if self._call.name and self._reader.called:
            if parsed(self._call.arguments) is None:
                shown.append(Said(self._call.arguments))
            else:
                shown.append(self._call)
            self._call = Said()
        elif self._call.name and last:
            shown.append(Said(f'{{"name": {json.dumps(self._call.name)}, "parameters": {self._call.arguments}'))
        return shown

    def _line(self, part: Said) -> bytes:
        return line({**self._head(), **self._said(part.text, part if part.name else None), "done": False})

    def _last(self, job: GenerationJob, end: End, text: str, call: Said | None) -> dict[str, Any]:
        now = time.perf_counter_ns()
        first = self._first or now
        return {
            **self._head(),
            **self._said(text, call),
            "done": True,
            "done_reason": end.finish_reason,
            "total_duration": now - self._begun,
            "load_duration": 0,
            "prompt_eval_count": job.prompt_tokens,
            "prompt_eval_duration": first - self._begun,
            "eval_count": end.tokens,
            "eval_duration": now - first,
        }

    def _said(self, text: str, call: Said | None) -> dict[str, Any]:
        if not self._chat:
            return {"response": text}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if call is not None:
            message["tool_calls"] = [{"function": {"name": call.name, "arguments": parsed(call.arguments)}}]
        return {"message": message}

    def _head(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": moment()}


def line(data: Any) -> bytes:
    """One line of newline-delimited JSON."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def moment(seconds: float | None = None) -> str:
    """A time in RFC 3339, UTC; None is now."""
    at = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
