"""ASGI layers around the application: the headers that let pages of named origins read answers (CORS), the base path
behind a reverse proxy, and the count of requests.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.errors import ApiError
from hanlin.serve.metrics import Metrics

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
_PREFLIGHT_SECONDS = 600


class CorsMiddleware:
    """Answers preflight requests, and marks responses that pages of a named origin may read.

    A page of any other origin gets no such header, so that its browser refuses it the answer; its preflight gets 403.
    Credentials (cookies) are never allowed: keys are sent as headers. Source: the Fetch standard, section 3.3.
    """

    def __init__(self, app: Asgi, policy: AccessPolicy) -> None:
        self._app, self._policy = app, policy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is not None and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await self._answer_preflight(origin, headers)(scope, receive, send)
        elif scope["type"] == "http" and self._policy.allowed_origins:

            async def send_with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message.setdefault("headers", [])
                    self._add_headers(MutableHeaders(scope=message), origin)
                await send(message)

            await self._app(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send)

    def _answer_preflight(self, origin: str, headers: Headers) -> Response:
        if not self._policy.allows_host(headers.get("host")):
            return make_error_response(make_host_error(headers.get("host")))
        if not self._policy.allows_origin(origin):
            what = tr("pages of {origin} may not use this server: name it with --allow-origin", origin=origin)
            response = make_error_response(ApiError(403, what, code="origin_not_allowed"))
            response.headers["Vary"] = "Origin"
            return response
        response = Response(status_code=204)
        response.headers["Access-Control-Allow-Methods"] = _METHODS
        response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
        if requested := headers.get("access-control-request-headers"):
            response.headers["Access-Control-Allow-Headers"] = requested
        if headers.get("access-control-request-private-network") == "true":
            response.headers["Access-Control-Allow-Private-Network"] = "true"
        self._add_headers(response.headers, origin)
        response.headers["Vary"] = "Origin, Access-Control-Request-Headers"
        return response

    def _add_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        headers.add_vary_header("Origin")  # a cache may not give one origin's answer to another
        if origin is not None and self._policy.allows_origin(origin):
            headers["Access-Control-Allow-Origin"] = "*" if "*" in self._policy.allowed_origins else origin
            headers["Access-Control-Expose-Headers"] = "Retry-After"


class BasePathMiddleware:
    """Serves everything below a base path too, such as `/hanlin`, behind a reverse proxy that keeps it in the path.

    `/hanlin/v1/models` is `/v1/models`, which a proxy that takes the base path away asks for; redirects stay below it.
    """

    def __init__(self, app: Asgi, base_path: str) -> None:
        self._app, self._base_path = app, base_path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if not self._base_path or not (path + "/").startswith(self._base_path + "/"):
            await self._app(scope, receive, send)
            return
        inner = path[len(self._base_path) :] or "/"
        base = quote(self._base_path)

        async def send_below_base(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if location := headers.get("location"):
                    parts = urlsplit(location)
                    below = "" if f"{parts.path}/".startswith(f"{base}/") else base  # the page's addresses have it
                    headers["location"] = below + parts.path + (f"?{parts.query}" if parts.query else "")
            await send(message)

        await self._app({**scope, "path": inner, "raw_path": quote(inner).encode()}, receive, send_below_base)


class RequestMetricsMiddleware:
    """Counts each request by route and status once it has ended; an unknown path is `other`."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_time = time.monotonic()
        status = 500

        async def send_and_note_status(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count_request(route, status, time.monotonic() - start_time)


def make_host_error(host: str | None) -> ApiError:
    """The refusal of a `Host` that this server does not answer to."""
    name = host or ""
    what = tr("this server does not answer to the name {name}: name it with --allow-host", name=name)
    return ApiError(403, what, code="host_not_allowed")


def make_error_response(error: ApiError) -> Response:
    """An error outside of all APIs, in OpenAI's form."""
    return JSONResponse(error.openai_body(), error.status)


def parse_base_path(text: str) -> str:
    """A base path as `/hanlin`, without a slash at its end; empty for none.

    Raises:
        UserError: it holds what no path does, or is an address.
    """
    parts = [part for part in text.split("/") if part]
    if "://" in text or any(
        part in (".", "..") or not part.isprintable() or set(part) & set(" ?#%\\") for part in parts
    ):
        raise UserError(tr("not a path"), f"--base-path {text}", tr("write it as /hanlin"))
    return "".join(f"/{part}" for part in parts)
