"""What every route does: read and validate the body, then answer a job, whole or as a stream."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from hanlin.core.i18n import tr
from hanlin.serve.admission import HeldBody, Slot
from hanlin.serve.api.body import MAX_QUICK_VALUES, RequestBody, count_values
from hanlin.serve.api.streaming import StreamResponse, StreamWriter, write_stream
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob
from hanlin.serve.service import Answer, GenerationService

B = TypeVar("B", bound=RequestBody)

_SMALL_BODY_BYTES = 4 << 10
_CLIENT_CLOSED_REQUEST = 499  # nginx's status; nobody reads it

BuildResponse = Callable[[GenerationJob, list[Answer]], dict[str, Any]]
"""Makes the JSON of a whole response."""


_PIECE_BYTES = 256 << 10
_PIECE_DEPTH = 3
"""Lists and objects so deep in a response are encoded by one call: an embedding, the log probabilities of an answer."""


async def make_json_response(service: GenerationService, make_content: Callable[[], Any]) -> Response:
    """The response of a content of any size, made and encoded in a thread.

    A call of `json` holds the interpreter's lock to its end, a second for a million numbers, so a large content is
    encoded and sent in pieces.

    Args:
        service: Runs the work.
        make_content: Makes what JSON can hold; rows of numbers may be NumPy arrays.
    """
    pieces = await service.run_in_thread(lambda: _join_pieces(_encode_json(make_content(), _PIECE_DEPTH)))
    if len(pieces) == 1:
        return Response(pieces[0], media_type="application/json")

    async def send() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    size = sum(map(len, pieces))
    return StreamingResponse(send(), media_type="application/json", headers={"Content-Length": str(size)})


def _encode_json(content: Any, depth: int) -> Iterator[str]:
    """The JSON of a content in parts: as `json.dumps` of all of it."""
    if isinstance(content, dict) and depth > 0:
        for index, (name, value) in enumerate(content.items()):
            yield f"{',' if index else '{'}{_dump_json(name)}:"
            yield from _encode_json(value, depth - 1)
        yield "}" if content else "{}"
    elif isinstance(content, list) and depth > 0:
        for index, value in enumerate(content):
            yield "," if index else "["
            yield from _encode_json(value, depth - 1)
        yield "]" if content else "[]"
    else:
        yield _dump_json(content.tolist() if isinstance(content, np.ndarray) else content)


def _dump_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _join_pieces(parts: Iterator[str]) -> list[bytes]:
    """Parts of a text as few pieces of `_PIECE_BYTES` at least, but for the last one."""
    pieces, held = [], bytearray()
    for part in parts:
        held += part.encode()
        if len(held) >= _PIECE_BYTES:
            pieces.append(bytes(held))
            held.clear()
    return [*pieces, bytes(held)] if held or not pieces else pieces


def make_disconnected_response() -> Response:
    """The response for a client that has hung up: a status for the log, which nobody reads."""
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def parse_request(
    service: GenerationService, body_class: type[B], request: Request, *, json_only: bool = True
) -> B:
    """The validated body of a request. A small one is parsed here, which a thread would only delay; one of many values
    in a process of its own, since others would wait for it even beside a thread.

    Args:
        service: Knows the limits of sizes.
        body_class: What the body is validated as.
        request: The request.
        json_only: Require `Content-Type: application/json`: a web page can send other types across sites without
            asking. Without it (Ollama's users type `curl -d`) another type is accepted unless there is an `Origin`
            header, which web pages send.

    Raises:
        ApiError: 400 that names the wrong field, 413 for a body that is too large, 415 for another type, 503 if the
            bodies of all requests together are too large.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and (json_only or "origin" in request.headers):
        raise ApiError(415, tr("the body must be application/json"))
    with service.bodies.open() as held:
        body = await _read_body(service.limits.max_body_bytes, request, held)
        if len(body) <= _SMALL_BODY_BYTES:
            return body_class.parse(body)
        if await service.run_in_thread(count_values, body) <= MAX_QUICK_VALUES:
            return await service.run_in_thread(body_class.parse, body)
        async with service.reading_many:
            parsed: B = await service.run_in_thread(service.body_process.parse, body_class, body)
        return parsed


async def _read_body(max_bytes: int, request: Request, held: HeldBody) -> bytes:
    """The body of a request, whose size is checked while it is read."""
    declared = request.headers.get("content-length", "")
    too_large = ApiError(413, tr("the body is larger than {max_bytes} bytes", max_bytes=max_bytes))
    if declared.isdecimal() and len(declared) < 20 and int(declared) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            held.grow(len(chunk))
            body += chunk
            if len(body) > max_bytes:
                raise too_large
    except ClientDisconnect as error:
        raise ApiError(_CLIENT_CLOSED_REQUEST, tr("the client has gone")) from error
    return bytes(body)


async def respond(
    service: GenerationService,
    request: Request,
    slot: Slot,
    prepare_job: Callable[[], GenerationJob],
    build_response: BuildResponse,
    writer: StreamWriter | None,
) -> Response:
    """Answer a request that has reserved its slot, and release the slot at the end.

    Args:
        service: Answers the job.
        request: Watched for a disconnect while a whole response is made.
        slot: The request's slot.
        prepare_job: Renders the prompt; called in a thread.
        build_response: The JSON of a whole response; called in a thread.
        writer: Streams the response; None: it is sent whole.
    """
    held: Slot | None = slot
    try:
        job = await service.run_in_thread(prepare_job)
        if writer is not None:
            held = None  # the response releases it
            return StreamResponse(write_stream(writer, job, slot), slot, writer)
        answers = await service.collect(job, slot, request)
        if answers is None:
            return make_disconnected_response()
        return await make_json_response(service, partial(build_response, job, answers))
    finally:
        if held is not None:
            held.release()
