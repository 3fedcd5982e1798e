"""Several servers of one model behind one engine: load balancing and health checks."""

from __future__ import annotations

import hashlib
import logging
import threading
import weakref
from collections.abc import Collection, Sequence

import numpy as np

from hanlin.core.errors import UserError
from hanlin.core.http.address import parse_address
from hanlin.core.http.client import ServerClient, ServerError
from hanlin.core.i18n import tr
from hanlin.inference.protocol import EngineUnavailableError

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_CHECKS = 1.0
_SECONDS_TO_ANSWER = 5.0
"""Of a health check, which costs a server nothing."""
_SECONDS_OF_SILENCE = 3600.0
"""Of an answer: a prompt of 100,000 tokens that waits behind 64 others on a CPU takes many minutes to begin."""
_HASHED_PREFIX_TOKENS = 256
_MAX_EXTRA_REQUESTS = 4


class Replica:
    """One server: its address, whether it is healthy, and its number of requests in flight."""

    def __init__(self, address: str, key: str = "") -> None:
        self.address, path = parse_address(address if "//" in address else f"http://{address}")
        self.healthy = True
        self.in_flight = 0
        self.client = ServerClient(self.address + path.removesuffix("/v1"), key, seconds=_SECONDS_OF_SILENCE)

    def is_healthy(self, path: str) -> bool:
        try:
            with self.client.stream("GET", path, seconds=_SECONDS_TO_ANSWER) as reply:
                return reply.status == 200
        except (ServerError, UserError):
            return False


class ReplicaPool:
    """The servers of one model. A thread checks each of them at `health`; unhealthy ones get no requests."""

    def __init__(self, addresses: Sequence[str], health: str, is_healthy: bool = True, key: str = "") -> None:
        """`is_healthy` says whether the servers answer already; servers that are only being started do not. `key` is
        sent to all of them.
        """
        self.all = [Replica(address, key) for address in addresses]
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
                raise EngineUnavailableError(tr("no server of this model can be reached"))
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
        self._closed.set()  # the clients hold nothing between two requests


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
