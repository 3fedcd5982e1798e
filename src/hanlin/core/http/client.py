"""HTTP to servers of others (a chat's server, vLLM, llama-server): the one place that makes clients.

What a client promises, whatever the server does: the key goes to the address that the user named and nowhere else, not
after a redirect and not to a proxy that was not asked for; an answer is bounded in size and in time, its headers too;
what goes wrong is one sentence. Hubs are spoken to with `hub_client`.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from hanlin.core.errors import UserError
from hanlin.core.http.address import PROXY_VARIABLE, is_loopback, parse_address, proxy_for
from hanlin.core.i18n import tr

MAX_BODY = 32 << 20
"""Bytes of an answer that is read whole; a list of prompt log probabilities of 8,192 tokens has about 2 MB."""
MAX_LINE = 1 << 20
"""Bytes of one line of a stream; an event with 20 log probabilities has about 2 KB."""
MAX_STREAM = 256 << 20
"""Bytes of a whole stream."""
SECONDS_TO_CONNECT = 5.0
_deadline: ContextVar[float] = ContextVar("deadline")


class ServerError(OSError):
    """A server cannot be reached, breaks off, or answers what is no answer; the message is one sentence."""


class Unreachable(ServerError):
    """Nothing was answered: no server, no TLS, no HTTP."""


class RedirectError(UserError):
    """A server sends to another address, to which no key is sent."""

    code = "unreachable"


class ServerClient:
    """A client of one server; safe to use from several threads.

    Args:
        url: `http://HOST:PORT`, with the path before each request's path if it has one.
        key: Sent as a bearer token; empty: none.
        seconds: How long a whole answer may take, or, of a stream, how long it may send nothing.
        connect_seconds: How long connecting may take.

    Raises:
        UserError: `url` is no address of a server.
    """

    def __init__(
        self, url: str, key: str = "", *, seconds: float = 30.0, connect_seconds: float = SECONDS_TO_CONNECT
    ) -> None:
        self.address, self.path = parse_address(url)
        self._seconds, self._connect_seconds = seconds, connect_seconds
        headers = {"User-Agent": "hanlin", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx2.Client(
            transport=_Transport(self.address), headers=headers, follow_redirects=False, trust_env=False
        )

    def fetch(self, method: str, path: str, body: Any = None, seconds: float | None = None) -> Reply:
        """Send a request and read the whole answer, of any status. Raises ServerError, RedirectError."""
        with self.stream(method, path, body, seconds) as reply:
            reply.read()
            return reply

    @contextmanager
    def stream(self, method: str, path: str, body: Any = None, seconds: float | None = None) -> Iterator[Reply]:
        """Send a request and read the answer inside the block, line by line or whole."""
        reply = self.open(method, path, body, seconds)
        try:
            yield reply
        finally:
            reply.close()

    def open(self, method: str, path: str, body: Any = None, seconds: float | None = None) -> Reply:
        """The beginning of an answer; the caller closes it.

        Args:
            method: `GET` or `POST`.
            path: What follows the client's own path.
            body: JSON data; None for a request without a body.
            seconds: In place of the client's own.

        Raises:
            ServerError: The server cannot be reached or breaks off.
            RedirectError: It sends to another address.
        """
        limit = self._seconds if seconds is None else seconds
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace")
        headers = {} if content is None else {"Content-Type": "application/json"}
        timeout = httpx2.Timeout(limit, connect=self._connect_seconds)
        with _bounded(time.monotonic() + limit), _sentences(limit):
            url = self.address + self.path + path
            request = self._client.build_request(method, url, content=content, headers=headers, timeout=timeout)
            response = self._client.send(request, stream=True)
        reply = Reply(response, limit)
        if 300 <= response.status_code < 400:
            reply.close()
            where = response.headers.get("location", "")[:200]
            what = tr("the server sends to another address, which is not followed: {where}", where=where)
            raise RedirectError(what, self.address, tr("give that address if you trust it"))
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            reply.close()
            raise ServerError(tr("the answer is compressed, which was not asked for"))
        return reply

    def close(self) -> None:
        self._client.close()


class Reply:
    """An answer: its status, and its body whole or line by line."""

    def __init__(self, response: httpx2.Response, seconds: float) -> None:
        self.status = response.status_code
        self.reason = response.reason_phrase[:100]
        self.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self._response, self._seconds = response, seconds
        self._body: bytes | None = None
        stream = response.extensions.get("network_stream")
        self._socket = stream.get_extra_info("socket") if stream is not None else None

    def read(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises ServerError if it is larger than `limit`, or takes longer than the client allows."""
        if self._body is None:
            parts: list[bytes] = []
            total = 0
            for part in self._parts(time.monotonic() + self._seconds, idle=False):
                total += len(part)
                if total > limit:
                    raise ServerError(tr("the answer is longer than {limit:,} bytes", limit=limit))
                parts.append(part)
            self._body = b"".join(parts)
        return self._body

    def text(self, limit: int = MAX_BODY) -> str:
        """The whole body as text."""
        return self.read(limit).decode("utf-8", "replace")

    def json(self) -> Any:
        """The whole body as JSON data. Raises ServerError if it is none."""
        try:
            return json.loads(self.read())
        except (ValueError, RecursionError) as error:
            raise ServerError(tr("the answer is no JSON")) from error

    def lines(self) -> Iterator[bytes]:
        """The lines of a stream as they come, without their ends. Raises ServerError for one that has no end, and if
        nothing comes for as long as the client allows.
        """
        rest = bytearray()
        total = 0
        for part in self._parts(0.0, idle=True):
            total += len(part)
            if total > MAX_STREAM:
                raise ServerError(tr("the answer is longer than {limit:,} bytes", limit=MAX_STREAM))
            rest += part
            if b"\n" in part:
                *whole, last = rest.split(b"\n")
                rest = last
                for line in whole:
                    yield bytes(line.removesuffix(b"\r"))
            if len(rest) > MAX_LINE:
                raise ServerError(tr("a line of the answer is longer than {limit:,} bytes", limit=MAX_LINE))
        if rest:
            yield bytes(rest)

    def events(self) -> Iterator[str]:
        """The data of each server-sent event; the streams read here have one line of data in each.

        Raises ServerError if the answer is no such stream, or if for as long as the client allows nothing but comments
        comes.
        """
        if self.content_type != "text/event-stream":
            found = self.content_type[:60] or "?"
            raise ServerError(tr("the answer is no stream of events but {found}", found=found))
        last = time.monotonic()
        for line in self.lines():
            if line.startswith(b"data:"):
                yield line[5:].strip().decode("utf-8", "replace")
                last = time.monotonic()
            elif time.monotonic() - last > self._seconds:
                raise ServerError(tr("no answer in {seconds:g} seconds", seconds=self._seconds))

    def shutdown(self) -> None:
        """Break off, from any thread: who reads gets an error at once."""
        try:
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended already
            pass

    def close(self) -> None:
        self._response.close()

    def _parts(self, deadline: float, idle: bool) -> Iterator[bytes]:
        parts = self._response.iter_raw()
        while True:
            with _bounded(time.monotonic() + self._seconds if idle else deadline), _sentences(self._seconds):
                part = next(parts, None)
            if part is None:
                return
            yield part


