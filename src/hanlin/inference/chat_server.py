"""A client of servers with OpenAI's chat API: the terminal chat, evaluation of a model behind an address, a judge."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from hanlin.chat.reasoning import BEGIN_TAG, END_TAG
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.http.client import Reply, ServerClient, ServerError, Unreachable, error_message
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.inference.protocol import EngineUnavailableError

TIMEOUT = 600
"""Seconds that a server may take between two pieces of an answer."""
SECONDS_TO_LIST = 30
"""Seconds that it may take to list its models."""
_MAX_TOKENS = 2**17
"""Of an answer without a limit: what the contexts of most models hold."""
_MAX_TOKEN_CHARACTERS = 64
"""Characters for each token that was asked for, on average, beyond which an answer is ended: the longest entries of a
vocabulary are runs of 128 spaces, its average is below 10."""


def api_key() -> str:
    """The key that servers want: `HANLIN_API_KEY`, never an option, which every user of the machine could read."""
    return os.environ.get("HANLIN_API_KEY", "")


class ChatServer:
    """A server with OpenAI's chat API; safe to use from several threads.

    Args:
        url: Its address, with the path before `/chat/completions`; without a path, `/v1` is added.
        model: Name of one of its models; empty: the first.
        max_tokens: The most tokens that any answer is asked for; None: no limit.
        api_key: Sent as a bearer token.

    Attributes:
        name: The model's name.
        address: The address with its path.
        context_length: The tokens that the model's context holds, as vLLM and Hanlin tell; None if the server does not.

    Raises:
        UserError: The server cannot be reached, has no API of this form, or has no such model.
    """

    def __init__(self, url: str, model: str = "", max_tokens: int | None = 512, api_key: str = "") -> None:
        base = url.rstrip("/")
        self.address = base if base.count("/") > 2 else base + "/v1"
        self._max_characters = 4096 + _MAX_TOKEN_CHARACTERS * (max_tokens or _MAX_TOKENS)
        self._client = ServerClient(self.address, api_key, seconds=TIMEOUT)
        try:
            known = self._list_models()
            if model and model not in known:
                what = tr("the server has no model '{model}'", model=model)
                raise UserError(what, url, did_you_mean(model, list(known)))
        except BaseException:
            self._client.close()
            raise
        self.name = model or next(iter(known))
        length = known[self.name].get("max_model_len")
        self.context_length = length if isinstance(length, int) and length > 0 else None

    @contextmanager
    def open_answer(self, messages: Sequence[Message], fields: Mapping[str, Any]) -> Iterator[ServerAnswer]:
        """Ask for the next answer of a conversation and read it inside the block.

        Args:
            messages: The conversation; it ends with the user.
            fields: Further fields of the request: `temperature`, `max_tokens`, `seed`, ...

        Raises:
            EngineUnavailableError: The server cannot be reached, is busy or breaks off, inside the block too.
            UserError: It refuses.
        """
        body = {
            "model": self.name,
            "messages": [to_chat_message(message) for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
        with (
            self._catch_errors(),
            self._client.stream("POST", "/chat/completions", body) as reply,
        ):
            self._check_status(reply)
            yield ServerAnswer(reply, self.address, self._max_characters)

    def post(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What the server answers to a request at a path below its address, with the model's name in it.

        Raises:
            EngineUnavailableError: The server cannot be reached, is busy or breaks off.
            UserError: It refuses, or answers no JSON object.
        """
        with self._catch_errors():
            reply = self._client.fetch("POST", path, {"model": self.name, **fields}, TIMEOUT)
            self._check_status(reply)
            return _parse(reply.text(), self.address)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _list_models(self) -> dict[str, Mapping[str, Any]]:
        """What the server says of each of its models."""
        with self._catch_errors():
            reply = self._client.fetch("GET", "/models", seconds=SECONDS_TO_LIST)
        self._check_status(reply)
        rows = _parse(reply.text(), self.address).get("data")
        rows = rows if isinstance(rows, list) else []
        models = {row["id"]: row for row in rows if isinstance(row, Mapping) and isinstance(row.get("id"), str)}
        if not models:
            raise UserError(tr("the server lists no model"), self.address)
        return models

    def _check_status(self, reply: Reply) -> None:
        """Raise UserError with the server's message if it refuses a request."""
        if 200 <= reply.status < 300:
            return
        hint = tr("set the key in HANLIN_API_KEY") if reply.status == 401 else None
        may_pass = reply.status in (408, 429) or reply.status >= 500
        error = EngineUnavailableError if may_pass else UserError
        raise error(f"{error_message(reply)} ({reply.status})", self.address, hint)

    @contextmanager
    def _catch_errors(self) -> Iterator[None]:
        """Turn the errors of a connection inside the block into UserErrors."""
        try:
            yield
        except Unreachable as error:
            what = tr("the server cannot be reached: {reason}", reason=error)
            raise EngineUnavailableError(what, self.address, tr("start one with `hanlin serve`")) from error
        except ServerError as error:
            what = tr("the server broke off: {reason}", reason=error)
            raise EngineUnavailableError(what, self.address) from error


