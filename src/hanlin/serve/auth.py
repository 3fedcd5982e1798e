"""Who may talk to the server and how much: keys compared in constant time, limits of a key, a Host that a web page
elsewhere cannot forge, a door that is not opened to the network by accident.

Does not own routes.
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
from hanlin.core.i18n import say
from hanlin.serve.errors import ApiError


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use: requests at once, requests in any minute; None is without limit."""

    at_once: int | None = None
    per_minute: int | None = None


class Quota:
    """What a key uses now. On the event loop's thread."""

    def __init__(self, limits: KeyLimits) -> None:
        self._limits = limits
        self._open = 0
        self._begun: deque[float] = deque()

    def enter(self) -> None:
        """Raises ApiError (429, with when to come again) beyond a limit; whoever enters leaves."""
        now = time.monotonic()
        while self._begun and self._begun[0] <= now - 60:
            self._begun.popleft()
        at_once, per_minute = self._limits.at_once, self._limits.per_minute
        if at_once is not None and self._open >= at_once:
            what = say(f"this key may have {at_once} requests at once", f"此密钥最多同时 {at_once} 个请求")
            raise ApiError(429, what, code="key_limit", retry_after=1)
        if per_minute is not None and len(self._begun) >= per_minute:
            wait = max(1, math.ceil(self._begun[0] + 60 - now))
            what = say(f"this key may ask {per_minute} times a minute", f"此密钥每分钟最多请求 {per_minute} 次")
            raise ApiError(429, what, code="key_limit", retry_after=wait)
        self._open += 1
        if per_minute is not None:
            self._begun.append(now)

    def leave(self) -> None:
        self._open -= 1


@dataclass(frozen=True, slots=True)
class Guard:
    """What a request must show. `local` servers answer only to the machine's own names: a page whose domain was
    pointed at 127.0.0.1 (DNS rebinding) sends its own name as Host. `limits` are those of some keys."""

    api_keys: tuple[str, ...] = ()
    local: bool = True
    limits: Mapping[str, KeyLimits] = field(default_factory=dict)

    def knows_host(self, header: str | None) -> bool:
        if not self.local or header is None:
            return True
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        return name.lower() == "localhost" or is_loopback(name.strip("[]"))

    def key_of(self, authorization: str | None) -> str | None:
        """The one of the keys that `Authorization: Bearer KEY` holds."""
        scheme, _, given = (authorization or "").partition(" ")
        said = given.strip().encode()
        # every key is compared, so that the time tells neither which fits nor how far
        same = [key for key in self.api_keys if hmac.compare_digest(said, key.encode())]
        return same[0] if same and scheme.lower() == "bearer" else None

    def admits(self, authorization: str | None) -> bool:
        """Whether one of the keys was shown; always where none is set."""
        return not self.api_keys or self.key_of(authorization) is not None


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_keys(file: Path) -> dict[str, KeyLimits]:
    """Keys with their limits from a YAML file: a list of `key`, and where wanted `at_once` and `per_minute`.

    Raises UserError that says what is wrong in which entry; a key is never shown.
    """
    try:
        rows = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(say("this file of keys cannot be read", "无法读取密钥文件"), file) from error
    found: dict[str, KeyLimits] = {}
    for number, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
        known = (
            isinstance(row, dict) and set(row) <= {"key", "at_once", "per_minute"} and isinstance(row.get("key"), str)
        )
        if not known or not all(
            type(row.get(name, 1)) is int and row.get(name, 1) > 0 for name in ("at_once", "per_minute")
        ):
            what = say(
                f"entry {number} is not of the form `key: TEXT`, `at_once: NUMBER`, `per_minute: NUMBER`",
                f"第 {number} 项应为 `key: 文本`，可加 `at_once: 数`、`per_minute: 数`",
            )
            raise UserError(what, file)
        found[row["key"]] = KeyLimits(row.get("at_once"), row.get("per_minute"))
    return found


def guard_for(host: str, api_keys: Sequence[str], limits: Mapping[str, KeyLimits] | None = None) -> Guard:
    """The guard of a server that listens at `host`; keys that have `limits` are keys too.

    Raises UserError for an open network address without a key."""
    api_keys = [*api_keys, *(limits or {})]
    if not all(re.fullmatch(r"[!-~]+", key) for key in api_keys):  # what an HTTP header carries unchanged
        what = say("the API key must be printable ASCII without spaces", "API 密钥须为不含空格的可打印 ASCII 字符")
        raise UserError(what, "api_key")
    local = is_loopback(host)
    if not local and not api_keys:
        what = say(
            "everyone on the network could use the model: there is no API key",
            "未设 API 密钥，网络上任何人都能使用模型",
        )
        hint = say("set a key, or listen on 127.0.0.1", "请设置密钥，或只监听 127.0.0.1")
        raise UserError(what, host, hint)
    return Guard(tuple(api_keys), local, limits or {})
