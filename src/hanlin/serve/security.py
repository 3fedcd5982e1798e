"""Who may talk to the server: keys compared in constant time, a Host that a web page elsewhere cannot forge, a door
that is not opened to the network by accident.

Does not own routes.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hanlin.errors import UserError
from hanlin.language import say


@dataclass(frozen=True, slots=True)
class Guard:
    """What a request must show. `local` servers answer only to the machine's own names: a page whose domain was
    pointed at 127.0.0.1 (DNS rebinding) sends its own name as Host."""

    api_keys: tuple[str, ...] = ()
    local: bool = True

    def knows_host(self, header: str | None) -> bool:
        if not self.local or header is None:
            return True
        name = header.rsplit(":", 1)[0] if not header.endswith("]") else header
        return name.lower() == "localhost" or is_loopback(name.strip("[]"))

    def admits(self, authorization: str | None) -> bool:
        """Whether `Authorization: Bearer KEY` holds one of the keys; always where none is set."""
        if not self.api_keys:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        said = given.strip().encode()
        # every key is compared, so that the time tells neither which fits nor how far
        same = sum(hmac.compare_digest(said, key.encode()) for key in self.api_keys)
        return scheme.lower() == "bearer" and same > 0


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def guard_for(host: str, api_keys: Sequence[str]) -> Guard:
    """The guard of a server that listens at `host`. Raises UserError for an open network address without a key."""
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
    return Guard(tuple(api_keys), local)
