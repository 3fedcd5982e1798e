"""Who answers in a terminal chat: a model that is opened here, or an OpenAI-compatible server elsewhere.

Does not own the conversation (`terminal`), which turns are forgotten (`history`) or generation (`generation`).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hanlin.chat.history import fit
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.core.records import Message
from hanlin.inference.loading import LoadedEngine, load_engine, parse_model_spec
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.inference.text_stream import TextStream
from hanlin.tokenizer.generation_config import read_sampling_params

Show = Callable[[str], None]
SECONDS = 600


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, the messages that it was given to, and how many of the oldest turns were left out of them."""

    text: str
    messages: tuple[Message, ...]
    dropped: int = 0


class Speaker(Protocol):
    """Gives the next answer of a conversation."""

    @property
    def name(self) -> str: ...

    def answer(self, messages: Sequence[Message], show: Show, attempt: int = 0) -> Answered:
        """`show` the answer piece by piece and return it; interrupted, it stays as it is. `attempt` counts how often
        this answer was asked for before: a seed gives another one each time. Raises UserError when it cannot be had."""

    def tokens(self, messages: Sequence[Message]) -> str:
        """How long the conversation is, in a sentence."""

    def close(self) -> None: ...


class Local:
    """A model opened on this machine. `sampling.max_new_tokens` tokens of the context are kept for the answer, at most
    half of it; the turns before share the rest, and the oldest are left out when they do not fit."""

    def __init__(self, opened: LoadedEngine, sampling: Mapping[str, Any], cut: bool = False) -> None:
        self._opened = opened
        self._template: ChatTemplate = opened.load_template()
        chosen = SamplingParams(**{**read_sampling_params(self._opened.location.folder), **sampling})
        context = self._opened.engine.context_length
        limit = max(1, min(chosen.max_new_tokens, context // 2))
        self._sampling = replace(chosen, max_new_tokens=limit)
        self._budget, self._cut = context - limit, cut
        self.name = self._opened.location.name

    def answer(self, messages: Sequence[Message], show: Show, attempt: int = 0) -> Answered:
        fitted = fit(messages, self._template, self._budget, self._cut)
        seed = self._sampling.seed
        sampling = self._sampling if seed is None else replace(self._sampling, seed=(seed + attempt) % 2**32)
        request = GenerationRequest(fitted.ids, self._template.stop_ids, sampling)
        with closing(TextStream(self._opened.engine, self._template.tokenizer, request)) as speech:
            text = _shown((piece.text for piece in speech), show)
        return Answered(text, fitted.messages, fitted.dropped)

    def tokens(self, messages: Sequence[Message]) -> str:
        asked = any(message.role == "user" for message in messages)  # a system text alone is no prompt
        used = len(self._template.render(messages).ids) if asked else 0
        return say(
            f"{used} tokens so far; {self._budget} fit beside an answer of at most {self._sampling.max_new_tokens}",
            f"目前共 {used} 个词元；除最长 {self._sampling.max_new_tokens} 个词元的回答外可容纳 {self._budget} 个",
        )

    def close(self) -> None:
        self._opened.engine.close()


class Remote:
    """A server that speaks OpenAI's API: `url` ends with the path before `/chat/completions`, or gets `/v1`."""

    def __init__(self, url: str, model: str, sampling: Mapping[str, Any], api_key: str = "") -> None:
        base = url.rstrip("/")
        self._base = base if base.count("/") > 2 else base + "/v1"
        self._key, self._sampling = api_key, dict(sampling)
        known = self._models()
        if model and model not in known:
            what = say(f"the server has no model '{model}'", f"服务器上没有模型“{model}”")
            raise UserError(what, url, did_you_mean(model, known))
        self.name = model or known[0]
        self._used: int | None = None

    def answer(self, messages: Sequence[Message], show: Show, attempt: int = 0) -> Answered:
        body = {
            "model": self.name,
            "messages": [{"role": message.role, "content": message.text} for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._wished(attempt),
        }
        with closing(self._open("/chat/completions", body)) as response:
            text = _shown(self._pieces(response), show)
        return Answered(text, tuple(messages))

    def tokens(self, messages: Sequence[Message]) -> str:
        if self._used is None:
            return say("the server has not said how many tokens", "服务器尚未报告词元数")
        return say(f"{self._used} tokens with the last answer", f"连同上一个回答共 {self._used} 个词元")

    def close(self) -> None:
        pass

    def _wished(self, attempt: int) -> dict[str, Any]:
        wished = {("max_tokens" if name == "max_new_tokens" else name): value for name, value in self._sampling.items()}
        if "seed" in wished:
            wished["seed"] = (wished["seed"] + attempt) % 2**32
        return wished

    def _models(self) -> list[str]:
        with closing(self._open("/models")) as response:
            data = self._json(response.read())
        listed = data.get("data")
        names = [row["id"] for row in listed if isinstance(row, Mapping) and isinstance(row.get("id"), str)] \
            if isinstance(listed, list) else []  # fmt: skip
        if not names:
            raise UserError(say("the server names no model", "服务器没有列出任何模型"), self._base)
        return names

    def _pieces(self, response: Any) -> Iterator[str]:
        """The texts of server-sent events (HTML standard, section 9.2), as OpenAI's chat completions send them."""
        for line in response:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = self._json(data)
            if "error" in event:
                raise UserError(_said(event["error"]), self._base)
            usage = event.get("usage")
            if isinstance(usage, Mapping) and isinstance(usage.get("total_tokens"), int):
                self._used = usage["total_tokens"]
            for choice in event.get("choices", ()):
                if text := choice.get("delta", {}).get("content"):
                    yield text

    def _json(self, data: bytes) -> dict[str, Any]:
        try:
            row = json.loads(data.decode("utf-8"))
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(say("this is no OpenAI-compatible server", "该地址不是 OpenAI 兼容的服务"), self._base)
        return row

    def _open(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "User-Agent": "hanlin"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8")
        try:
            return urllib.request.urlopen(urllib.request.Request(self._base + path, data, headers), timeout=SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(1 << 16)
            try:
                told = _said(json.loads(said.decode("utf-8")))
            except ValueError:
                told = error.reason
            hint = None
            if error.code == 401:
                hint = say("give the key with HANLIN_API_KEY", "请用 HANLIN_API_KEY 提供密钥")
            raise UserError(f"{told} ({error.code})", self._base, hint) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            what = say(f"the server cannot be reached: {reason}", f"无法连接服务器：{reason}")
            raise UserError(what, self._base, say("start one with `hanlin serve`", "可用 hanlin serve 启动")) from error


def _said(error: Any) -> str:
    """The words of an error in OpenAI's form, or what there is."""
    inner = error.get("error", error) if isinstance(error, Mapping) else error
    return str(inner.get("message", inner)) if isinstance(inner, Mapping) else str(inner)


def _shown(pieces: Iterator[str], show: Show) -> str:
    whole: list[str] = []
    try:
        for piece in pieces:
            whole.append(piece)
            show(piece)
    except KeyboardInterrupt:
        pass
    return "".join(whole)


def speaker_of(
    model: str, *, engine: str, sampling: Mapping[str, Any], cut: bool, name: str, api_key: str, **options: Any
) -> Speaker:
    """`model` is a model folder, an adapter, GGUF files (`folder:Q8_0` chooses one), or the address of a server, whose
    model `name` is asked. Raises UserError where there is none."""
    if model.startswith(("http://", "https://")):
        return Remote(model, name, sampling, api_key)
    opened = load_engine(*parse_model_spec(model), engine, **options)
    try:
        return Local(opened, sampling, cut)
    except UserError:
        opened.engine.close()
        raise
