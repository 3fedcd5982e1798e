"""What a browser shows to be let in: tokens, sessions, its origin; and JSON that is safe inside a page."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

PAGE_TOKEN_HEADER = "x-hanlin-page"
"""Carried by every request that changes something. A page of another origin can neither read the token nor send it."""
START_TOKEN_HEADER = "x-hanlin-start"
SESSION_COOKIE = "hanlin_session"
"""The beginning of the cookie's name, see `name_session_cookie`."""
_MAX_SESSIONS = 1000


def name_session_cookie(url: str) -> str:
    """The name of the cookie of the server at an address.

    Browsers keep one jar for all ports of a host: with one name, signing in to a second server ended the session of the
    first.
    """
    return f"{SESSION_COOKIE}_{hashlib.sha256(url.encode()).hexdigest()[:8]}" if url else SESSION_COOKIE


class Sessions:
    """Which browser sent which key: a session is a random cookie, the key stays here."""

    def __init__(self) -> None:
        self._key_of: dict[str, str] = {}

    def create(self, key: str) -> str:
        """A new session of a key that was checked; the oldest one ends beyond a thousand."""
        if len(self._key_of) >= _MAX_SESSIONS:
            del self._key_of[next(iter(self._key_of))]
        session = secrets.token_urlsafe(24)
        self._key_of[session] = key
        return session

    def find_key(self, session: str | None) -> str | None:
        return self._key_of.get(session or "")

    def end(self, session: str | None) -> None:
        """Forget a session; harmless if there is none."""
        self._key_of.pop(session or "", None)


def is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this server: browsers say so in `Sec-Fetch-Site` and `Origin`.

    Without both headers it is no browser's request; `Origin: null` is never the server's own page.
    """
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https"):
        return False
    # behind a proxy that speaks TLS the scheme differs, and a default port may be left out
    host = headers.get("host", "").lower()
    default_port = 443 if parts.scheme == "https" else 80
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return host in ((f"{name}:{port}",) if port not in (None, default_port) else (name, f"{name}:{default_port}"))


def equal_secrets(sent: str | None, expected: str) -> bool:
    """Whether a secret is the expected one, in a time that does not tell how far it is right."""
    return sent is not None and hmac.compare_digest(sent.encode("utf-8", "replace"), expected.encode())


def dump_for_html(value: Any) -> str:
    """JSON that may stand inside a `<script type="application/json">`: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