class _Transport(httpx2.BaseTransport):
    """Connections to one address, whose reads end at the deadline of the request however slowly bytes drip.

    Every request has a connection of its own: one that was kept may have been closed by the server meanwhile.
    """

    def __init__(self, address: str) -> None:
        context = httpx2.create_ssl_context() if address.startswith("https:") else None
        proxy = proxy_for(address)
        options: dict[str, Any] = {"ssl_context": context, "network_backend": _Backend()}
        options |= {"max_connections": None, "max_keepalive_connections": 0}
        pool = httpcore2.HTTPProxy(proxy, **options) if proxy else httpcore2.ConnectionPool(**options)
        self._pool: httpcore2.ConnectionPool = pool

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._pool.handle_request(_core_request(request))
        body = _Body(response.stream)  # type: ignore[arg-type]
        return httpx2.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    def close(self) -> None:
        self._pool.close()


def _core_request(request: httpx2.Request) -> httpcore2.Request:
    url = request.url
    return httpcore2.Request(
        method=request.method,
        url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


class _Body(httpx2.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


def hub_client(on_request: Callable[[httpx2.Request], Any], seconds_to_begin: float = 30.0) -> httpx2.Client:
    """The client that a hub's own library sends its requests with; `on_request` is the library's.

    It follows the library's rules on redirects (a token goes to the same origin only) and the proxies of the
    environment, but never for this machine. An answer begins in time and goes on within 60 s, is not compressed, and
    what is no file (JSON) has at most 64 MiB and two minutes. A request with the extension `FILE_WANTED` is for a file.
    """
    hooks = {"request": [on_request]}
    return httpx2.Client(
        transport=_HubTransport(seconds_to_begin), event_hooks=hooks, follow_redirects=True, timeout=None
    )


FILE_WANTED = "hanlin_file"
_HUB_SECONDS_OF_SILENCE = 60.0
_HUB_SECONDS_OF_JSON = 120.0
_HUB_MAX_JSON = 64 << 20
_SAME_NAMES = (
    *("ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout", "ConnectError", "ReadError", "WriteError"),
    *("ProxyError", "UnsupportedProtocol", "LocalProtocolError", "RemoteProtocolError"),
)


class _HubTransport(httpx2.BaseTransport):
    def __init__(self, seconds_to_begin: float) -> None:
        self._seconds_to_begin = seconds_to_begin
        self._pools: dict[str, httpcore2.ConnectionPool] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"
        with _bounded(time.monotonic() + self._seconds_to_begin), _library_errors():
            response = self._pool(request.url).handle_request(_core_request(request))
        headers = {name.lower(): value for name, value in response.headers}
        if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
            response.close()
            raise httpx2.DecodingError(tr("the answer is compressed, which was not asked for"))
        kind = headers.get(b"content-type", b"")
        is_json = kind.startswith((b"application/json", b"text/")) and not request.extensions.get(FILE_WANTED)
        body = _HubBody(response.stream, is_json)  # type: ignore[arg-type]
        return httpx2.Response(response.status, headers=response.headers, stream=body, extensions=response.extensions)

    def _pool(self, url: httpx2.URL) -> httpcore2.ConnectionPool:
        """The connections by the proxy and the scheme of an address; certificates are read for those that need them."""
        proxy = "" if is_loopback(url.host) or proxy_bypass(url.host) else getproxies().get(url.scheme, "")
        key = f"{url.scheme} {proxy}"
        with self._lock:
            if key not in self._pools:
                context = httpx2.create_ssl_context() if proxy or url.scheme == "https" else None
                options: dict[str, Any] = {"ssl_context": context, "network_backend": _Backend()}
                pool = httpcore2.HTTPProxy(proxy, **options) if proxy else httpcore2.ConnectionPool(**options)
                self._pools[key] = pool
            return self._pools[key]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


class _HubBody(_Body):
    def __init__(self, stream: Iterable[bytes], is_json: bool) -> None:
        super().__init__(stream)
        self._is_json = is_json

    def __iter__(self) -> Iterator[bytes]:
        end, total = time.monotonic() + _HUB_SECONDS_OF_JSON, 0
        parts = iter(self._stream)
        while True:
            silent = time.monotonic() + _HUB_SECONDS_OF_SILENCE
            with _bounded(min(end, silent) if self._is_json else silent), _library_errors():
                part = next(parts, None)
            if part is None:
                return
            total += len(part)
            if self._is_json and total > _HUB_MAX_JSON:
                raise httpx2.ReadError(tr("the answer is longer than {limit:,} bytes", limit=_HUB_MAX_JSON))
            yield part


@contextmanager
def _bounded(deadline: float) -> Iterator[None]:
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def _library_errors() -> Iterator[None]:
    """Raise the errors of the connections as those that users of httpx2 know."""
    try:
        yield
    except Exception as error:
        name = next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _SAME_NAMES), None)
        if name is None or isinstance(error, httpx2.HTTPError):
            raise
        raise getattr(httpx2, name)(str(error)) from error


