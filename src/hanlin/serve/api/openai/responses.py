"""OpenAI's answers: whole objects, streamed pieces, log probabilities, usage.

Does not own requests (`openai_format`), HTTP or generation.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hanlin.inference.protocol import TokenLogprobs
from hanlin.inference.text_stream import TextDelta
from hanlin.serve.api.tool_calls import CallReader, Said
from hanlin.serve.registry import GenerationJob
from hanlin.serve.service import Answer, End
from hanlin.tokenizer.tokenizer import Tokenizer


class ChatForm:
    """The objects that the answers of one chat request are sent as; all carry the same id, time and model."""

    def __init__(self, model: str, names: Collection[str], tokenizer: Tokenizer, logprobs: bool, count: int) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._names = names
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._streams = [_ChatStream(CallReader(names)) for _ in range(count)]

    def whole(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [self._choice(place, answer) for place, answer in enumerate(answers)]
        tokens = sum(answer.end.tokens for answer in answers)
        return self._object("chat.completion", choices) | {"usage": usage(job.prompt_tokens, tokens)}

    def _choice(self, place: int, answer: Answer) -> dict[str, Any]:
        reader = CallReader(self._names)
        said = [part for piece in answer.pieces for part in reader.put(piece.text)] + reader.end()
        text, name = "".join(part.text for part in said), "".join(part.name for part in said)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if name:
            function = {"name": name, "arguments": "".join(part.arguments for part in said)}
            message |= {
                "content": text or None,
                "tool_calls": [{"id": _call_id(), "type": "function", **_of(function)}],
            }
        told = {"content": self._content(answer.pieces), "refusal": None} if self._logprobs else None
        finish = "tool_calls" if reader.called else answer.end.finish_reason
        return {"index": place, "message": message, "logprobs": told, "finish_reason": finish}

    def opening(self) -> list[bytes]:
        return [self._event(place, {"role": "assistant", "content": ""}) for place in range(len(self._streams))]

    def pieces(self, place: int, told: TextDelta | End) -> list[bytes]:
        """The events that one piece of an answer makes; none while it may still become a call."""
        stream = self._streams[place]
        if isinstance(told, End):
            stream.tokens = told.tokens
            events = [self._said(place, part) for part in stream.reader.end()]
            return [*events, self._event(place, {}, "tool_calls" if stream.reader.called else told.finish_reason)]
        stream.pending.append(told)
        return [self._said(place, part) for part in stream.reader.put(told.text)]

    def closing(self, job: GenerationJob, with_usage: bool) -> list[bytes]:
        tokens = sum(stream.tokens for stream in self._streams)
        last = self._object("chat.completion.chunk", []) | {"usage": usage(job.prompt_tokens, tokens)}
        return [*([event(last)] if with_usage else []), DONE]

    def _said(self, place: int, part: Said) -> bytes:
        if part.name:
            function = {"name": part.name, "arguments": ""}
            return self._event(
                place, {"tool_calls": [{"index": 0, "id": _call_id(), "type": "function", **_of(function)}]}
            )
        if part.arguments:
            return self._event(place, {"tool_calls": [{"index": 0, **_of({"arguments": part.arguments})}]})
        return self._event(place, {"content": part.text})

    def _event(self, place: int, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        pending, self._streams[place].pending = self._streams[place].pending, []
        told = {"content": self._content(pending), "refusal": None} if self._logprobs and pending else None
        choice = {"index": place, "delta": dict(delta), "logprobs": told, "finish_reason": finish}
        return event(self._object("chat.completion.chunk", [choice]))

    def _content(self, pieces: Sequence[TextDelta]) -> list[dict[str, Any]]:
        rows = [pair for piece in pieces for pair in zip(piece.ids, piece.logprobs, strict=True)]
        return [self._token(number, likely) for number, likely in rows]

    def _token(self, number: int, likely: TokenLogprobs) -> dict[str, Any]:
        top = [self._spelt(other, logprob) for other, logprob in likely.top]
        return {**self._spelt(number, likely.logprob), "top_logprobs": top}

    def _spelt(self, number: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(number)
        return {"token": data.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(data)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}


class _ChatStream:
    def __init__(self, reader: CallReader) -> None:
        self.reader = reader
        self.pending: list[TextDelta] = []
        self.tokens = 0


class TextForm:
    """The objects that the answers of one completion request are sent as. `echoes`: the prompt texts to repeat."""

    def __init__(self, model: str, tokenizer: Tokenizer, logprobs: bool, echoes: Sequence[str]) -> None:
        self._head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._echoes = echoes
        self._shown = [0] * len(echoes)
        self._tokens = 0

    def whole(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        choices = [
            self._choice(place, self._echoes[place] + answer.text, answer.pieces, answer.end.finish_reason)
            for place, answer in enumerate(answers)
        ]
        tokens = sum(answer.end.tokens for answer in answers)
        return self._object(choices) | {"usage": usage(job.prompt_tokens, tokens)}

    def opening(self) -> list[bytes]:
        echoed = [(place, text) for place, text in enumerate(self._echoes) if text]
        return [event(self._object([self._choice(place, text, (), None)])) for place, text in echoed]

    def pieces(self, place: int, told: TextDelta | End) -> list[bytes]:
        if isinstance(told, End):
            self._tokens += told.tokens
            return [event(self._object([self._choice(place, "", (), told.finish_reason)]))]
        return [event(self._object([self._choice(place, told.text, [told], None)]))]

    def closing(self, job: GenerationJob, with_usage: bool) -> list[bytes]:
        last = self._object([]) | {"usage": usage(job.prompt_tokens, self._tokens)}
        return [*([event(last)] if with_usage else []), DONE]

    def _choice(self, place: int, text: str, pieces: Sequence[TextDelta], finish: str | None) -> dict[str, Any]:
        logprobs = self._lists(place, pieces) if self._logprobs else None
        return {"index": place, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _lists(self, place: int, pieces: Sequence[TextDelta]) -> dict[str, Any]:
        rows = [pair for piece in pieces for pair in zip(piece.ids, piece.logprobs, strict=True)]
        tokens = [self._text(number) for number, _ in rows]
        offsets = []
        for token in tokens:
            offsets.append(self._shown[place])
            self._shown[place] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [_finite(likely.logprob) for _, likely in rows],
            "top_logprobs": [{self._text(id_): _finite(value) for id_, value in likely.top} for _, likely in rows],
            "text_offset": offsets,
        }

    def _text(self, number: int) -> str:
        data = self._tokenizer.token_bytes(number)
        try:
            return data.decode()
        except UnicodeDecodeError:  # part of a character, in OpenAI's spelling
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "text_completion", "choices": choices}


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


def _finite(logprob: float) -> float:
    """JSON knows no infinity; OpenAI gives this number for what cannot come."""
    return max(logprob, -9999.0)


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _of(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"function": dict(function)}
