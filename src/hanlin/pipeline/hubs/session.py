"""Requests to a hub: JSON and ranges of files, tried again after a break, with the waits that the hub asks for.

The libraries of the hubs do not serve here: `huggingface_hub` 2.4 deletes a half-fetched file when its process ends and
compares no hash, and each has rules of its own on waits and redirects. So the bytes go through one session, whose
client is that of `core/http`: bounded in time, and a token that follows no redirect to another host.
"""

from __future__ import annotations

import email.utils
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies

import httpx2

from hanlin.config.references import ENDPOINT_VARIABLES, HUB_ADDRESSES
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.http.address import is_loopback, parse_address
from hanlin.core.http.client import FILE_WANTED, hub_client
from hanlin.core.i18n import tr

Log = Callable[[str], None]
TRIES = 6
"""How often a request is tried while nothing comes; each byte that comes begins the count anew."""
TRIES_TO_REACH = 3
"""How often it is tried if the hub has not answered at all: an address that is wrong stays wrong."""
FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_LONGEST_SILENT_PAUSE = 2.0
LONGEST_WAIT = 600.0
"""Seconds that a hub may ask to wait; a longer wait is told, and not waited for."""
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_RATE_LIMIT_RESET = re.compile(r"\bt=(\d+)")
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


class HubBreakError(OSError):
    """A hub cannot be reached, breaks off, or answers what is no answer; the message is one sentence."""


class HubStatusError(Exception):
    """A hub answers with an error.

    Attributes:
        status: The HTTP status.
        code: Hugging Face's name of the error (`GatedRepo`, `RepoNotFound`, `RevisionNotFound`), or empty.
        message: What the hub says of it, at most 200 characters.
        wait: Seconds after which it may be asked again, or None if it does not say.
    """

    def __init__(self, status: int, code: str = "", message: str = "", wait: float | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.code, self.message, self.wait = status, code, message, wait


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a hub is spoken to, and whether it may have the token: not if only a recipe names it."""

    hub: str
    url: str
    may_have_token: bool = True

    @property
    def is_default(self) -> bool:
        return self.url == HUB_ADDRESSES[self.hub]


def find_endpoint(hub: str, named: str = "", from_recipe: str = "") -> Endpoint:
    """The address of a hub: as it is named, else that of `HF_ENDPOINT` or `MODELSCOPE_ENDPOINT`, else that of the
    recipe, else its own.

    A recipe may come from others, so that the token does not go to an address that only a recipe names, nor over plain
    HTTP to another machine.

    Raises:
        UserError: It is no address of a server.
    """
    variable = ENDPOINT_VARIABLES[hub]
    of_environment = os.environ.get(variable, "").strip()
    url = named or of_environment or from_recipe or HUB_ADDRESSES[hub]
    if "://" not in url:
        url = f"https://{url}"
    try:
        address, path = parse_address(url)
    except UserError as error:
        source = "--endpoint" if named else variable if of_environment else f"launch.{variable.lower()}"
        raise UserError(error.what, source, error.hint) from None
    parts = urlsplit(address)
    is_private = parts.scheme == "https" or is_loopback(parts.hostname or "")
    trusted = bool(named or of_environment) or address == HUB_ADDRESSES[hub]
    return Endpoint(hub, address + path, trusted and is_private)


def find_token(hub: str) -> str:
    """The access token of a hub, from the environment or a login of the hub's own program; empty if there is none."""
    if hub == "hf":
        from huggingface_hub import get_token

        return "" if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "") in ("1", "true") else get_token() or ""
    if "MODELSCOPE_API_TOKEN" in os.environ:
        return os.environ["MODELSCOPE_API_TOKEN"].strip()
    try:
        from modelscope_hub.config import HubConfig
    except ImportError:
        return ""
    return str(HubConfig().load_token() or "")


