"""Streamed responses: server-sent events (OpenAI), newline-delimited JSON (Ollama), zero-separated JSON (plain).

AnswerStream.batches() -> StreamWriter.write(job, slot) -> write_stream (errors) -> StreamResponse (HTTP)
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
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
_LOG = logging.getLogger(__name__)


def encode_sse(data: Any, event: str = "") -> bytes:
    """One server-sent event: `event: NAME` if it has a name, `data: JSON` and an empty line."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


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
    """

    write: Callable[[GenerationJob, Slot], AsyncGenerator[bytes, None]]
    media_type: str
    encode_error: Callable[[ApiError], bytes]


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

    def __init__(self, parts: AsyncGenerator[bytes, None], slot: Slot, media_type: str) -> None:
        super().__init__(parts, media_type=media_type, headers={"Cache-Control": "no-cache"})
        self._parts = parts
        self._slot = slot

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._parts.aclose()
            finally:
                self._slot.release()
