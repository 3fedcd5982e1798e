"""Limits of a connection, which hold before a key is looked at: how many there are, how large a head is, how slowly a
request may come and an answer may be read.

Uvicorn's protocol over httptools has no such limits: it takes headers of any size and number, and waits for the rest of
a request for ever.

    connection  -- head_seconds -->  head complete  -- body_seconds + bytes / min_body_rate -->  body complete
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hanlin.core.i18n import tr
from hanlin.serve.admission import Limits
from hanlin.serve.errors import ApiError

_LOG = logging.getLogger(__name__)
_MAX_PIPELINED = 16
_LINGER_SECONDS = 5.0
"""How long a client may go on sending after its request was answered or refused."""
_BODY_BYTES_PER_FRAMING_BYTE = 16
"""A chunk of one byte has five bytes around it; a body with more beside it than this is no body."""


def make_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol class of one server, for `uvicorn.Config(http=...)`."""
    return type("BoundedProtocol", (_BoundedProtocol,), {"limits": limits, "clients": Counter()})


class _TooLarge(Exception):
    """Raised in a callback of the parser, which ends the parsing."""


class _BoundedProtocol(HttpToolsProtocol):
    limits: ClassVar[Limits]
    clients: ClassVar[Counter[str]]
    """Open connections by address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self.clients[self._address] += 1
        self._error: ApiError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._has_head = False
        self._reset()
        is_full = len(self.connections) > self.limits.max_connections
        if is_full or (self._address and self.clients[self._address] > self.limits.max_connections_per_client):
            self._refuse(ApiError(503, tr("too many connections"), code="too_many_connections", retry_after=5))
        else:
            self._start_timer(self.limits.head_seconds)

    def _reset(self) -> None:
        """Begin to count the bytes of a request."""
        self._received = self._body_bytes = self._header_bytes = self._headers_count = 0
        self._body_start = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        self.clients[self._address] -= 1
        if not self.clients[self._address]:
            del self.clients[self._address]
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        if self._timer is None and not self._has_head:  # a further request of this connection
            self._start_timer(self.limits.head_seconds)
        self._received += len(data)
        super().data_received(data)
        framing = self._received - (_BODY_BYTES_PER_FRAMING_BYTE + 1) * self._body_bytes
        if framing > self.limits.max_header_bytes and self._error is None and not self.transport.is_closing():
            self._refuse(self._make_size_error())

    def send_400_response(self, msg: str) -> None:
        """Called if the parser fails, or one of our callbacks has."""
        self._refuse(self._error or ApiError(400, tr("this is no HTTP request")))

    # ---------------------------------------------------------------------------------- callbacks of the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = self._headers_count = 0

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_count += 1
        self._count_header(len(name) + len(value))
        if not self._has_head:  # what follows a body (trailers) has no effect
            super().on_header(name, value)

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.limits.max_header_bytes or self._headers_count > self.limits.max_headers:
            self._error = self._make_size_error()
            raise _TooLarge

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._error = ApiError(400, tr("too many requests at once on one connection"))
            raise _TooLarge
        super().on_headers_complete()
        self._has_head = True
        self._body_start = self.loop.time()
        self._start_timer(self.limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_head = False
        self._reset()
        self._stop_timer()

    # -------------------------------------------------------------------------------------------------- endings

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._has_head and self.cycle.response_complete and not self.transport.is_closing():  # answered early
            self._stop_timer()
            self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._watch_reader()

    def _watch_reader(self, unread: int | None = None) -> None:
        """Close the connection of a client that has read nothing for a while; `unread`: bytes at the last look."""
        left = self.transport.get_write_buffer_size()
        if unread is not None and left >= unread:
            self.transport.abort()
            return
        self._write_timer = self.loop.call_later(self.limits.write_seconds, self._watch_reader, left)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._has_head:
            allowed = self.limits.body_seconds + self._body_bytes / self.limits.min_body_rate
            left = self._body_start + allowed - self.loop.time()
            if left > 0:
                self._start_timer(left)
                return
        elif not self._received:  # opened ahead of time, and never used
            self.transport.close()
            return
        self._refuse(ApiError(408, tr("the request did not arrive in time"), code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error, unless an answer has begun, and close the connection."""
        self._error = error
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_encode_error(error))
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)  # a client that does not read

    def _make_size_error(self) -> ApiError:
        what = tr(
            "the head of the request has more than {max_headers} headers or {max_bytes} bytes",
            max_headers=self.limits.max_headers,
            max_bytes=self.limits.max_header_bytes,
        )
        return ApiError(431, what, code="headers_too_large")


def _encode_error(error: ApiError) -> bytes:
    content = json.dumps(error.openai_body(), ensure_ascii=False).encode()
    headers: dict[str, Any] = {
        "content-type": "application/json",
        "content-length": len(content),
        "connection": "close",
        **({"retry-after": error.retry_after} if error.retry_after else {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[error.status] + lines.encode("ascii") + b"\r\n" + content
