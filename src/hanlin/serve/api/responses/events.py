"""The events of one response, from its first to its last, and the response object that they carry.

A response that is not streamed is made by the same events, of which only the last one's object is sent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from hanlin.inference.text_stream import TextDelta
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.answer_splitter import AnswerPart, AnswerSplitter, make_splitter
from hanlin.serve.api.logprobs import format_logprobs
from hanlin.serve.api.responses.output import (
    Event,
    FunctionCallOutput,
    MessageOutput,
    OutputItem,
    ReasoningOutput,
)
from hanlin.serve.api.responses.schemas import ResponseRequest
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, ServedModel


class ResponseBuilder:
    """Turns the events of one answer into events of the Responses API.

    Args:
        body: The request.
        model: Answers it.
        tool_names: Tools whose calls are parsed out of the answer.
    """

    def __init__(self, body: ResponseRequest, model: ServedModel, tool_names: Collection[str]) -> None:
        self._body, self._model = body, model
        self._tool_names = tool_names
        self._splitter = AnswerSplitter()
        self._reasoning = ""
        self._sequence_number = 0
        self._items: list[dict[str, Any]] = []  # those that are complete
        self._open_item: OutputItem | None = None
        self._unsent_deltas: list[TextDelta] = []  # whose log probabilities no event has carried yet
        self.response: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "completed_at": None,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "model": model.name,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": _make_reasoning_settings(body),
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "store": body.is_stored,
            "temperature": body.temperature,
            "text": _make_text_settings(body),
            "tool_choice": _make_tool_choice(body) or "auto",
            "tools": [tool.to_json() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": body.top_p,
            "truncation": body.truncation or "disabled",
            "usage": None,
            "user": body.user,
        }

    def open(self, job: GenerationJob) -> list[Event]:
        """The first events. The response shows the sampling that the model's defaults fill in."""
        max_calls = 1 if self._body.parallel_tool_calls is False else None
        self._splitter = make_splitter(job, 0, self._tool_names, max_calls)
        sampling = job.requests[0].sampling
        self.response |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        return self._number([self._make_response_event("created"), self._make_response_event("in_progress")])

    def add(self, job: GenerationJob, event: TextDelta | AnswerEnd) -> list[Event]:
        """The events that one event of the answer makes; none while it is open what the text will be."""
        if isinstance(event, AnswerEnd):
            return self._number([*self._write(self._splitter.flush()), *self._end(job, event)])
        if self._body.with_logprobs:
            self._unsent_deltas.append(event)
        return self._number(self._write(self._splitter.feed(event.text)))

    def fail(self, error: ApiError) -> Event:
        """The last event of an answer that broke off."""
        code = (
            "rate_limit_exceeded" if error.status == 429 else "invalid_prompt" if error.status < 500 else "server_error"
        )
        details = {"code": code, "message": error.message}
        if self._open_item is not None:
            self._items.append(self._open_item.to_json("incomplete"))
        self.response |= {"status": "failed", "error": details, "output": self._items}
        return self._number([self._make_response_event("failed")])[0]

    def _write(self, parts: Sequence[AnswerPart]) -> list[Event]:
        events: list[Event] = []
        for part in parts:
            if part.kind == "call":
                events += self._open(FunctionCallOutput(self._next_index, part.text, part.call_id))
            elif part.kind == "call_end":
                events += self._close("completed")
            elif part.kind == "arguments":
                events += self._open_item.append(part.text) if self._open_item is not None else []
            elif part.kind == "content":
                events += self._write_content(part.text)
            else:
                events += self._write_reasoning(part.text)
        return events

    def _write_content(self, text: str) -> list[Event]:
        events: list[Event] = []
        message = self._open_item
        if not isinstance(message, MessageOutput):
            message = MessageOutput(self._next_index)
            events += self._open(message)
        logprobs = format_logprobs(self._model.tokenizer, self._unsent_deltas)
        self._unsent_deltas = []
        return [*events, *message.append(text, logprobs)]

    def _write_reasoning(self, text: str) -> list[Event]:
        events: list[Event] = []
        if not isinstance(self._open_item, ReasoningOutput):
            body = self._body
            events += self._open(ReasoningOutput(self._next_index, body.with_summary, body.with_encrypted_reasoning))
        self._reasoning += text
        self._unsent_deltas = []
        return [*events, *(self._open_item.append(text) if self._open_item is not None else ())]

    @property
    def _next_index(self) -> int:
        return len(self._items) + (self._open_item is not None)

    def _open(self, item: OutputItem) -> list[Event]:
        """Begin an item; the one before it ends here. A call that is still open then was never completed."""
        events = self._close("incomplete" if isinstance(self._open_item, FunctionCallOutput) else "completed")
        self._open_item = item
        return [*events, *item.open()]

    def _close(self, status: str) -> list[Event]:
        item, self._open_item = self._open_item, None
        if item is None:
            return []
        self._items.append(item.to_json(status))
        return item.close(status)

    def _end(self, job: GenerationJob, end: AnswerEnd) -> list[Event]:
        """The last events: of the open item, and the response as a whole."""
        events: list[Event] = []
        if self._open_item is None and not self._items:  # clients expect an item, even of an answer without text
            events += self._open(MessageOutput(0))
        status = "incomplete" if end.finish_reason == "length" else "completed"
        reasoning_tokens = (
            len(self._model.tokenizer.encode(self._reasoning, continuation=True)) if self._reasoning else 0
        )
        events += self._close("incomplete" if isinstance(self._open_item, FunctionCallOutput) else status)
        self.response |= {
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": self._items,
            "usage": {
                "input_tokens": job.prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": job.count_cached([end.cached_tokens]) or 0,
                    "cache_write_tokens": 0,
                },
                "output_tokens": end.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
                "total_tokens": job.prompt_tokens + end.completion_tokens,
            },
        }
        return [*events, self._make_response_event(status)]

    def _make_response_event(self, verb: str) -> Event:
        return {"type": f"response.{verb}", "response": dict(self.response)}

    def _number(self, events: list[Event]) -> list[Event]:
        for event in events:
            event["sequence_number"] = self._sequence_number
            self._sequence_number += 1
        return events


def _make_reasoning_settings(body: ResponseRequest) -> dict[str, Any]:
    if body.reasoning is None:
        return {"effort": None, "summary": None}
    return {"effort": body.reasoning.effort, "summary": body.reasoning.summary or body.reasoning.generate_summary}


def _make_text_settings(body: ResponseRequest) -> dict[str, Any]:
    if body.text is None or body.text.format is None:
        return {"format": {"type": "text"}, "verbosity": "medium"}
    return {"format": body.text.format.model_dump(by_alias=True, exclude_none=True), "verbosity": "medium"}


def _make_tool_choice(body: ResponseRequest) -> Any:
    choice = body.tool_choice
    return choice if choice is None or isinstance(choice, str) else choice.model_dump(exclude_none=True)
