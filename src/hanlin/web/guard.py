"""The one gate in front of every path of the page: Host, Origin, key, page token, language and security headers.

A view cannot forget a check, since none is made in a view, except for the start token (`Frame.require_start_token`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response

from hanlin.core.i18n import Language, tr, use_language
from hanlin.serve.errors import ApiError
from hanlin.serve.middleware import make_host_error
from hanlin.web.access import PAGE_TOKEN_HEADER, equal_secrets, is_same_origin
from hanlin.web.frame import Frame
from hanlin.web.texts import LANGUAGE_COOKIE, choose_language

Asgi = Callable[[Any, Any, Any], Awaitable[None]]

PREFIX = "/ui"
SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_LOGIN = "/ui/login"
_STATIC = "/ui/static/"
"""What may be read without a key: the form that asks for it, and what it is drawn with."""


def is_page_path(path: str) -> bool:
    """Whether a path is the page's, not one of an API."""
    return path == PREFIX or path.startswith(PREFIX + "/")


class UiGuard:
    """An ASGI layer that lets a request for a path below `/ui` through, or refuses it; other paths pass as they are.

    - The Host must be one that the server answers to, as for its APIs.
    - If keys are configured, one must be sent, or the cookie of a session that was opened with one.
    - A request that changes something must come from this server's own page: no foreign Origin, and the page's token.

    `request.state.owner` is the key that was shown, '' without keys. A request to an API with the page's token is the
    page's own: it carries the key of the browser's session, so that no script need know the key.
    """

    def __init__(self, app: Asgi, frame: Frame) -> None:
        self._app, self._frame = app, frame

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not is_page_path(path):
            is_visit = scope["type"] == "http" and path == "/" and scope["method"] == "GET"
            if is_visit and "text/html" in Headers(scope=scope).get("accept", ""):
                # a reader who typed no path; programs ask here whether an Ollama is running
                await RedirectResponse(f"{quote(self._frame.base_path)}{PREFIX}/", 303)(scope, receive, send)
                return
            if scope["type"] == "http" and PAGE_TOKEN_HEADER in Headers(scope=scope):  # the page asks an API
                with use_language(self._choose_language(Headers(scope=scope))):
                    await self._app(self._with_key_of_session(scope), receive, send)
            else:
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cookies = read_cookies(headers.get("cookie"))
        language = self._choose_language(headers)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                add_security_headers(MutableHeaders(scope=message), is_static=path.startswith(_STATIC))
            await send(message)

        scope.setdefault("state", {})["language"] = language  # an error that no route explains is answered outside
        with use_language(language):
            refusal = self._check(scope["method"], path, headers, cookies, scope)
            app = self._app if refusal is None else refusal
            await app(scope, receive, send_with_headers)

    def _choose_language(self, headers: Headers) -> Language:
        """The reader's language: what was switched to, else what the server was started with, else the browser's."""
        cookie = read_cookies(headers.get("cookie")).get(LANGUAGE_COOKIE)
        if self._frame.fixed_language is not None and cookie is None:
            return self._frame.fixed_language
        return choose_language(cookie, headers.get("accept-language"), self._frame.default_language)

    def _with_key_of_session(self, scope: Any) -> Any:
        """The request of the page to an API with the key of its session; any other request as it is."""
        headers = Headers(scope=scope)
        if not self._frame.policy.api_keys or "authorization" in headers or "x-api-key" in headers:
            return scope
        key = self._frame.sessions.find_key(read_cookies(headers.get("cookie")).get(self._frame.session_cookie))
        is_own = is_same_origin(headers) and equal_secrets(headers.get(PAGE_TOKEN_HEADER), self._frame.page_token)
        if key is None or not is_own:
            return scope
        return {
            **scope,
            "headers": [*scope["headers"], (b"authorization", f"Bearer {key}".encode("latin-1", "replace"))],
        }

    def _check(
        self, method: str, path: str, headers: Headers, cookies: Mapping[str, str], scope: Any
    ) -> Response | None:
        """The refusal of a request, or None; sets `state.owner`."""
        policy = self._frame.policy
        host = headers.get("host")
        if not policy.allows_host(host):
            return make_refusal(make_host_error(host))
        changes = method not in _SAFE_METHODS
        if (changes or headers.get("origin") is not None) and not is_same_origin(headers):
            what = tr("this request comes from another page than the server's own")
            return make_refusal(ApiError(403, what, code="origin_not_allowed"))
        if changes and not equal_secrets(headers.get(PAGE_TOKEN_HEADER), self._frame.page_token):
            what = tr("the token of the page is missing or old: reload the page")
            return make_refusal(ApiError(403, what, code="page_token"))
        owner = policy.match_key(headers.get("authorization"), headers.get("x-api-key"))
        owner = owner or self._frame.sessions.find_key(cookies.get(self._frame.session_cookie)) or ""
        scope.setdefault("state", {})["owner"] = owner
        if policy.api_keys and not owner and path != _LOGIN and not path.startswith(_STATIC):
            if not changes and "text/html" in headers.get("accept", ""):
                return RedirectResponse(f"{quote(self._frame.base_path)}{_LOGIN}", 303)
            return make_refusal(ApiError(401, tr("wrong or missing API key"), code="invalid_api_key"))
        return None


def add_security_headers(headers: MutableHeaders, is_static: bool = False) -> None:
    """Put the headers of every response of the page; a response may have set its own of a name."""
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", "no-cache" if is_static else "no-store")
    if not is_static:
        headers.setdefault("Vary", "Accept-Language, Cookie")


def read_cookies(header: str | None) -> dict[str, str]:
    """The cookies of a request by name.

    Cookies of all ports of a machine come together, so that those of other servers are among them: `http.cookies` gives
    none at all if one is of a form that it does not know, such as `{"a": 1}`, browsers send any.
    """
    return cookie_parser(header or "")


def make_refusal(error: ApiError) -> Response:
    """An error of the page's own routes as JSON: `{"error": {"message", "code"}}`."""
    return JSONResponse({"error": {"message": error.message, "code": error.code}}, error.status)
