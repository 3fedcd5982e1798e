"""OpenAI's responses: whole objects, streamed chunks, log probabilities, usage."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hanlin.inference.protocol import TokenLogprobs
from hanlin.inference.text_stream import TextDelta
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.answer_splitter import AnswerPart, AnswerSplitter, SplitAnswer, make_splitter
from hanlin.serve.api.logprobs import clip_logprob, format_logprobs
from hanlin.serve.api.streaming import SSE_DONE, encode_sse
from hanlin.serve.registry import GenerationJob
from hanlin.serve.service import Answer
from hanlin.tokenizer.tokenizer import StreamDecoder, Tokenizer


class ChatFormatter:
    """Makes the objects of one `/v1/chat/completions` response; all carry the same id, time and model.

    Args:
        model: Name of the model.
        tool_names: Tools whose calls are parsed out of the answers.
        tokenizer: Spells the tokens of log probabilities.
        with_logprobs: Include log probabilities.
        answers: How many answers there are.
        max_calls: How many calls of an answer are read; None: all.
        shows_reasoning: Include what the model thought.
    """

    def __init__(
        self,
        model: str,
        tool_names: Collection[str],
        tokenizer: Tokenizer,
        with_logprobs: bool,
        answers: int,
        max_calls: int | None = None,
        shows_reasoning: bool = True,
    ) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._tool_names = tool_names
        self._tokenizer = tokenizer
        self._with_logprobs = with_logprobs
        self._max_calls, self._shows_reasoning = max_calls, shows_reasoning
        self._streams = [_AnswerState() for _ in range(answers)]

    def build_response(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        """The only object of a response that is not streamed."""
        choices = [self._make_choice(job, index, answer) for index, answer in enumerate(answers)]
        usage = make_usage(job, [answer.end for answer in answers])
        return self._make_object("chat.completion", choices) | {"usage": usage}

    def _make_choice(self, job: GenerationJob, index: int, answer: Answer) -> dict[str, Any]:
        splitter = self._make_splitter(job, index)
        split = SplitAnswer()
        shown: list[TextDelta] = []
        unsent: list[TextDelta] = []
        for delta in [*answer.text_deltas, None]:
            parts = splitter.flush() if delta is None else splitter.feed(delta.text)
            unsent += [] if delta is None else [delta]
            for part in parts:
                split.add(part)
            if parts or delta is None:
                shown += [] if self._hides(parts) else unsent
                unsent = []
        message: dict[str, Any] = {"role": "assistant", "content": split.content, "refusal": None}
        if split.reasoning and self._shows_reasoning:
            message |= {"reasoning_content": split.reasoning, "reasoning": split.reasoning}
        if split.calls:
            message["content"] = split.content or None
            message["tool_calls"] = [
                {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in split.calls
            ]
        logprobs = self._make_logprobs(shown) if self._with_logprobs else None
        finish_reason = splitter.finish_reason(answer.end.finish_reason)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}

    def _make_splitter(self, job: GenerationJob, index: int) -> AnswerSplitter:
        return make_splitter(job, index, self._tool_names, self._max_calls)

    def open_stream(self, job: GenerationJob) -> list[bytes]:
        """The first event of each answer: its role."""
        for index, stream in enumerate(self._streams):
            stream.splitter = self._make_splitter(job, index)
        return [self._make_event(index, {"role": "assistant", "content": ""}) for index in range(len(self._streams))]

    def format_event(self, index: int, event: TextDelta | AnswerEnd) -> list[bytes]:
        """The SSE events that one answer event makes; none while the text may still become a tool call."""
        stream = self._streams[index]
        if isinstance(event, AnswerEnd):
            stream.end = event
            held = self._format_parts(index, self._take_parts(stream, stream.splitter.flush()))
            return [*held, self._make_event(index, {}, stream.splitter.finish_reason(event.finish_reason))]
        stream.unsent_deltas.append(event)
        return self._format_parts(index, self._take_parts(stream, stream.splitter.feed(event.text)))

    def close_stream(self, job: GenerationJob, with_usage: bool) -> list[bytes]:
        """The last events: usage if it was asked for, and `[DONE]`."""
        if not with_usage:
            return [SSE_DONE]
        usage = make_usage(job, [stream.end for stream in self._streams])
        return [encode_sse(self._make_object("chat.completion.chunk", []) | {"usage": usage}), SSE_DONE]

    def _hides(self, parts: Sequence[AnswerPart]) -> bool:
        """Whether parts are reasoning that the response leaves out, with the tokens that it is made of."""
        return not self._shows_reasoning and bool(parts) and all(part.kind == "reasoning" for part in parts)

    def _take_parts(self, stream: _AnswerState, parts: Sequence[AnswerPart]) -> Sequence[AnswerPart]:
        """The parts; the tokens of hidden ones are forgotten, so that no later event carries them."""
        if self._hides(parts):
            stream.unsent_deltas = []
        return parts

    def _format_parts(self, index: int, parts: Sequence[AnswerPart]) -> list[bytes]:
        unsent = ("call_end",) if self._shows_reasoning else ("call_end", "reasoning")
        return [self._make_event(index, _make_delta(part)) for part in parts if part.kind not in unsent]

    def _make_event(self, index: int, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        text_deltas, self._streams[index].unsent_deltas = self._streams[index].unsent_deltas, []
        logprobs = self._make_logprobs(text_deltas) if self._with_logprobs and text_deltas else None
        choice = {"index": index, "delta": dict(delta), "logprobs": logprobs, "finish_reason": finish_reason}
        return encode_sse(self._make_object("chat.completion.chunk", [choice]))

    def _make_logprobs(self, text_deltas: Sequence[TextDelta]) -> dict[str, Any]:
        return {"content": format_logprobs(self._tokenizer, text_deltas), "refusal": None}

    def _make_object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}


class _AnswerState:
    """Of a streamed answer: its splitter, the text whose log probabilities no event has carried yet, its end."""

    def __init__(self) -> None:
        self.splitter = AnswerSplitter()
        self.unsent_deltas: list[TextDelta] = []
        self.end = AnswerEnd("cancelled", 0)


def _make_delta(part: AnswerPart) -> dict[str, Any]:
    """The `delta` of a chunk. Reasoning has both names that clients read."""
    if part.kind == "reasoning":
        return {"reasoning_content": part.text, "reasoning": part.text}
    if part.kind == "call":
        function = {"name": part.text, "arguments": ""}
        return {
            "tool_calls": [{"index": part.call_index, "id": part.call_id, "type": "function", "function": function}]
        }
    if part.kind == "arguments":
        return {"tool_calls": [{"index": part.call_index, "function": {"arguments": part.text}}]}
    return {"content": part.text}


class CompletionFormatter:
    """Makes the objects of one `/v1/completions` response.

    Args:
        model: Name of the model.
        tokenizer: Spells the tokens of log probabilities.
        with_logprobs: Include log probabilities.
        echoes: Of each answer the prompt text to repeat before it, or ''.
        as_ids: Name tokens by their ids.
    """

    def __init__(
        self, model: str, tokenizer: Tokenizer, with_logprobs: bool, echoes: Sequence[str], as_ids: bool = False
    ) -> None:
        self._head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._tokenizer = tokenizer
        self._with_logprobs = with_logprobs
        self._echoes = echoes
        self._as_ids = as_ids
        self._text_offsets = [0] * len(echoes)
        self._decoders: list[StreamDecoder] = []
        self._ends = [AnswerEnd("cancelled", 0) for _ in echoes]

    def build_response(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        """The only object of a response that is not streamed."""
        self._begin(job)
        choices = [
            self._make_choice(index, self._echoes[index] + answer.text, answer.text_deltas, answer.end.finish_reason)
            for index, answer in enumerate(answers)
        ]
        return self._make_object(choices) | {"usage": make_usage(job, [answer.end for answer in answers])}

    def open_stream(self, job: GenerationJob) -> list[bytes]:
        """The first events: the prompts that are echoed."""
        self._begin(job)
        echoes = [(index, text) for index, text in enumerate(self._echoes) if text]
        return [self._make_event(index, text, (), None) for index, text in echoes]

    def format_event(self, index: int, event: TextDelta | AnswerEnd) -> list[bytes]:
        """The SSE event of one answer event."""
        if isinstance(event, AnswerEnd):
            self._ends[index] = event
            return [self._make_event(index, "", (), event.finish_reason)]
        return [self._make_event(index, event.text, [event], None)]

    def close_stream(self, job: GenerationJob, with_usage: bool) -> list[bytes]:
        """The last events: usage if it was asked for, and `[DONE]`."""
        usage = [encode_sse(self._make_object([]) | {"usage": make_usage(job, self._ends)})] if with_usage else []
        return [*usage, SSE_DONE]

    def _begin(self, job: GenerationJob) -> None:
        """Prepare to count the characters of each answer as its stream decodes them."""
        self._decoders = [self._tokenizer.stream_decoder(continues_text=continues) for continues in job.continues_text]

    def _make_event(self, index: int, text: str, text_deltas: Sequence[TextDelta], finish_reason: str | None) -> bytes:
        return encode_sse(self._make_object([self._make_choice(index, text, text_deltas, finish_reason)]))

    def _make_choice(
        self, index: int, text: str, text_deltas: Sequence[TextDelta], finish_reason: str | None
    ) -> dict[str, Any]:
        logprobs = self._make_logprobs(index, text_deltas) if self._with_logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _make_logprobs(self, index: int, text_deltas: Sequence[TextDelta]) -> dict[str, Any]:
        rows = [pair for text_delta in text_deltas for pair in zip(text_delta.ids, text_delta.logprobs, strict=True)]
        tokens = [spell_token(self._tokenizer, token_id, self._as_ids) for token_id, _ in rows]
        offsets = []
        for token_id, _ in rows:
            offsets.append(self._text_offsets[index])
            self._text_offsets[index] += len(self._decoders[index].put(token_id))
        return {
            "tokens": tokens,
            "token_logprobs": [clip_logprob(logprobs.logprob) for _, logprobs in rows],
            "top_logprobs": [  # the chosen token is always there, also if it is not one of the likeliest
                {**spell_top(self._tokenizer, logprobs, self._as_ids), token: clip_logprob(logprobs.logprob)}
                for token, (_, logprobs) in zip(tokens, rows, strict=True)
            ],
            "text_offset": offsets,
        }

    def _make_object(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "text_completion", "choices": choices}


def spell_token(tokenizer: Tokenizer, token_id: int, as_id: bool = False) -> str:
    """A token as the log probabilities of completions name it; `as_id` as vLLM does."""
    if as_id:
        return f"token_id:{token_id}"
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode()
    except UnicodeDecodeError:  # part of a character, as OpenAI writes it
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def spell_top(tokenizer: Tokenizer, logprobs: TokenLogprobs, as_ids: bool = False) -> dict[str, float]:
    """The likeliest tokens of a place, by name."""
    return {spell_token(tokenizer, token_id, as_ids): clip_logprob(logprob) for token_id, logprob in logprobs.top}


def make_usage(job: GenerationJob, ends: Sequence[AnswerEnd]) -> dict[str, Any]:
    """The `usage` object of a response; without `prompt_tokens_details` if the engine knows nothing of its cache."""
    completion_tokens = sum(end.completion_tokens for end in ends)
    cached_tokens = job.count_cached([end.cached_tokens for end in ends])
    details = {} if cached_tokens is None else {"prompt_tokens_details": {"cached_tokens": cached_tokens}}
    return {
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": job.prompt_tokens + completion_tokens,
        **details,
    }
