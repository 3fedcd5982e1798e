"""Several servers of one model behind one engine: which of them gets a request, and which are well.

Owns the choice and the health checks. Does not own what is asked (`http_engine`) or the processes (`programs`).
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import threading
import weakref
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

import numpy as np

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.inference.protocol import EngineUnavailableError

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_CHECKS = 1.0
_SECONDS_TO_CONNECT = 5.0
_PREFIX = 256
_SLACK = 4


class Replica:
    """One server: its address, whether it answers, and how many requests it has in hand."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address if "//" in address else f"http://{address}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            what = say(f"'{address}' is no address of a server", f"“{address}”不是服务地址")
            raise UserError(what, hint=say("write http://HOST:PORT", "请写成 http://主机:端口"))
        self.address = f"{parts.scheme}://{parts.netloc}"
        self.path = parts.path.rstrip("/").removesuffix("/v1")
        self.healthy = True
        self.open = 0
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._netloc = parts.netloc

    def connection(self, timeout: float | None) -> http.client.HTTPConnection:
        """A new connection; `timeout` bounds each wait for bytes, not the connecting. Raises OSError."""
        made = self._kind(self._netloc, timeout=_SECONDS_TO_CONNECT)
        made.connect()
        made.sock.settimeout(timeout)
        return made

    def well(self, path: str) -> bool:
        try:
            connection = self.connection(_SECONDS_TO_CONNECT)
            try:
                connection.request("GET", self.path + path)
                return connection.getresponse().status == 200
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False


class Replicas:
    """The servers of one model. A thread looks after each of them at `health`; one that does not answer is left out
    until it does."""

    def __init__(self, addresses: Sequence[str], health: str, well: bool = True) -> None:
        """`well`: whether they answer already; what is only being started does not."""
        self.all = [Replica(address) for address in addresses]
        for replica in self.all:
            replica.healthy = well
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=_look_after, args=(weakref.ref(self), health, self._ended), daemon=True).start()

    @property
    def healthy(self) -> int:
        return sum(replica.healthy for replica in self.all)

    def take(self, prompt: Sequence[int], tried: Collection[Replica] = ()) -> Replica:
        """The server for a prompt; `give_back` it. Raises EngineUnavailableError when none is well.

        Prompts that begin alike go to one server, which still holds their keys and values (rendezvous hashing, Thaler
        and Ravishankar 1998), unless it has more than a quarter and a few requests above the least loaded one.
        """
        with self._lock:
            fit = [replica for replica in self.all if replica.healthy and replica not in tried]
            if not fit:
                raise EngineUnavailableError("no server of this model can be reached")
            least = min(replica.open for replica in fit)
            fit = [replica for replica in fit if replica.open <= 1.25 * least + _SLACK]
            start = np.asarray(prompt[:_PREFIX], np.int64).tobytes()
            chosen = max(fit, key=lambda replica: _mixed(start, replica.address))
            chosen.open += 1
            return chosen

    def give_back(self, replica: Replica) -> None:
        with self._lock:
            replica.open -= 1

    def failed(self, replica: Replica) -> None:
        """It did not answer: leave it out until it is well again."""
        if replica.healthy:
            replica.healthy = False
            _LOG.error("%s does not answer and is left out until it does", replica.address)

    def close(self) -> None:
        self._ended.set()


def _mixed(start: bytes, address: str) -> bytes:
    return hashlib.blake2b(start, key=address.encode()[:64], digest_size=8).digest()


def _look_after(known: weakref.ref[Replicas], health: str, ended: threading.Event) -> None:
    while not ended.wait(_SECONDS_BETWEEN_CHECKS):
        replicas = known()
        if replicas is None:
            return
        for replica in replicas.all:
            well = replica.well(health)
            if well and not replica.healthy:
                _LOG.warning("%s answers again", replica.address)
                replica.healthy = True
            elif not well:
                replicas.failed(replica)
        del replicas
