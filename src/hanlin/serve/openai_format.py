"""OpenAI's chat format: what a request may say, what an answer, a streamed piece and an error look like.

Does not own HTTP or generation. A field that would change the answer and cannot be honoured is refused, never ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hanlin.engines import Finish, Sampling
from hanlin.language import say
from hanlin.records import Message, ToolCall

_LIMITED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
}
"""Fields whose effect does not exist here, with the values that ask for no effect."""


class ApiError(Exception):
    """An answer other than 200: OpenAI's error object under an HTTP status."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def kind(self) -> str:
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _Function(BaseModel):
    name: str
    arguments: str


class _Call(BaseModel):
    function: _Function


class _Turn(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart] | None = None
    name: str = ""
    tool_calls: list[_Call] | None = None

    def message(self, place: int) -> Message:
        content = "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content
        if content is None and not (self.role == "assistant" and self.tool_calls):
            raise ApiError(400, say("a message has no content", "消息没有内容"), param=f"messages.{place}.content")
        role = "system" if self.role == "developer" else self.role
        calls = tuple(_call(call.function, place) for call in self.tool_calls or ())
        return Message(role, content or "", calls, self.name if role == "tool" else "")


class _StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The body of `POST /v1/chat/completions`; None means that the client left the choice to the model."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[_Turn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None

    @classmethod
    def read(cls, body: bytes) -> ChatRequest:
        """Raises ApiError (400) that names the first wrong field."""
        try:
            request = cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            param = ".".join(map(str, first["loc"])) or None
            raise ApiError(400, f"{param or 'body'}: {first['msg']}", param=param) from error
        for name, value in (request.model_extra or {}).items():
            _check_other(name, value)
        if any(not stop for stop in request.stops):
            raise ApiError(400, say("a stop text is empty", "停止文本为空"), param="stop")
        return request

    @property
    def stops(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def turns(self) -> list[Message]:
        return [turn.message(place) for place, turn in enumerate(self.messages)]

    def sampling(self, defaults: Mapping[str, Any], room: int) -> Sampling:
        """What is asked for over what the model wants; at most `room` tokens, the rest of the context."""
        asked = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
        chosen = {**defaults, **{name: value for name, value in asked.items() if value is not None}}
        limit = self.max_completion_tokens or self.max_tokens or room
        seed = None if self.seed is None else self.seed % 2**32
        return Sampling(**chosen, max_new_tokens=min(limit, room), seed=seed)


def _check_other(name: str, value: Any) -> None:
    """Refuse a field that cannot be honoured and a misspelt one; others, such as `user`, change no answer."""
    if name in _LIMITED:
        if value not in _LIMITED[name]:
            what = say(f"{name}={value!r} is not supported here", f"不支持 {name}={value!r}")
            raise ApiError(400, what, param=name, code="unsupported_value")
        return
    near = difflib.get_close_matches(name, ChatRequest.model_fields, n=1, cutoff=0.85)
    if near:
        what = say(f"unknown field {name}: did you mean {near[0]}?", f"未知字段 {name}：是否想写 {near[0]}？")
        raise ApiError(400, what, param=name, code="unknown_parameter")


def _call(function: _Function, place: int) -> ToolCall:
    try:
        arguments = json.loads(function.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        what = say("the arguments of a tool call are not a JSON object", "工具调用的参数不是 JSON 对象")
        raise ApiError(400, what, param=f"messages.{place}.tool_calls")
    return ToolCall(function.name, arguments)


class AnswerFormat:
    """The objects that one answer is sent as; all carry the same id, time and model."""

    def __init__(self, answer_id: str, created: int, model: str) -> None:
        self._head = {"id": answer_id, "created": created, "model": model}

    def whole(self, text: str, finish: Finish | None, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion", [choice]) | {"usage": usage(prompt_tokens, tokens)}

    def piece(self, delta: Mapping[str, Any], finish: Finish | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion.chunk", [choice])

    def closing_usage(self, prompt_tokens: int, tokens: int) -> dict[str, Any]:
        return self._object("chat.completion.chunk", []) | {"usage": usage(prompt_tokens, tokens)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}


def usage(prompt_tokens: int, tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


DONE = b"data: [DONE]\n\n"