class _Backend(httpcore2.SyncBackend):
    def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _Stream(super().connect_tcp(*args, **options))


class _Stream(httpcore2.NetworkStream):
    """A connection whose reads and writes end at the deadline of the request."""

    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _seconds_left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _seconds_left(timeout, httpcore2.WriteTimeout))

    def start_tls(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(*args, **options))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _seconds_left(timeout: float | None, error: type[Exception]) -> float | None:
    if (deadline := _deadline.get(None)) is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise error("deadline")
    return left if timeout is None else min(left, timeout)


@contextmanager
def _sentences(seconds: float) -> Iterator[None]:
    """Turn what the library raises inside the block into a ServerError of one sentence."""
    try:
        yield
    except (httpcore2.ConnectTimeout, httpcore2.ConnectError, httpx2.InvalidURL) as error:
        raise Unreachable(_connect_reason(error)) from error
    except httpcore2.ProxyError as error:
        refusal = tr("the proxy of {variable} refuses: {reason}", variable=PROXY_VARIABLE, reason=error)
        raise Unreachable(refusal) from error
    except httpcore2.TimeoutException as error:
        raise ServerError(tr("no answer in {seconds:g} seconds", seconds=seconds)) from error
    except (httpcore2.ProtocolError, httpx2.DecodingError) as error:
        raise ServerError(tr("it does not speak HTTP as it should: {reason}", reason=_reason(error))) from error
    except (httpcore2.NetworkError, httpx2.TransportError, httpx2.StreamError, OSError, ValueError) as error:
        # ValueError: the library reads from a socket that `shutdown` took away
        raise ServerError(_reason(error)) from error


def _connect_reason(error: BaseException) -> str:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 8:
        chain.append(cause)
    tls = next((cause for cause in chain if isinstance(cause, ssl.SSLError)), None)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return tr("its TLS certificate is not trusted: {reason}", reason=tls.verify_message or tls.reason)
    if tls is not None:
        return tr("it does not speak TLS: {reason}", reason=(tls.reason or str(tls)).lower().replace("_", " "))
    return _reason(error)


def _reason(error: BaseException) -> str:
    return str(error).split("\n")[0][:200] or type(error).__name__


def error_message(reply: Reply, limit: int = 100_000) -> str:
    """What a server says of a refusal: the message of an error in OpenAI's form, else the start of the body."""
    try:
        text = reply.text(limit)
    except OSError:
        return reply.reason
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return " ".join(text.split())[:200] or reply.reason
    inner = data.get("error", data) if isinstance(data, Mapping) else data
    return str(inner.get("message", inner) if isinstance(inner, Mapping) else inner)[:500]