def is_offline() -> bool:
    """Whether the environment forbids to ask hubs (`HF_HUB_OFFLINE=1`)."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE_VARIABLES)


def find_proxies() -> dict[str, str]:
    """The proxies of the environment by scheme, without the names and passwords that their addresses may hold."""
    addresses = {scheme: address for scheme, address in getproxies().items() if scheme in ("http", "https", "all")}
    return {
        scheme: urlsplit(address if "://" in address else f"//{address}").netloc.rpartition("@")[2]
        for scheme, address in addresses.items()
    }


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """A file that is being sent: from which byte on, and its chunks."""

    start: int
    chunks: Iterator[bytes]


class HubSession:
    """Requests to one hub, from several threads.

    Args:
        endpoint: Where the hub is.
        log: Called with a sentence about a wait.
        seconds_to_begin: How long an answer may take to begin.
    """

    def __init__(self, endpoint: Endpoint, log: Log, seconds_to_begin: float = 30.0) -> None:
        self.endpoint, self.log = endpoint, log
        self.stopped = threading.Event()
        self.has_answered = False
        self._token = find_token(endpoint.hub) if endpoint.may_have_token else ""
        self._client = hub_client(lambda request: None, seconds_to_begin)
        self._headers = {"User-Agent": "hanlin"}
        if self._token:
            self._headers["Authorization"] = f"Bearer {self._token}"
            if endpoint.hub == "ms":  # its older addresses know the cookie alone
                self._headers["Cookie"] = f"m_session_id={self._token}"

    @property
    def has_token(self) -> bool:
        """Whether requests carry a token."""
        return bool(self._token)

    def fetch_json(self, path: str, **query: Any) -> tuple[Any, str]:
        """The JSON data at a path, and the path of the page after it, or empty.

        Raises:
            HubStatusError: The hub answers with an error.
            HubBreakError: It cannot be reached, or what it answers is no JSON.
        """
        patience = Patience(self)
        url = self.endpoint.url + path + (f"?{urlencode(query)}" if query else "")
        while True:
            try:
                with self._send(url, self._headers) as response:
                    following = response.links.get("next", {}).get("url", "")
                    return parse_json(_read(response)), _path_of(following, self.endpoint.url)
            except ValueError as error:
                raise HubBreakError(tr("the answer is no JSON")) from error
            except (HubBreakError, HubStatusError) as error:
                patience.wait(error)

    def measure_answer(self) -> float:
        """Seconds until the hub answers, whatever it says. Raises HubBreakError if it does not."""
        started = time.monotonic()
        try:
            with self._send(self.endpoint.url, self._headers):
                pass
        except HubStatusError:
            pass
        return time.monotonic() - started

    @contextmanager
    def open_file(self, url: str, offset: int) -> Iterator[FileAnswer]:
        """Ask for a file from a byte on; the chunks are read inside the block.

        Raises:
            HubStatusError: The hub answers with an error.
            HubBreakError: It cannot be reached, or it breaks off.
        """
        headers = {**self._headers, **({"Range": f"bytes={offset}-"} if offset else {})}
        with self._send(url, headers, {FILE_WANTED: True}) as response:
            start = 0
            if response.status_code == 206:
                match = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
                start = int(match[1]) if match else -1
            yield FileAnswer(start, _chunks(response))

    @contextmanager
    def _send(
        self, url: str, headers: Mapping[str, str], extensions: dict[str, Any] | None = None
    ) -> Iterator[httpx2.Response]:
        try:
            request = self._client.build_request("GET", url, headers=headers, extensions=extensions)
            response = self._client.send(request, stream=True)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise HubBreakError(_sentence(error)) from error
        self.has_answered = True
        try:
            if response.status_code >= 400:
                raise self._status_error(response)
            yield response
        finally:
            response.close()

    def _status_error(self, response: httpx2.Response) -> HubStatusError:
        headers = response.headers
        message = headers.get("x-error-message", "")
        if not message:
            try:
                data = parse_json(_read(response, 1 << 20))
                message = str(data.get("Message", data.get("error", ""))) if isinstance(data, Mapping) else ""
            except (ValueError, HubBreakError):
                pass
        return HubStatusError(
            response.status_code, headers.get("x-error-code", ""), self.hide_token(message)[:200], _wait_of(headers)
        )

    def hide_token(self, text: str) -> str:
        """The text without the token, should a server send it back."""
        return text.replace(self._token, "***") if self._token else text

    def close(self) -> None:
        self.stopped.set()
        self._client.close()


class Patience:
    """How long one thing is tried: `TRIES` times while nothing comes, with pauses that double, or as the hub asks."""

    def __init__(self, session: HubSession) -> None:
        self._session = session
        self._failures = 0

    def begin_anew(self) -> None:
        """Something came: the tries are counted anew."""
        self._failures = 0

    def wait(self, error: HubBreakError | HubStatusError) -> None:
        """Wait before the next try. Raises `error` if there is to be none."""
        self._failures += 1
        asked = error.wait if isinstance(error, HubStatusError) else None
        is_final = isinstance(error, HubStatusError) and error.status not in _TRY_AGAIN
        tries = TRIES if self._session.has_answered else TRIES_TO_REACH
        if is_final or self._failures >= tries or (asked or 0) > LONGEST_WAIT:
            raise error
        pause = min(FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE) if asked is None else asked
        if asked:
            self._session.log(tr("the hub asks to wait {seconds:g} s", seconds=asked))
        elif pause >= _LONGEST_SILENT_PAUSE:
            self._session.log(tr("{reason}: once more in {seconds:g} s", reason=error, seconds=pause))
        if self._session.stopped.wait(pause):
            raise error


def _wait_of(headers: Mapping[str, str]) -> float | None:
    """The seconds that `Retry-After` (a number or a date) or Hugging Face's `RateLimit` header asks to wait."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():  # `²` is a digit too, and no number
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text) if text else None
    except ValueError:
        moment = None
    if moment is not None:
        return max(0.0, moment.timestamp() - time.time())
    reset = _RATE_LIMIT_RESET.search(headers.get("ratelimit", ""))
    return float(reset[1][:9]) if reset and "r=0" in headers["ratelimit"] else None


def _read(response: httpx2.Response, limit: int | None = None) -> bytes:
    data = bytearray()
    for part in _chunks(response):
        data += part
        if limit is not None and len(data) > limit:
            break
    return bytes(data)


def _chunks(response: httpx2.Response) -> Iterator[bytes]:
    parts = response.iter_raw()  # as they come: a chunk that is gathered is lost when the connection breaks
    while True:
        try:
            part = next(parts, None)
        except (httpx2.HTTPError, httpx2.StreamError, OSError) as error:
            raise HubBreakError(_sentence(error)) from error
        if part is None:
            return
        yield part


def _path_of(url: str, endpoint: str) -> str:
    """The path and query of the next page, which a mirror may name with the address of the hub itself."""
    if not url:
        return ""
    parts = urlsplit(url)
    return parts.path.removeprefix(urlsplit(endpoint).path) + (f"?{parts.query}" if parts.query else "")


def _sentence(error: BaseException) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return tr("it does not answer in time")
    if isinstance(error, httpx2.TooManyRedirects):
        return tr("it sends from one address to another without end")
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__
