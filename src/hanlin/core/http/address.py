"""Addresses of servers: what of a URL is one, whether it is this machine, and the proxy that the user asked for."""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

PROXY_VARIABLE = "HANLIN_PROXY"
_LOOPBACK_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")


def parse_address(url: str) -> tuple[str, str]:
    """The address `scheme://host:port` and the path of a server's URL. Raises UserError if it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        port, parts = None, urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or port == 0:
        what = tr("'{address}' is not the address of a server", address=url)
        raise UserError(what, hint=tr("write http://HOST:PORT"))
    if "@" in parts.netloc:
        what = tr("an address with a name or password in it is not taken")
        raise UserError(what, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", tr("give the key apart"))
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine itself, by its name or number."""
    name = host.lower().strip("[]").rstrip(".")
    if name in _LOOPBACK_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        pass
    try:  # 127.1, 0x7f000001 and other old ways to write it
        return socket.inet_aton(name)[0] == 127
    except OSError:
        return False


def proxy_for(address: str) -> str | None:
    """The proxy that the user asked for (`HANLIN_PROXY`) for an address; None for this machine.

    The common variables (`http_proxy`, `all_proxy`) do not count: they are set for downloads, and a proxy of plain HTTP
    reads the key.
    """
    proxy = os.environ.get(PROXY_VARIABLE, "").strip()
    if not proxy or is_loopback(urlsplit(address).hostname or ""):
        return None
    if urlsplit(proxy).scheme not in ("http", "https") or not urlsplit(proxy).hostname:
        what = tr("'{proxy}' is not the address of a proxy", proxy=proxy)
        raise UserError(what, PROXY_VARIABLE, tr("write http://HOST:PORT"))
    return proxy