def to_chat_message(message: Message) -> dict[str, Any]:
    """A turn as OpenAI's chat API has it, with its calls or the call that it answers; it has no field for reasoning."""
    row: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        row["tool_calls"] = [
            {
                "id": call.id or f"call_{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for index, call in enumerate(message.tool_calls)
        ]
    if message.role == "tool":
        row |= {"tool_call_id": message.tool_call_id or "call_0", **({"name": message.name} if message.name else {})}
    return row


class ServerAnswer:
    """The pieces of one answer as a server sends them; reasoning comes within tags.

    Attributes:
        finish_reason: Why the answer ended, as the server says it (`stop`, `length`); empty before the end, or if it
            does not say.
        total_tokens: Tokens of prompt and answer; None if the server does not say.
        answer_tokens: Tokens of the answer; None if the server does not say.
    """

    def __init__(self, reply: Reply, address: str, max_characters: int) -> None:
        self._reply, self._address, self._max_characters = reply, address, max_characters
        self.finish_reason = ""
        self.total_tokens: int | None = None
        self.answer_tokens: int | None = None

    def __iter__(self) -> Iterator[str]:
        """The pieces, from the server-sent events of OpenAI's chat completions.

        Raises UserError if the answer is far longer than was asked for, or has nothing to say for as long as a server
        may wait.
        """
        characters, last = 0, time.monotonic()
        for piece in self._read_pieces():
            if piece:
                characters, last = characters + len(piece), time.monotonic()
                if characters > self._max_characters:
                    what = tr("the server sends more than was asked for: {count:,} characters", count=characters)
                    raise UserError(what, self._address)
                yield piece
            elif time.monotonic() - last > TIMEOUT:  # events that say nothing, one after the other
                raise ServerError(tr("no answer in {seconds:g} seconds", seconds=TIMEOUT))

    def _read_pieces(self) -> Iterator[str]:
        is_thinking = False
        for data in self._reply.events():
            yield ""
            if data == "[DONE]":
                return
            event = _parse(data, self._address)
            if event.get("error"):
                raise UserError(_error_message(event["error"]), self._address)
            usage = event.get("usage")
            if isinstance(usage, Mapping) and isinstance(usage.get("total_tokens"), int):
                self.total_tokens = usage["total_tokens"]
                answer_tokens = usage.get("completion_tokens")
                self.answer_tokens = answer_tokens if isinstance(answer_tokens, int) else None
            choices = event.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                if isinstance(choice, Mapping) and isinstance(choice.get("finish_reason"), str):
                    self.finish_reason = choice["finish_reason"]
                delta = choice.get("delta") if isinstance(choice, Mapping) else None
                if not isinstance(delta, Mapping):
                    continue
                if reasoning := _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")):
                    yield reasoning if is_thinking else f"{BEGIN_TAG}\n{reasoning}"
                    is_thinking = True
                if text := _text(delta.get("content")):
                    yield f"\n{END_TAG}\n\n{text}" if is_thinking else text
                    is_thinking = False
        if not self.finish_reason:  # of a connection that is closed nothing else tells whether the answer is whole
            raise ServerError(tr("the answer has no end"))


def _parse(data: str, address: str) -> dict[str, Any]:
    try:
        row = json.loads(data)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(tr("not an OpenAI-compatible server"), address)
    return row


def _text(value: Any) -> str:
    """The text of a piece, with halves of surrogate pairs replaced, which no file could hold; of anything else none."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else ""


def _error_message(error: Any) -> str:
    """The message of an error in OpenAI's form; of anything else, its text."""
    inner = error.get("error", error) if isinstance(error, Mapping) else error
    return str(inner.get("message", inner) if isinstance(inner, Mapping) else inner)[:500]
