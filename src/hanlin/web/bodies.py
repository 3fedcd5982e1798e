"""Bodies of the page's own requests: JSON within a size, validated as a class of fields."""

from __future__ import annotations

from typing import TypeVar

from anyio.to_thread import run_sync
from fastapi import Request
from starlette.requests import ClientDisconnect

from hanlin.core.i18n import tr
from hanlin.serve.api.body import RequestBody
from hanlin.serve.errors import ApiError

B = TypeVar("B", bound=RequestBody)

MAX_BODY_BYTES = 8 << 20
_QUICK_BYTES = 64 << 10
"""A body so small is parsed at once; a larger one in a thread, so that others need not wait."""


async def read_body(request: Request, body_class: type[B]) -> B:
    """The validated body of a request.

    Raises:
        ApiError: 400 that names the wrong field, 413 for a body that is too large, 415 for another type than JSON.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, tr("the body must be application/json"))
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ApiError(413, tr("the body is larger than {max_bytes} bytes", max_bytes=MAX_BODY_BYTES))
    except ClientDisconnect as error:
        raise ApiError(499, tr("the client has gone")) from error
    if len(body) <= _QUICK_BYTES:
        return body_class.parse(bytes(body))
    parsed: B = await run_sync(body_class.parse, bytes(body))
    return parsed
