"""Answering over HTTP: whole or as a stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from hanlin.core.i18n import say
from hanlin.serve.admission import Ticket
from hanlin.serve.api.body import Body
from hanlin.serve.errors import ApiError, as_api_error
from hanlin.serve.registry import GenerationJob
from hanlin.serve.service import Answer, Desk

B = TypeVar("B", bound=Body)
_LOG = logging.getLogger(__name__)


_CLIENT_LEFT = 499


SMALL_BODY = 16 << 10


Whole = Callable[[GenerationJob, list[Answer]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Streaming:
    """How an API streams: the bytes of a job's pieces, their media type, and the bytes of an error among them."""

    pieces: Callable[[GenerationJob, Ticket], AsyncGenerator[bytes, None]]
    media_type: str
    told: Callable[[ApiError], bytes]


async def told_in_stream(stream: Streaming, job: GenerationJob, ticket: Ticket) -> AsyncGenerator[bytes, None]:
    """What breaks an answer is told in the stream: the status was sent long ago."""
    async with aclosing(stream.pieces(job, ticket)) as pieces:
        try:
            async for piece in pieces:
                yield piece
        except Exception as error:
            if not isinstance(error, ApiError):
                _LOG.error("an answer broke off", exc_info=error)
            yield stream.told(as_api_error(error))


class Streamed(StreamingResponse):
    """Leaves its place however it ends, also when the client was gone before the first piece."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], ticket: Ticket, media_type: str) -> None:
        super().__init__(pieces, media_type=media_type, headers={"Cache-Control": "no-cache"})
        self._pieces = pieces
        self._ticket = ticket

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await self._pieces.aclose()
            finally:
                self._ticket.leave()


def client_left() -> Response:
    return Response(status_code=_CLIENT_LEFT)


async def body_of(desk: Desk, request: Request, *, json_only: bool = True) -> bytes:
    """The body, which must be JSON by its own word: a web page may send other types across sites without asking.

    Without `json_only`, as Ollama's users type their `curl`, a type that is not said so is taken from who is no
    web page: those send an Origin.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and (json_only or "origin" in request.headers):
        raise ApiError(415, say("the body must be application/json", "请求体应为 application/json"))
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > desk.limits.body:
            what = say(f"the body is larger than {desk.limits.body} bytes", f"请求体超过 {desk.limits.body} 字节")
            raise ApiError(413, what)
    return bytes(body)


async def read(desk: Desk, kind: type[B], request: Request, *, json_only: bool = True) -> B:
    """The body as what a route takes; a small one is read at once, which a thread would only delay."""
    body = await body_of(desk, request, json_only=json_only)
    return kind.read(body) if len(body) <= SMALL_BODY else await desk.compute(kind.read, body)


async def respond(
    desk: Desk,
    request: Request,
    ticket: Ticket,
    prepare: Callable[[], GenerationJob],
    whole: Whole,
    stream: Streaming | None,
) -> Response:
    """The response to a request that holds its ticket: whole, or with `stream` in pieces. Then it leaves."""
    try:
        job = await desk.compute(prepare)
        if stream is not None:
            held, ticket = ticket, None  # type: ignore[assignment]
            return Streamed(told_in_stream(stream, job, held), held, stream.media_type)
        answers = await desk.whole(job, ticket, request)
        return client_left() if answers is None else JSONResponse(whole(job, answers))
    finally:
        if ticket is not None:
            ticket.leave()
