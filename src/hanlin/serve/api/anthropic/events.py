"""Anthropic's responses: the message, and the events of a stream.

    message_start, ping, (content_block_start, content_block_delta..., content_block_stop)...,
    message_delta, message_stop

An answer is a list of blocks. A stream has one open at a time; text between two calls is a block of its own. A whole
message is put together from the same events.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from hanlin.inference.text_stream import TextDelta
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.answer_splitter import AnswerPart, AnswerSplitter, make_splitter
from hanlin.serve.api.streaming import encode_sse
from hanlin.serve.api.tool_calls import parse_arguments
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob
from hanlin.serve.service import Answer

Event = dict[str, Any]
_SIGNATURE = "hanlin"
"""Of every thinking block. Clients drop blocks without one when they send an answer back; nothing checks it."""


class MessageFormatter:
    """Makes the objects of one `/v1/messages` response.

    Args:
        model: Name of the model.
        tool_names: Tools whose calls are parsed out of the answer.
        max_calls: How many calls are read; None: all.
        shows_thinking: Give thinking blocks their text.
    """

    def __init__(
        self, model: str, tool_names: Collection[str], max_calls: int | None = None, shows_thinking: bool = True
    ) -> None:
        self._id = f"msg_{uuid.uuid4().hex[:24]}"
        self._model = model
        self._tool_names, self._max_calls = tool_names, max_calls
        self._splitter = AnswerSplitter()
        self._blocks = BlockEvents(shows_thinking)

    def build_response(self, job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
        """The only object of a response that is not streamed."""
        (answer,) = answers
        self._splitter = self._make_splitter(job)
        parts = [part for delta in answer.text_deltas for part in self._splitter.feed(delta.text)]
        events = [event for part in [*parts, *self._splitter.flush()] for event in self._blocks.feed(part)]
        return {
            **self._make_message(join_blocks([*events, *self._blocks.close()], self._splitter.cut_text)),
            **self._make_end(answer.end),
            "usage": self._make_usage(job, answer.end),
        }

    def open_stream(self, job: GenerationJob) -> list[bytes]:
        """The first events: the message without content, and a ping, which clients expect there."""
        self._splitter = self._make_splitter(job)
        usage = self._make_usage(job, AnswerEnd("stop", 0))
        message = {**self._make_message([]), "stop_reason": None, "stop_sequence": None, "usage": usage}
        return [_encode({"type": "message_start", "message": message}), encode_ping()]

    def format_event(self, job: GenerationJob, event: TextDelta | AnswerEnd) -> list[bytes]:
        """The events that one answer event makes; none while the text may still become a tool call."""
        if isinstance(event, TextDelta):
            return self._encode_parts(self._splitter.feed(event.text))
        held = self._encode_parts(self._splitter.flush())
        end = {"type": "message_delta", "delta": self._make_end(event), "usage": self._make_usage(job, event)}
        return [*held, *map(_encode, [*self._blocks.close(), end, {"type": "message_stop"}])]

    def _make_splitter(self, job: GenerationJob) -> AnswerSplitter:
        return make_splitter(job, 0, self._tool_names, self._max_calls)

    def _encode_parts(self, parts: Iterable[AnswerPart]) -> list[bytes]:
        return [_encode(event) for part in parts for event in self._blocks.feed(part)]

    def _make_message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content}

    def _make_end(self, end: AnswerEnd) -> dict[str, str | None]:
        if self._splitter.finish_reason(end.finish_reason) == "tool_calls":
            reason = "tool_use"
        elif end.finish_reason == "length":
            reason = "max_tokens"
        else:
            reason = "stop_sequence" if end.stop_string else "end_turn"
        stop_sequence = end.stop_string if reason == "stop_sequence" else None
        return {"stop_reason": reason, "stop_sequence": stop_sequence}

    @staticmethod
    def _make_usage(job: GenerationJob, end: AnswerEnd) -> dict[str, int]:
        """The tokens of the prompt that were in the cache are told apart from those that were read, as Anthropic does.

        How many are known at the end: `message_start` counts all of them as input, `message_delta` corrects it.
        """
        cached_tokens = job.count_cached([end.cached_tokens]) or 0
        return {
            "input_tokens": job.prompt_tokens - cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached_tokens,
            "output_tokens": end.completion_tokens,
        }


class BlockEvents:
    """Turns the parts of an answer into the events of its blocks, which open and close in turn."""

    def __init__(self, shows_thinking: bool = True) -> None:
        self._shows_thinking = shows_thinking
        self._index = -1
        self._open_type = ""

    def feed(self, part: AnswerPart) -> list[Event]:
        """The events that the next part of the answer makes."""
        if part.kind == "call":
            call_id = f"toolu_{part.call_id.removeprefix('call_')}"
            return self._open({"type": "tool_use", "id": call_id, "name": part.text, "input": {}})
        if part.kind == "arguments":
            return [self._make_delta({"type": "input_json_delta", "partial_json": part.text})]
        if part.kind == "reasoning":
            opened = self._open({"type": "thinking", "thinking": "", "signature": ""}, unless_open=True)
            shown = [self._make_delta({"type": "thinking_delta", "thinking": part.text})]
            return [*opened, *(shown if self._shows_thinking else ())]
        if part.kind == "content":
            opened = self._open({"type": "text", "text": ""}, unless_open=True)
            return [*opened, self._make_delta({"type": "text_delta", "text": part.text})]
        return []

    def close(self) -> list[Event]:
        """The end of the open block, if there is one; a thinking block ends with its signature."""
        if not self._open_type:
            return []
        signed = self._open_type == "thinking"
        signature = [self._make_delta({"type": "signature_delta", "signature": _SIGNATURE})] if signed else []
        self._open_type = ""
        return [*signature, {"type": "content_block_stop", "index": self._index}]

    def _open(self, block: dict[str, Any], unless_open: bool = False) -> list[Event]:
        if unless_open and self._open_type == block["type"]:
            return []
        closed = self.close()
        self._index, self._open_type = self._index + 1, block["type"]
        return [*closed, {"type": "content_block_start", "index": self._index, "content_block": block}]

    def _make_delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def join_blocks(events: Iterable[Event], cut_text: str = "") -> list[dict[str, Any]]:
    """The blocks that a client puts together from the events of a stream.

    Args:
        events: The events of the blocks.
        cut_text: The last call as the model wrote it, if it was cut off: it has no object as `input`, and so it becomes
            a text.
    """
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            delta, index = event["delta"], event["index"]
            if delta["type"] == "input_json_delta":
                inputs[index] = inputs.get(index, "") + delta["partial_json"]
            else:
                field = delta["type"].removesuffix("_delta")
                blocks[index][field] += delta[field]
    for index, text in inputs.items():
        arguments = parse_arguments(text)
        whole = arguments is not None
        blocks[index] = {**blocks[index], "input": arguments} if whole else {"type": "text", "text": cut_text or text}
    return blocks


def encode_error(error: ApiError) -> bytes:
    """The event of an error in the middle of a stream."""
    return encode_sse(error.anthropic_body(), "error")


def encode_ping() -> bytes:
    """The event that says nothing but that the connection is alive."""
    return _encode({"type": "ping"})


def _encode(event: Event) -> bytes:
    return encode_sse(event, event["type"])
