"""Backends of the terminal chat: a model that is opened here, or an OpenAI-compatible server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from hanlin.chat.history import truncate
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.inference.chat_server import ChatServer
from hanlin.inference.loading import LoadedEngine, load_engine, parse_model_spec
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.inference.text_stream import TextStream
from hanlin.tokenizer.generation_config import read_sampling_params

P = TypeVar("P")
OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ReplyStats:
    """Figures of an answer: tokens of the conversation with it, tokens per second, tokens left of the context.

    A figure is None if it is not known.
    """

    total_tokens: int
    tokens_per_second: float | None = None
    context_left: int | None = None


@dataclass(frozen=True, slots=True)
class ChatReply:
    """An answer, the messages of its prompt, how many of the oldest turns were left out of the prompt, and figures;
    whether Ctrl-C ended the answer.
    """

    text: str
    messages: tuple[Message, ...]
    dropped: int = 0
    stats: ReplyStats | None = None
    interrupted: bool = False


class ChatBackend(Protocol):
    """Gives the next answer of a conversation."""

    @property
    def name(self) -> str: ...

    def answer(self, messages: Sequence[Message], on_text: OnText, attempt: int = 0) -> ChatReply:
        """Generate the next answer; if the user interrupts it, it ends there.

        Args:
            messages: The conversation; it ends with the user.
            on_text: Called with each piece of the answer.
            attempt: How often this answer was asked for before; it changes the seed.

        Raises:
            UserError: The conversation does not fit, or the server does not answer.
        """

    def describe_tokens(self, messages: Sequence[Message]) -> str:
        """How many tokens the conversation has, in a sentence."""

    def set_thinking(self, on: bool) -> None:
        """Turn the thinking of the next answers on or off.

        Raises:
            UserError: The model has no switch for it.
        """

    def close(self) -> None: ...


class LocalModel:
    """A model that is opened on this machine.

    `max_new_tokens` tokens of the context are reserved for the answer, at most half of it. The turns before share the
    rest; the oldest are left out if they do not fit. If it is None, half of the context is reserved, and an answer may
    take whatever the turns leave.

    Args:
        opened: The model.
        sampling: Fields of `SamplingParams`; the others are those of the model's generation settings.
        truncate: A message that is too long loses its end.
    """

    def __init__(self, opened: LoadedEngine, sampling: Mapping[str, Any], truncate: bool = False) -> None:
        self._opened = opened
        self._template: ChatTemplate = opened.load_template()
        context = self._opened.engine.context_length
        fields = {**read_sampling_params(self._opened.location.settings_folder), **sampling}
        unlimited = fields.get("max_new_tokens", 0) is None
        requested = SamplingParams(**{**fields, **({"max_new_tokens": context} if unlimited else {})})
        limit = max(1, min(requested.max_new_tokens, context // 2))
        self._sampling = requested if unlimited else replace(requested, max_new_tokens=limit)
        self._prompt_limit, self._truncate = context - limit, truncate
        self._thinking: bool | None = None
        self.name = self._opened.location.name

    def answer(self, messages: Sequence[Message], on_text: OnText, attempt: int = 0) -> ChatReply:
        fitted = truncate(messages, self._template, self._prompt_limit, self._truncate, self._thinking)
        seed = self._sampling.seed
        sampling = self._sampling if seed is None else replace(self._sampling, seed=(seed + attempt) % 2**32)
        request = GenerationRequest(fitted.ids, self._template.stop_ids, sampling)
        with closing(TextStream(self._opened.engine, self._template.tokenizer, request)) as stream:
            timer = _AnswerTimer()
            text, interrupted = _collect((piece.text for piece in timer.watch(stream)), on_text)
        total = stream.prompt_tokens + stream.tokens
        left = self._opened.engine.context_length - total
        stats = ReplyStats(total, timer.speed(stream.tokens), max(0, left))
        return ChatReply(text, fitted.messages, fitted.dropped, stats, interrupted)

    def set_thinking(self, on: bool) -> None:
        if not self._template.thinking_switches:
            raise UserError(tr("the chat template of this model has no switch for thinking"), "/think")
        self._thinking = on

    def describe_tokens(self, messages: Sequence[Message]) -> str:
        has_prompt = any(message.role == "user" for message in messages)  # a system text alone is no prompt
        used = len(self._template.render(messages).ids) if has_prompt else 0
        limit, answer = self._prompt_limit, self._sampling.max_new_tokens
        return tr(
            "{used} tokens so far; {limit} fit beside an answer of at most {answer}",
            used=used,
            limit=limit,
            answer=answer,
        )

    def close(self) -> None:
        self._opened.engine.close()


class RemoteServer:
    """A server with OpenAI's API.

    Args:
        url: Its address, see `ChatServer`.
        model: Name of one of its models; empty: the first.
        sampling: Sampling fields of each request.
        api_key: Sent as a bearer token.

    Raises:
        UserError: The server cannot be reached, has no API of this form, or has no such model.
    """

    def __init__(self, url: str, model: str, sampling: Mapping[str, Any], api_key: str = "") -> None:
        self._sampling = dict(sampling)
        self._server = ChatServer(url, model, sampling.get("max_new_tokens", 512), api_key)
        self.name = self._server.name
        self._total_tokens: int | None = None
        self._thinking: bool | None = None

    def answer(self, messages: Sequence[Message], on_text: OnText, attempt: int = 0) -> ChatReply:
        with self._server.open_answer(messages, self._sampling_fields(attempt)) as pieces:
            timer = _AnswerTimer()
            text, interrupted = _collect(timer.watch(pieces), on_text)
        self._total_tokens = pieces.total_tokens
        stats = None
        if pieces.total_tokens is not None:
            stats = ReplyStats(pieces.total_tokens, timer.speed(pieces.answer_tokens or 0))
        return ChatReply(text, tuple(messages), stats=stats, interrupted=interrupted)

    def set_thinking(self, on: bool) -> None:
        self._thinking = on  # the server refuses it if its model has no switch

    def describe_tokens(self, messages: Sequence[Message]) -> str:
        if self._total_tokens is None:
            return tr("the server has reported no token count yet")
        count = self._total_tokens
        return tr("{count} tokens with the last answer", count=count)

    def close(self) -> None:
        self._server.close()

    def _sampling_fields(self, attempt: int) -> dict[str, Any]:
        given = {name: value for name, value in self._sampling.items() if value is not None}
        fields = {("max_tokens" if name == "max_new_tokens" else name): value for name, value in given.items()}
        if "seed" in fields:
            fields["seed"] = (fields["seed"] + attempt) % 2**32
        if self._thinking is not None:  # of vLLM, llama-server and Hanlin
            fields["chat_template_kwargs"] = {"enable_thinking": self._thinking}
        return fields


class _AnswerTimer:
    """Measures how fast an answer comes, from its first piece on: what comes before is the reading of the prompt."""

    def __init__(self) -> None:
        self._first = self._last = 0.0

    def watch(self, pieces: Iterable[P]) -> Iterator[P]:
        """The same pieces, with their times noted."""
        for piece in pieces:
            self._last = time.monotonic()
            self._first = self._first or self._last
            yield piece

    def speed(self, tokens: int) -> float | None:
        """Tokens per second of an answer of so many tokens; None if it was too short to tell."""
        seconds = self._last - self._first
        return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None


def _collect(pieces: Iterator[str], on_text: OnText) -> tuple[str, bool]:
    """Pass each piece on and return all of them; at Ctrl-C, those that had come, and True."""
    received: list[str] = []
    try:
        for piece in pieces:
            received.append(piece)
            on_text(piece)
    except KeyboardInterrupt:
        return "".join(received), True
    return "".join(received), False


def is_server_address(model: str) -> bool:
    """Whether a model is named by the address of a server."""
    return model.startswith(("http://", "https://"))


def open_backend(
    model: str, *, engine: str, sampling: Mapping[str, Any], truncate: bool, name: str, api_key: str, **options: Any
) -> ChatBackend:
    """Open a model, or connect to a server.

    Args:
        model: A model folder, an adapter, GGUF files (`folder:Q8_0` chooses one), or the address of a server.
        engine: The engine of a local model, or `auto`.
        sampling: Fields of `SamplingParams`.
        truncate: A message that is too long loses its end.
        name: Which of a server's models.
        api_key: The server's key.
        options: Options of the engine.

    Raises:
        UserError: There is no model, or the server does not answer.
    """
    if is_server_address(model):
        return RemoteServer(model, name, sampling, api_key)
    opened = load_engine(*parse_model_spec(model), engine, **options)
    try:
        return LocalModel(opened, sampling, truncate)
    except UserError:
        opened.engine.close()
        raise
