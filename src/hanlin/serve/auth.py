"""Who may use the server and how much: API keys compared in constant time, limits of a key, the Host check against
DNS rebinding, the origins whose pages may read answers, and the rule that no network address is served without a key.
"""

from __future__ import annotations

import hmac
import ipaddress
import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from hanlin.config.yaml_text import MAX_BYTES, load_yaml
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError

_LIMIT_FIELDS = ("max_parallel_requests", "requests_per_minute")
_MINUTE = 60.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOCAL_SUFFIXES = (".localhost", ".internal")
"""Names that no public DNS may ever hold (RFC 6761; ICANN for `.internal`), so that no rebinding can use them. Docker
calls the machine `host.docker.internal`. `.local` is not among them: any device of the network may announce a name."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one API key may use: requests in progress, requests in any 60 seconds; None is without limit."""

    max_parallel_requests: int | None = None
    requests_per_minute: int | None = None


class RateLimiter:
    """Enforces the limits of one API key. Runs on the event loop's thread."""

    def __init__(self, limits: KeyLimits) -> None:
        self._limits = limits
        self._in_progress = 0
        self._start_times: deque[float] = deque()

    def acquire(self) -> None:
        """Count a request in; `release` counts it out.

        Raises:
            ApiError: 429 with `Retry-After` beyond a limit.
        """
        now = time.monotonic()
        while self._start_times and self._start_times[0] <= now - _MINUTE:
            self._start_times.popleft()
        max_parallel, per_minute = self._limits.max_parallel_requests, self._limits.requests_per_minute
        if max_parallel is not None and self._in_progress >= max_parallel:
            what = tr("this key is limited to {max_parallel} requests at once", max_parallel=max_parallel)
            raise ApiError(429, what, code="key_limit", retry_after=1)
        if per_minute is not None and len(self._start_times) >= per_minute:
            wait = max(1, math.ceil(self._start_times[0] + _MINUTE - now))
            what = tr("this key is limited to {per_minute} requests a minute", per_minute=per_minute)
            raise ApiError(429, what, code="key_limit", retry_after=wait)
        self._in_progress += 1
        if per_minute is not None:
            self._start_times.append(now)

    def release(self) -> None:
        self._in_progress -= 1


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What a request must show.

    Attributes:
        api_keys: Keys of which one must be sent, as `Authorization: Bearer KEY` or `x-api-key: KEY`; empty: none is
            needed.
        local_only: Answer only to the machine's own names and to `allowed_hosts`. A page whose domain was pointed at
            127.0.0.1 (DNS rebinding) sends its own name as Host.
        key_limits: Limits of those keys that have some.
        allowed_hosts: Further names to answer to, as `parse_host` gives them.
        allowed_origins: Origins whose pages may read answers, as `parse_origin` gives them; `*`: any.
    """

    api_keys: tuple[str, ...] = ()
    local_only: bool = True
    key_limits: Mapping[str, KeyLimits] = field(default_factory=dict)
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()

    def allows_host(self, header: str | None) -> bool:
        """Whether the server answers to this `Host` header."""
        if header is None or (not self.local_only and not self.allowed_hosts):
            return True
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        name = _normalize_address(name.strip("[]").lower().removesuffix("."))
        if name == "localhost" or name.endswith(_LOCAL_SUFFIXES) or is_loopback(name):
            return True
        if not self.local_only and _is_address(name):
            return True  # a page of that address comes from this server itself
        return any(_matches_host(name, pattern) for pattern in self.allowed_hosts)

    def allows_origin(self, header: str) -> bool:
        """Whether a page of this `Origin` may read answers."""
        return any(
            allowed in ("*", header) or (allowed.endswith("://*") and header.startswith(allowed[:-1]))
            for allowed in self.allowed_origins
        )

    def match_key(self, authorization: str | None, x_api_key: str | None = None) -> str | None:
        """The configured key that a request holds, or None.

        Args:
            authorization: The header `Authorization`, as clients of OpenAI send it.
            x_api_key: The header `x-api-key`, as clients of Anthropic send it.
        """
        scheme, _, credentials = (authorization or "").partition(" ")
        bearer = credentials.strip() if scheme.lower() == "bearer" else ""
        candidates = [sent.encode() for sent in (bearer, (x_api_key or "").strip()) if sent]
        # every key is compared, so that the time tells neither which fits nor how far
        matches = [key for sent in candidates for key in self.api_keys if hmac.compare_digest(sent, key.encode())]
        return matches[0] if matches else None

    def allows_key(self, authorization: str | None, x_api_key: str | None = None) -> bool:
        """Whether one of the headers holds one of the keys; always true if none is configured."""
        return not self.api_keys or self.match_key(authorization, x_api_key) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _normalize_address(name: str) -> str:
    """An IP address in its shortest form (`fd00:0:0::5` is `fd00::5`); any other name as it is."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)


def _matches_host(name: str, pattern: str) -> bool:
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def parse_host(text: str) -> str:
    """A name of `--allow-host` as a `Host` header has it: `models.lan`, `*.local` (any name below it), `10.0.0.5`, `*`.

    Raises:
        UserError: it is no name, or it has a port or a scheme.
    """
    name = text.strip().lower().removesuffix(".")
    if name == "*" or _is_address(name.strip("[]")):
        return _normalize_address(name.strip("[]"))
    suffix = _to_ascii(name.removeprefix("*."))
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", suffix):
        what = tr("not the name of a host")
        raise UserError(what, f"--allow-host {text}", tr("write it as models.lan or *.local, without a port"))
    return f"*.{suffix}" if name.startswith("*.") else suffix


