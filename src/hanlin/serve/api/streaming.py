"""Streamed responses: server-sent events (OpenAI), newline-delimited JSON (Ollama), zero-separated JSON (plain).

AnswerStream.batches() -> StreamWriter.write(job, slot) -> write_stream (errors) -> StreamResponse (HTTP)

While nothing is to be sent (the request waits for its turn, or a long prompt is read), a stream says so every
`KEEP_ALIVE_SECONDS`, in a form that clients of its API pass over: no client or proxy takes it for dead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import anyio
from fastapi.responses import StreamingResponse

from hanlin.serve.admission import Slot
from hanlin.serve.errors import ApiError, to_api_error
from hanlin.serve.registry import GenerationJob

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
ZERO_SEPARATED_JSON = "application/octet-stream"
SSE_DONE = b"data: [DONE]\n\n"
SSE_COMMENT = b": keep-alive\n\n"
QUEUE_HEADER = "x-hanlin-queue"
"""A request that has it is told its place in the queue while it waits, by comments `: waiting 3` of its stream."""
KEEP_ALIVE_SECONDS = 10.0
"""Clients and proxies give a silent connection up after 30 to 60 seconds."""
_LOG = logging.getLogger(__name__)


def encode_sse(data: Any, event: str = "") -> bytes:
    """One server-sent event: `event: NAME` if it has a name, `data: JSON` and an empty line."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


async def write_places(slot: Slot) -> AsyncGenerator[bytes, None]:
    """Comments with a request's place in the queue, for as long as it waits."""
    async for place in slot.watch_place():
        yield f": waiting {place}\n\n".encode()


def encode_ndjson(data: Any) -> bytes:
    """One line of newline-delimited JSON."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\n"


def encode_zero_separated(data: Any) -> bytes:
    """JSON that ends with a zero byte."""
    return json.dumps(data, ensure_ascii=False).encode() + b"\0"


@dataclass(frozen=True, slots=True)
class StreamWriter:
    """How an API streams.

    Attributes:
        write: The bytes of a job's answers, as they come.
        media_type: Content type of the response.
        encode_error: The bytes of an error in the middle of the stream.
        encode_keep_alive: The bytes that say nothing but that the connection is alive.
    """

    write: Callable[[GenerationJob, Slot], AsyncGenerator[bytes, None]]
    media_type: str
    encode_error: Callable[[ApiError], bytes]
    encode_keep_alive: Callable[[], bytes] = lambda: SSE_COMMENT


async def write_stream(writer: StreamWriter, job: GenerationJob, slot: Slot) -> AsyncGenerator[bytes, None]:
    """The body of a streamed response. An error becomes its last part: the status was sent long before."""
    async with aclosing(writer.write(job, slot)) as parts:
        try:
            async for part in parts:
                yield part
        except Exception as error:
            if not isinstance(error, ApiError):
                _LOG.error("an answer broke off", exc_info=error)
            yield writer.encode_error(to_api_error(error))


class StreamResponse(StreamingResponse):
    """Releases its slot however it ends, also if the client was gone before the first part."""

    def __init__(self, parts: AsyncGenerator[bytes, None], slot: Slot, writer: StreamWriter) -> None:
        super().__init__(parts, media_type=writer.media_type, headers={"Cache-Control": "no-cache"})
        self._parts = parts
        self._slot = slot
        self._encode_keep_alive = writer.encode_keep_alive

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sender = _KeepAliveSender(send, self._encode_keep_alive)
        try:
            await super().__call__(scope, receive, sender.send)
        finally:
            sender.close()
            try:
                with anyio.CancelScope(shield=True):
                    await self._parts.aclose()
            finally:
                self._slot.release()


class _KeepAliveSender:
    """Sends the messages of one response, and between them something to keep the connection alive after each silence.

    Whole messages only: the keep-alive never gets into the middle of an event.
    """

    def __init__(self, send: Callable[[Any], Awaitable[None]], encode: Callable[[], bytes]) -> None:
        self._send, self._encode = send, encode
        self._last_sent = 0.0
        self._task: asyncio.Task[None] | None = None

    async def send(self, message: Any) -> None:
        self._last_sent = time.monotonic()
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last:
            self.close()
        await self._send(message)
        if self._task is None and not is_last:
            self._task = asyncio.ensure_future(self._run())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        with suppress(Exception):  # the client is gone, which the response hears too
            while True:
                silent = time.monotonic() - self._last_sent
                if silent >= KEEP_ALIVE_SECONDS:
                    await self.send({"type": "http.response.body", "body": self._encode(), "more_body": True})
                await asyncio.sleep(max(0.001, min(KEEP_ALIVE_SECONDS, KEEP_ALIVE_SECONDS - silent)))
