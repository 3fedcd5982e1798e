"""Admission control of one model: how many answers are generated at once, how many requests wait, and how long.

`AdmissionQueue.reserve` gives a request its `Slot`; the request awaits `Slot.acquire`, generates, and calls
`Slot.release`. Everything here runs on the event loop's thread, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError

_PLACE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server; the queue and its slots are counted per model.

    Attributes:
        parallel: Answers of one model generated at once (a request with `n` choices counts as `n` answers).
        max_queue: Requests that may wait beside them; further ones get 429.
        deadline_seconds: Time of a request from its arrival to its last token, waiting included.
        drain_seconds: Time that a stopping server gives to the requests in progress.
        max_output_tokens: Upper limit of one answer's tokens; None: what is left of the context.
        max_body_bytes: Upper limit of a request body.
        max_bodies_bytes: Upper limit of all bodies that are being received or read.
        max_connections: Open connections of all clients.
        max_connections_per_client: Open connections of one address; a reverse proxy is one.
        max_headers: Headers of a request.
        max_header_bytes: Bytes of its first line and headers.
        head_seconds: Time from a connection, or the first byte of a further request, to the end of the headers.
        body_seconds: Time for the body, beside what `min_body_rate` gives it.
        min_body_rate: Bytes of the body that add a second to its time.
        write_seconds: Time in which a client that is sent an answer has to read something of it.
    """

    parallel: int = 16
    max_queue: int = 64
    deadline_seconds: float = 600.0
    drain_seconds: float = 30.0
    max_output_tokens: int | None = None
    max_body_bytes: int = 8 * 2**20
    max_bodies_bytes: int = 128 * 2**20
    max_connections: int = 1000
    max_connections_per_client: int = 256
    max_headers: int = 100
    max_header_bytes: int = 64 * 2**10
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    min_body_rate: int = 32 * 2**10
    write_seconds: float = 120.0


class BodyBudget:
    """Counts the bytes of all bodies that are being received or parsed. Runs on the event loop's thread.

    Args:
        max_bytes: What they may have together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    @contextmanager
    def open(self) -> Iterator[HeldBody]:
        """The share of one body, given back at the end."""
        held = HeldBody(self)
        try:
            yield held
        finally:
            held.release()


class HeldBody:
    """What one body takes of a `BodyBudget`."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self._size = 0

    def grow(self, size: int) -> None:
        """Take more bytes. Raises ApiError (503) if there are no more."""
        if self._budget.held_bytes + size > self._budget.max_bytes:
            what = tr("the server is receiving too many large requests: try again")
            raise ApiError(503, what, code="bodies_too_large", retry_after=1)
        self._size += size
        self._budget.held_bytes += size

    def release(self) -> None:
        self._budget.held_bytes -= self._size
        self._size = 0


class AdmissionQueue:
    """First come, first served: hands out at most `limits.parallel` slots and queues the requests beyond them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._in_use = 0
        self._queue: deque[Slot] = deque()
        self._mean_seconds = 1.0  # how long an answer takes, a moving mean

    @property
    def running(self) -> int:
        """Answers that hold a slot now."""
        return self._in_use

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def reserve(self, answers: int = 1) -> Slot:
        """Enter the queue with a request of so many answers; more than `parallel` count as `parallel`.

        Raises:
            ApiError: 429 with a `Retry-After` estimate when the queue is full.
        """
        size = min(answers, self._limits.parallel)
        if self.waiting >= self._limits.max_queue and not self._has_room(size):
            seconds = max(1, math.ceil(self._mean_seconds * (self.waiting + 1) / self._limits.parallel))
            what = tr(
                "{in_use} answers are in progress and {waiting} requests are waiting: try again in {seconds} s",
                in_use=self._in_use,
                waiting=self.waiting,
                seconds=seconds,
            )
            raise ApiError(429, what, code="queue_full", retry_after=seconds)
        slot = Slot(self, size, self._limits.deadline_seconds)
        self._queue.append(slot)
        self._grant_next()
        return slot

    def find_place(self, slot: Slot) -> int:
        """The place of a request in the queue, from 1; 0 if it does not wait."""
        return next((place for place, waiting in enumerate(self._queue, start=1) if waiting is slot), 0)

    def _has_room(self, size: int) -> bool:
        return not self._queue and self._in_use + size <= self._limits.parallel

    def _grant_next(self) -> None:
        while self._queue and self._in_use + self._queue[0].size <= self._limits.parallel:
            slot = self._queue.popleft()
            self._in_use += slot.size
            slot.grant()

    def _free(self, slot: Slot) -> None:
        if slot.granted_at is None:
            if slot in self._queue:
                self._queue.remove(slot)
        else:
            self._in_use -= slot.size
            self._mean_seconds += 0.2 * (time.monotonic() - slot.granted_at - self._mean_seconds)
        self._grant_next()


class Slot:
    """The place of one request in the queue and then among the running ones.

    Whoever reserved it calls `release`, whatever happens. It becomes free once it was released and every task that
    was added to it is done: a request whose client disconnected holds its slot until its generation really ended.
    """

    def __init__(self, queue: AdmissionQueue, size: int, deadline_seconds: float) -> None:
        """`size`: how many of the queue's parallel answers it holds."""
        self.size = size
        self.granted_at: float | None = None
        self._queue = queue
        self._deadline_seconds = deadline_seconds
        self._deadline = time.monotonic() + deadline_seconds
        self._granted = asyncio.Event()
        self._tasks = 0
        self._is_released = False
        self._is_free = False

    def grant(self) -> None:
        """Called by the queue when it is this request's turn."""
        self.granted_at = time.monotonic()
        self._granted.set()

    async def acquire(self) -> None:
        """Wait until the slot is granted.

        Raises:
            ApiError: 503 when the deadline passes first.
        """
        try:
            async with asyncio.timeout(self._seconds_left()):
                await self._granted.wait()
        except TimeoutError:
            raise self._deadline_error() from None

    async def watch_place(self) -> AsyncGenerator[int, None]:
        """The place in the queue, from 1, and each other one that the request comes to; ends when it is its turn.

        It is looked at twice a second: of a queue that moves faster nobody reads every number.
        """
        told = 0
        while (place := self._queue.find_place(self)) and self._seconds_left() > 0:
            if place != told:
                told = place
                yield place
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_PLACE_SECONDS, self._seconds_left())):
                    await self._granted.wait()

    def call_at_deadline(self, on_deadline: Callable[[ApiError], None]) -> asyncio.TimerHandle:
        """Call `on_deadline` with the error when the deadline passes, unless the handle is cancelled before."""
        return asyncio.get_running_loop().call_later(self._seconds_left(), lambda: on_deadline(self._deadline_error()))

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _deadline_error(self) -> ApiError:
        seconds = f"{self._deadline_seconds:g}"
        what = tr("the deadline of {seconds} s has passed", seconds=seconds)
        return ApiError(503 if self.granted_at is None else 504, what, code="deadline_exceeded")

    def add_task(self) -> None:
        """Keep the slot until a matching `finish_task`."""
        self._tasks += 1

    def finish_task(self) -> None:
        self._tasks -= 1
        self._free_if_done()

    def release(self) -> None:
        """Give the slot back; harmless when repeated."""
        self._is_released = True
        self._free_if_done()

    def _free_if_done(self) -> None:
        if self._is_released and self._tasks == 0 and not self._is_free:
            self._is_free = True
            self._queue._free(self)
