"""Several servers of one model behind one engine: load balancing and health checks."""

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
from hanlin.core.i18n import tr
from hanlin.inference.protocol import EngineUnavailableError

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_CHECKS = 1.0
_SECONDS_TO_CONNECT = 5.0
_HASHED_PREFIX_TOKENS = 256
_MAX_EXTRA_REQUESTS = 4


class Replica:
    """One server: its address, whether it is healthy, and its number of requests in flight."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address if "//" in address else f"http://{address}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            what = tr("'{address}' is not the address of a server", address=address)
            raise UserError(what, hint=tr("write http://HOST:PORT"))
        self.address = f"{parts.scheme}://{parts.netloc}"
        self.path = parts.path.rstrip("/").removesuffix("/v1")
        self.healthy = True
        self.in_flight = 0
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._netloc = parts.netloc

    def connection(self, timeout: float | None) -> http.client.HTTPConnection:
        """Open a connection; `timeout` limits each wait for bytes, not the connecting. Raises OSError."""
        connection = self._kind(self._netloc, timeout=_SECONDS_TO_CONNECT)
        connection.connect()
        connection.sock.settimeout(timeout)
        return connection

    def is_healthy(self, path: str) -> bool:
        try:
            connection = self.connection(_SECONDS_TO_CONNECT)
            try:
                connection.request("GET", self.path + path)
                return connection.getresponse().status == 200
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False


class ReplicaPool:
    """The servers of one model. A thread checks each of them at `health`; unhealthy ones get no requests."""

    def __init__(self, addresses: Sequence[str], health: str, is_healthy: bool = True) -> None:
        """`is_healthy` says whether the servers answer already; servers that are only being started do not."""
        self.all = [Replica(address) for address in addresses]
        for replica in self.all:
            replica.healthy = is_healthy
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=_check_health, args=(weakref.ref(self), health, self._closed), daemon=True).start()

    @property
    def healthy(self) -> int:
        return sum(replica.healthy for replica in self.all)

    def acquire(self, prompt: Sequence[int], tried: Collection[Replica] = ()) -> Replica:
        """Choose the server for a prompt; call `release` afterwards. Raises EngineUnavailableError if none is healthy.

        Prompts with the same beginning go to one server, which still holds their keys and values (rendezvous hashing,
        Thaler and Ravishankar 1998), unless it has more than a quarter and a few requests above the least loaded one.
        """
        with self._lock:
            candidates = [replica for replica in self.all if replica.healthy and replica not in tried]
            if not candidates:
                raise EngineUnavailableError("no server of this model can be reached")
            min_in_flight = min(replica.in_flight for replica in candidates)
            candidates = [
                replica for replica in candidates if replica.in_flight <= 1.25 * min_in_flight + _MAX_EXTRA_REQUESTS
            ]
            start = np.asarray(prompt[:_HASHED_PREFIX_TOKENS], np.int64).tobytes()
            chosen = max(candidates, key=lambda replica: _rendezvous_weight(start, replica.address))
            chosen.in_flight += 1
            return chosen

    def release(self, replica: Replica) -> None:
        with self._lock:
            replica.in_flight -= 1

    def mark_unhealthy(self, replica: Replica) -> None:
        """Leave out a server that did not answer until it is healthy again."""
        if replica.healthy:
            replica.healthy = False
            _LOG.error("%s does not answer and is left out until it does", replica.address)

    def close(self) -> None:
        self._closed.set()


def _rendezvous_weight(start: bytes, address: str) -> bytes:
    return hashlib.blake2b(start, key=address.encode()[:64], digest_size=8).digest()


def _check_health(pool_ref: weakref.ref[ReplicaPool], health: str, closed: threading.Event) -> None:
    while not closed.wait(_SECONDS_BETWEEN_CHECKS):
        replicas = pool_ref()
        if replicas is None:
            return
        for replica in replicas.all:
            is_healthy = replica.is_healthy(health)
            if is_healthy and not replica.healthy:
                _LOG.warning("%s answers again", replica.address)
                replica.healthy = True
            elif not is_healthy:
                replicas.mark_unhealthy(replica)
        del replicas