def parse_origin(text: str) -> str:
    """A value of `--allow-origin` as browsers send it: `https://chat.example`, `chrome-extension://*`, `*`.

    Raises:
        UserError: it is no origin, or it is `null`, which any page can send.
    """
    where = f"--allow-origin {text}"
    origin = text.strip().removesuffix("/") if not text.strip().endswith("//") else text.strip()
    if origin == "*":
        return origin
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    is_web = parts.scheme in _DEFAULT_PORTS
    host = _to_ascii(parts.hostname or "")
    is_host = bool(re.fullmatch(r"[a-z0-9_.-]+|[0-9a-f:]+", host)) and not parts.path and "@" not in parts.netloc
    is_app = bool(re.fullmatch(r"[a-z][a-z0-9+.-]*://(\*|[!-)+-~]*)", origin)) and parts.scheme not in _DEFAULT_PORTS
    if is_app:
        return origin
    if not is_web or not is_host or parts.query or parts.fragment:
        hint = tr("write it as the browser does: http://localhost:3000, or chrome-extension://*")
        raise UserError(tr("not the origin of a page"), where, hint)
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return f"{parts.scheme}://{shown_host}{shown_port}"


def _to_ascii(name: str) -> str:
    """A host name with its Chinese parts as browsers send them (IDNA); an impossible name is empty."""
    try:
        return name.encode("idna").decode("ascii") if not name.isascii() else name
    except UnicodeError:
        return ""


def read_keys(file: Path) -> dict[str, KeyLimits]:
    """Read API keys and their limits from a YAML file.

    The file is a list: `- {key: TEXT, max_parallel_requests: 4, requests_per_minute: 60}`, both limits optional.

    Raises:
        UserError: names the entry that is wrong; a key is never shown.
    """
    text = _read_text(file)
    try:
        rows, _ = load_yaml(text)
    except yaml.YAMLError as error:  # what it says may quote a key
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise UserError(tr("cannot read this file of API keys"), where, tr("write it as YAML")) from None
    limits: dict[str, KeyLimits] = {}
    for position, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
        if not _is_key_entry(row):
            what = tr(
                "entry {position} is not of the form `key: TEXT`, `max_parallel_requests: NUMBER`, "
                "`requests_per_minute: NUMBER`",
                position=position,
            )
            raise UserError(what, file)
        if row["key"] in limits:
            raise UserError(tr("entry {position} repeats a key", position=position), file)
        limits[row["key"]] = KeyLimits(*(row.get(name) for name in _LIMIT_FIELDS))
    return limits


def read_key_file(file: Path) -> list[str]:
    """Read API keys from a text file: one on each line; empty lines and lines that begin with `#` are left out.

    Raises:
        UserError: the file cannot be read, or holds no key.
    """
    lines = _read_text(file).splitlines()
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise UserError(tr("there is no API key in this file"), file, tr("write one on each line"))
    return keys


def _read_text(file: Path) -> str:
    """The text of a file of keys; a device that gives bytes without end is read as far as a file may be large."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UserError(tr("cannot read this file of API keys"), file) from None
    if len(data) > MAX_BYTES:
        raise UserError(tr("larger than a file of API keys may be ({limit} MiB)", limit=MAX_BYTES >> 20), file)
    return text


def _is_key_entry(row: object) -> bool:
    if not isinstance(row, dict) or not set(row) <= {"key", *_LIMIT_FIELDS} or not isinstance(row.get("key"), str):
        return False
    return all(type(row.get(name, 1)) is int and row.get(name, 1) > 0 for name in _LIMIT_FIELDS)


def make_access_policy(
    host: str,
    api_keys: Sequence[str],
    key_limits: Mapping[str, KeyLimits] | None = None,
    *,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
) -> AccessPolicy:
    """The policy of a server that listens on `host`.

    Args:
        host: Address or name that the server binds.
        api_keys: Keys without limits.
        key_limits: Further keys with their limits.
        allowed_hosts: Names to answer to beside the machine's own; on a network address without any, to every name.
        allowed_origins: Origins whose pages may read answers.

    Raises:
        UserError: two equal keys, a key that no HTTP header can carry, a network address without any key, a host or
            origin that is none, or `*` for them without any key.
    """
    api_keys = [*api_keys, *(key_limits or {})]
    if len(set(api_keys)) < len(api_keys):
        what = tr("two API keys are equal")
        raise UserError(what, "api_key", tr("give each user a key of their own, or leave one out"))
    if not all(re.fullmatch(r"[!-~]+", key) for key in api_keys):  # what an HTTP header carries unchanged
        what = tr("the API key must be printable ASCII without spaces")
        raise UserError(what, "api_key")
    local_only = is_loopback(host)
    if not local_only and not api_keys:
        what = tr("everyone on the network could use the model: there is no API key")
        hint = tr("set a key, or listen on 127.0.0.1")
        raise UserError(what, host, hint)
    hosts = tuple(dict.fromkeys(map(parse_host, allowed_hosts)))
    origins = tuple(dict.fromkeys(map(parse_origin, allowed_origins)))
    for option, values in (("--allow-host", hosts), ("--allow-origin", origins)):
        if "*" in values and not api_keys:
            what = tr("every page on the web could use the model: there is no API key")
            raise UserError(what, f"{option} *", tr("set a key, or name what is allowed"))
    return AccessPolicy(tuple(api_keys), local_only, key_limits or {}, hosts, origins)
