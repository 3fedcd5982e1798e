"""Who may use the server and how much: API keys compared in constant time, limits of a key, the Host check against
DNS rebinding, and the rule that no network address is served without a key.
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

import yaml

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError

_LIMIT_FIELDS = ("max_parallel_requests", "requests_per_minute")
_MINUTE = 60.0


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
        api_keys: Keys of which one must be sent as `Authorization: Bearer KEY`; empty: none is needed.
        local_only: Answer only to the machine's own names. A page whose domain was pointed at 127.0.0.1 (DNS
            rebinding) sends its own name as Host.
        key_limits: Limits of those keys that have some.
    """

    api_keys: tuple[str, ...] = ()
    local_only: bool = True
    key_limits: Mapping[str, KeyLimits] = field(default_factory=dict)

    def allows_host(self, header: str | None) -> bool:
        """Whether the server answers to this `Host` header."""
        if not self.local_only or header is None:
            return True
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        return name.lower() == "localhost" or is_loopback(name.strip("[]"))

    def match_key(self, authorization: str | None) -> str | None:
        """The configured key that an `Authorization` header holds, or None."""
        scheme, _, credentials = (authorization or "").partition(" ")
        sent = credentials.strip().encode()
        # every key is compared, so that the time tells neither which fits nor how far
        matches = [key for key in self.api_keys if hmac.compare_digest(sent, key.encode())]
        return matches[0] if matches and scheme.lower() == "bearer" else None

    def allows_key(self, authorization: str | None) -> bool:
        """Whether the header holds one of the keys; always true if none is configured."""
        return not self.api_keys or self.match_key(authorization) is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_keys(file: Path) -> dict[str, KeyLimits]:
    """Read API keys and their limits from a YAML file.

    The file is a list: `- {key: TEXT, max_parallel_requests: 4, requests_per_minute: 60}`, both limits optional.

    Raises:
        UserError: names the entry that is wrong; a key is never shown.
    """
    try:
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(tr("cannot read this file of API keys"), file) from error
    limits: dict[str, KeyLimits] = {}
    for position, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
        if not _is_key_entry(row):
            what = tr(
                "entry {position} is not of the form `key: TEXT`, `max_parallel_requests: NUMBER`, "
                "`requests_per_minute: NUMBER`",
                position=position,
            )
            raise UserError(what, file)
        limits[row["key"]] = KeyLimits(*(row.get(name) for name in _LIMIT_FIELDS))
    return limits


def _is_key_entry(row: object) -> bool:
    if not isinstance(row, dict) or not set(row) <= {"key", *_LIMIT_FIELDS} or not isinstance(row.get("key"), str):
        return False
    return all(type(row.get(name, 1)) is int and row.get(name, 1) > 0 for name in _LIMIT_FIELDS)


def make_access_policy(
    host: str, api_keys: Sequence[str], key_limits: Mapping[str, KeyLimits] | None = None
) -> AccessPolicy:
    """The policy of a server that listens on `host`.

    Args:
        host: Address or name that the server binds.
        api_keys: Keys without limits.
        key_limits: Further keys with their limits.

    Raises:
        UserError: a key that no HTTP header can carry, or a network address without any key.
    """
    api_keys = [*api_keys, *(key_limits or {})]
    if not all(re.fullmatch(r"[!-~]+", key) for key in api_keys):  # what an HTTP header carries unchanged
        what = tr("the API key must be printable ASCII without spaces")
        raise UserError(what, "api_key")
    local_only = is_loopback(host)
    if not local_only and not api_keys:
        what = tr("everyone on the network could use the model: there is no API key")
        hint = tr("set a key, or listen on 127.0.0.1")
        raise UserError(what, host, hint)
    return AccessPolicy(tuple(api_keys), local_only, key_limits or {})
