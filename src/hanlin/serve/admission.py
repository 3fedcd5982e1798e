"""How many requests are answered at once, how many may wait, and how long: the door of one model.

Does not own generation or HTTP. Everything runs on the event loop's thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hanlin.core.i18n import say
from hanlin.serve.errors import ApiError


@dataclass(frozen=True, slots=True)
class Limits:
    """`parallel` answers of a model are generated at once and `queue` requests wait beside them; a request may take
    `deadline` seconds in all, waiting included; a stopping server gives what is in progress `drain` seconds. An answer
    has at most `output` tokens (None: the rest of the context), a body at most `body` bytes."""

    parallel: int = 16
    queue: int = 64
    deadline: float = 600.0
    drain: float = 30.0
    output: int | None = None
    body: int = 8 * 2**20


class Door:
    """First come, first served. A request of several choices takes as many places, at most all of them."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken = 0
        self._waiting: deque[Ticket] = deque()
        self._seconds = 1.0  # how long an answer takes, a moving mean

    @property
    def answering(self) -> int:
        return self._taken

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def book(self, places: int = 1) -> Ticket:
        """Raises ApiError (429, with when to come again) when too many wait already."""
        if self.waiting >= self._limits.queue and not self._fits(min(places, self._limits.parallel)):
            seconds = max(1, math.ceil(self._seconds * (self.waiting + 1) / self._limits.parallel))
            what = say(
                f"{self._taken} answers are in progress and {self.waiting} requests wait: come again in {seconds} s",
                f"已有 {self._taken} 个回答在生成、{self.waiting} 个请求在排队：请 {seconds} 秒后再试",
            )
            raise ApiError(429, what, code="queue_full", retry_after=seconds)
        ticket = Ticket(self, min(places, self._limits.parallel), self._limits.deadline)
        self._waiting.append(ticket)
        self._let_in()
        return ticket

    def _fits(self, places: int) -> bool:
        return not self._waiting and self._taken + places <= self._limits.parallel

    def _let_in(self) -> None:
        while self._waiting and self._taken + self._waiting[0].places <= self._limits.parallel:
            ticket = self._waiting.popleft()
            self._taken += ticket.places
            ticket.begin()

    def _free(self, ticket: Ticket) -> None:
        if ticket.begun is None:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        else:
            self._taken -= ticket.places
            self._seconds += 0.2 * (time.monotonic() - ticket.begun - self._seconds)
        self._let_in()


class Ticket:
    """A request's place in the queue and then at work. Whoever books it leaves, whatever happens; the place is free
    once what was begun for it has ended too."""

    def __init__(self, door: Door, places: int, seconds: float) -> None:
        self.places = places
        self.begun: float | None = None
        self._door = door
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._turn = asyncio.Event()
        self._working = 0
        self._left = False
        self._freed = False

    def begin(self) -> None:
        self.begun = time.monotonic()
        self._turn.set()

    async def turn(self) -> None:
        """Wait for the place. Raises ApiError (503) at the deadline."""
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                await self._turn.wait()
        except TimeoutError:
            raise self._late() from None

    def at_deadline(self, tell: Callable[[ApiError], None]) -> asyncio.TimerHandle:
        """Tell of the deadline when it comes, unless the handle is cancelled before."""
        seconds = max(0.0, self._until - time.monotonic())
        return asyncio.get_running_loop().call_later(seconds, lambda: tell(self._late()))

    def _late(self) -> ApiError:
        what = say(f"the deadline of {self._seconds:g} s has passed", f"已超过 {self._seconds:g} 秒的期限")
        return ApiError(503 if self.begun is None else 504, what, code="deadline_exceeded")

    def working(self) -> None:
        self._working += 1

    def worked(self) -> None:
        self._working -= 1
        self._maybe_free()

    def leave(self) -> None:
        self._left = True
        self._maybe_free()

    def _maybe_free(self) -> None:
        if self._left and self._working == 0 and not self._freed:
            self._freed = True
            self._door._free(self)
