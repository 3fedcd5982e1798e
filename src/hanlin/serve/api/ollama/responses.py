"""Ollama's responses: a single object, or the lines of a stream."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from hanlin.inference.text_stream import TextDelta
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.answer_splitter import (
    AnswerPart,
    AnswerSplitter,
    SplitAnswer,
    WrittenCall,
    make_splitter,
    split_answer,
)
from hanlin.serve.api.logprobs import format_logprobs
from hanlin.serve.api.streaming import encode_ndjson
from hanlin.serve.api.tool_calls import parse_arguments
from hanlin.serve.registry import GenerationJob
from hanlin.serve.service import Answer


class ResponseFormatter:
    """Makes the JSON of one answer. Ollama sends a tool call whole; one that is cut is sent as the text that it is.

    Args:
        model: The name that the client used.
        is_chat: The text is a `message` (`/api/chat`), else a `response` (`/api/generate`).
        tool_names: Tools whose calls are read out of the answer.
        is_raw: The answer continues a text: nothing is read out of it.
    """

    def __init__(self, model: str, is_chat: bool, tool_names: Collection[str] = (), is_raw: bool = False) -> None:
        self._model, self._is_chat, self._tool_names, self._is_raw = model, is_chat, tool_names, is_raw
        self._splitter: AnswerSplitter | None = None
        self._calls = SplitAnswer()
        self._num_sent_calls = 0
        self._unsent_deltas: list[TextDelta] = []
        self._start_ns = time.perf_counter_ns()
        self._first_text_ns: int | None = None

    def build_response(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        """The only object of a response that is not streamed."""
        (answer,) = answers
        self._first_text_ns = answer.first_text_ns
        self._unsent_deltas = answer.text_deltas
        split = split_answer(self._get_splitter(job), (delta.text for delta in answer.text_deltas))
        calls = [call for call in split.calls if _is_sent(call)]
        lost = [call.arguments for call in split.calls if call.is_complete and not _is_sent(call)]
        text = "".join([split.content, *lost, split.cut_text])
        return self._format_done(job, answer.end, self._format_content(text, split.reasoning, calls))

    def format_text(self, job: GenerationJob, text_delta: TextDelta) -> list[bytes]:
        """The lines that the next text of the answer makes; none while it may still become a tool call."""
        self._first_text_ns = self._first_text_ns or time.perf_counter_ns()
        self._unsent_deltas.append(text_delta)
        return self._format_parts(job, self._get_splitter(job).feed(text_delta.text))

    def format_end(self, job: GenerationJob, end: AnswerEnd) -> list[bytes]:
        """The last lines: what was held back, then `done` with the counts and durations."""
        splitter = self._get_splitter(job)
        held = self._format_parts(job, splitter.flush())
        if splitter.cut_text:
            held.append(self._format_line(job, self._format_content(splitter.cut_text)))
        return [*held, encode_ndjson(self._format_done(job, end, self._format_content("")))]

    def format_load(self, unloads: bool) -> dict[str, Any]:
        """The response to a request without a prompt, which asks Ollama to load or unload a model: it stays loaded."""
        reason = "unload" if unloads else "load"
        return {**self._format_head(), **self._format_content(""), "done": True, "done_reason": reason}

    def encode_keep_alive(self) -> bytes:
        """A line without text: an empty line would be no JSON, which Ollama's clients expect in each."""
        return encode_ndjson({**self._format_head(), **self._format_content(""), "done": False})

    def _get_splitter(self, job: GenerationJob) -> AnswerSplitter:
        if self._splitter is None:
            raw = AnswerSplitter(reads_reasoning=False)
            self._splitter = raw if self._is_raw else make_splitter(job, 0, self._tool_names)
        return self._splitter

    def _format_parts(self, job: GenerationJob, parts: Sequence[AnswerPart]) -> list[bytes]:
        lines = []
        for part in parts:
            if part.kind in ("content", "reasoning"):
                texts = (part.text, "") if part.kind == "content" else ("", part.text)
                lines.append(self._format_line(job, self._format_content(*texts)))
                continue
            self._calls.add(part)
            if part.kind == "call_end":
                call = self._calls.calls[part.call_index]
                content = (
                    self._format_content("", "", [call]) if _is_sent(call) else self._format_content(call.arguments)
                )
                lines.append(self._format_line(job, content))
        return lines

    def _format_line(self, job: GenerationJob, content: dict[str, Any]) -> bytes:
        return encode_ndjson({**self._format_head(), **content, **self._take_logprobs(job), "done": False})

    def _format_done(self, job: GenerationJob, end: AnswerEnd, content: dict[str, Any]) -> dict[str, Any]:
        now_ns = time.perf_counter_ns()
        first_text_ns = self._first_text_ns or now_ns
        return {
            **self._format_head(),
            **content,
            **self._take_logprobs(job),
            "done": True,
            "done_reason": end.finish_reason,
            "total_duration": now_ns - self._start_ns,
            "load_duration": 0,
            "prompt_eval_count": job.prompt_tokens,
            "prompt_eval_duration": first_text_ns - self._start_ns,
            "eval_count": end.completion_tokens,
            "eval_duration": now_ns - first_text_ns,
        }

    def _take_logprobs(self, job: GenerationJob) -> dict[str, Any]:
        """The log probabilities of the tokens that no line has carried yet, if they were asked for."""
        text_deltas, self._unsent_deltas = self._unsent_deltas, []
        logprobs = format_logprobs(job.model.tokenizer, text_deltas)
        return {"logprobs": logprobs} if logprobs else {}

    def _format_content(self, text: str, reasoning: str = "", calls: Sequence[WrittenCall] = ()) -> dict[str, Any]:
        thinking = {"thinking": reasoning} if reasoning else {}
        if not self._is_chat:
            return {"response": text, **thinking}
        message: dict[str, Any] = {"role": "assistant", "content": text, **thinking}
        if calls:
            message["tool_calls"] = [self._format_call(call) for call in calls]
        return {"message": message}

    def _format_call(self, call: WrittenCall) -> dict[str, Any]:
        index, self._num_sent_calls = self._num_sent_calls, self._num_sent_calls + 1
        function = {"index": index, "name": call.name, "arguments": parse_arguments(call.arguments)}
        return {"id": call.call_id, "function": function}

    def _format_head(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": format_time()}


def _is_sent(call: WrittenCall) -> bool:
    """Whether a call is complete and its arguments are an object, as Ollama sends them."""
    return call.is_complete and parse_arguments(call.arguments) is not None


def format_time(seconds: float | None = None) -> str:
    """A Unix time in RFC 3339, UTC; None is now."""
    time_utc = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return time_utc.isoformat(timespec="microseconds").replace("+00:00", "Z")
