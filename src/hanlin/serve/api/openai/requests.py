"""OpenAI's requests: what a client may say, and what it means here.

Does not own answers (`openai_answers`), HTTP or generation.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hanlin.core.i18n import say
from hanlin.core.records import Message, ToolCall
from hanlin.serve.api.body import Body
from hanlin.serve.api.fields import Choosing, Form, Ids, Strict, Tool, prompts_of
from hanlin.serve.api.tool_calls import schema_of
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import Wanted

_MOST_ANSWERS = 128


class _TextPart(Strict):
    type: Literal["text"]
    text: str


class _CalledFunction(Strict):
    name: str
    arguments: str


class _Call(Strict):
    function: _CalledFunction


class Turn(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[_TextPart] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None

    def message(self, place: int) -> Message:
        content = "".join(part.text for part in self.content) if isinstance(self.content, list) else self.content
        if content is None and not (self.role == "assistant" and self.tool_calls):
            raise ApiError(400, say("a message has no content", "消息没有内容"), param=f"messages.{place}.content")
        role = "system" if self.role == "developer" else self.role
        calls = tuple(_call(call.function, place) for call in self.tool_calls or ())
        return Message(role, content or "", calls, (self.name or "") if role == "tool" else "")


class _StreamOptions(Strict):
    include_usage: bool = False


class _Name(Strict):
    name: str


class _ThisTool(Strict):
    type: Literal["function"]
    function: _Name


class _NamedSchema(Strict):
    name: str
    schema_: dict[str, Any] = Field(alias="schema")


class _ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _NamedSchema | None = None


class _Asking(Choosing):
    """What every request for an answer may say."""

    model: str
    stream_options: _StreamOptions | None = None

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_Asking):
    """The body of `POST /v1/chat/completions`."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {
        "functions": (None, []),
        "function_call": (None, "none", "auto"),
        "modalities": (None, ["text"]),
        "audio": (None,),
        "web_search_options": (None,),
    }
    messages: list[Turn] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | _ThisTool | None = None
    response_format: _ResponseFormat | None = None

    @property
    def with_logprobs(self) -> bool:
        return bool(self.logprobs)

    def turns(self) -> list[Message]:
        return [turn.message(place) for place, turn in enumerate(self.messages)]

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that the model is told of."""
        if self.tool_choice == "none":
            return []
        return [tool.model_dump(exclude_none=True) for tool in self.tools or ()]

    def wanted(self) -> Wanted:
        asked = self.asked()
        if self.max_completion_tokens is not None:
            asked["max_new_tokens"] = self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, say("top_logprobs needs logprobs", "top_logprobs 须与 logprobs 同用"), param="logprobs")
        asked["top_logprobs"] = (self.top_logprobs or 0) if self.logprobs else None
        return Wanted(asked, self.stops, self.choices, self._form())

    def _form(self) -> Form | None:
        demanded = self._demanded()
        if demanded:
            return Form(schema_of(demanded), "tools", True)
        if self.response_format is None or self.response_format.type == "text":
            return None
        if self.response_format.type == "json_object":
            return Form({"type": "object"}, "response_format", False)
        if self.response_format.json_schema is None:
            what = say("json_schema is missing", "缺少 json_schema")
            raise ApiError(400, what, param="response_format.json_schema")
        return Form(self.response_format.json_schema.schema_, "response_format.json_schema.schema", False)

    def _demanded(self) -> list[dict[str, Any]]:
        """The tools one of which must be called."""
        if self.tool_choice in (None, "none", "auto"):
            return []
        offered = self.offered
        if isinstance(self.tool_choice, _ThisTool):
            offered = [tool for tool in offered if tool["function"]["name"] == self.tool_choice.function.name]
        if not offered:
            raise ApiError(400, say("tool_choice names no tool", "tool_choice 未对应任何工具"), param="tool_choice")
        return offered


class CompletionRequest(_Asking):
    """The body of `POST /v1/completions`: plain text or token ids that the answer goes on from."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {"suffix": (None, ""), "best_of": (None, 1)}
    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=128)]
        | Annotated[list[Ids], Field(min_length=1, max_length=128)]
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None

    @property
    def with_logprobs(self) -> bool:
        return self.logprobs is not None

    @property
    def prompts(self) -> list[str | list[int]]:
        return prompts_of(self.prompt)

    def wanted(self) -> Wanted:
        if len(self.prompts) * self.choices > _MOST_ANSWERS:
            what = say(
                f"prompts times n are more than {_MOST_ANSWERS} answers", f"提示数乘以 n 超过 {_MOST_ANSWERS} 个回答"
            )
            raise ApiError(400, what, param="n")
        if self.echo and self.logprobs is not None:
            what = say("echo with logprobs is not supported here", "不支持 echo 与 logprobs 同用")
            raise ApiError(400, what, param="echo", code="unsupported_value")
        return Wanted({**self.asked(), "top_logprobs": self.logprobs}, self.stops, self.choices)


class EmbeddingRequest(Body):
    """The body of `POST /v1/embeddings`."""

    without_effect: ClassVar[dict[str, tuple[Any, ...]]] = {"dimensions": (None,)}
    model: str
    input: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=2048)]
        | Annotated[list[Ids], Field(min_length=1, max_length=2048)]
    )
    encoding_format: Literal["float", "base64"] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        return prompts_of(self.input)


def _call(function: _CalledFunction, place: int) -> ToolCall:
    try:
        arguments = json.loads(function.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        what = say("the arguments of a tool call are not a JSON object", "工具调用的参数不是 JSON 对象")
        raise ApiError(400, what, param=f"messages.{place}.tool_calls")
    return ToolCall(function.name, arguments)
