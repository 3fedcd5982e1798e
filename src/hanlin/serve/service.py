"""From a job to the pieces of its answers: places, worker threads, deadlines, clients that go away.

Owns the way between the event loop and the threads that generate. Does not own any API's form.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from hanlin.core.i18n import say
from hanlin.inference.protocol import FinishReason
from hanlin.inference.text_stream import TextDelta, TextStream
from hanlin.serve.admission import Limits, Ticket
from hanlin.serve.errors import ApiError
from hanlin.serve.metrics import Metrics
from hanlin.serve.registry import GenerationJob

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class End:
    """The last of an answer: why it ended and how many tokens it has."""

    finish_reason: FinishReason
    tokens: int


@dataclass(slots=True)
class Answer:
    """A whole answer, and when its first piece came, in nanoseconds of `time.perf_counter_ns`."""

    pieces: list[TextDelta] = field(default_factory=list)
    end: End = End("cancelled", 0)
    first: int | None = None

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


Told = tuple[int, TextDelta | End]
"""The place of an answer within its job, and what comes next of it."""


class Desk:
    """Answers the jobs of one server. Whatever computes runs in its worker threads, never on the event loop."""

    def __init__(self, limits: Limits, metrics: Metrics, models: int) -> None:
        self.limits = limits
        self.metrics = metrics
        self._threads = anyio.CapacityLimiter(64)  # for reading, rendering, tokenizing
        self._speakers = anyio.CapacityLimiter(32 + 16 * limits.parallel * models)

    async def compute(self, work: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._threads)

    async def whole(self, job: GenerationJob, ticket: Ticket, request: Request) -> list[Answer] | None:
        """Every answer of a job; None when the client left before."""
        answers = [Answer() for _ in job.requests]

        async def gather() -> None:
            async with aclosing(self.pieces(job, ticket)) as pieces:
                async for batch in pieces:
                    for place, told in batch:
                        if isinstance(told, End):
                            answers[place].end = told
                        else:
                            answers[place].first = answers[place].first or time.perf_counter_ns()
                            answers[place].pieces.append(told)

        return answers if await self.unless_left(request, gather()) else None

    async def unless_left(self, request: Request, work: Awaitable[Any]) -> bool:
        """Do the work; False when the client left before its end, and then it was cancelled."""

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        working, watching = asyncio.ensure_future(work), asyncio.ensure_future(watch())
        try:
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
                return True
            return False
        finally:
            for task in (working, watching):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await working

    async def pieces(self, job: GenerationJob, ticket: Ticket) -> AsyncGenerator[list[Told], None]:
        """What comes of a job's answers, as it comes, all that is there at once. Closed early, because the client left,
        it ends them.

        One worker thread speaks each answer, from the first piece to the last, and hands it to the event loop, unless
        the engine delivers it there by itself. Nobody waits for a client that reads slowly, and the place is free when
        the last answer is written, read or not.
        Raises ApiError at the deadline, and whatever breaks an answer.
        """
        await ticket.turn()
        begun = time.monotonic()
        name = job.served.name
        self.metrics.prompt(name, job.prompt_tokens)
        loop = asyncio.get_running_loop()
        spoken: asyncio.Queue[Told | BaseException] = asyncio.Queue()
        speeches: list[TextStream] = []
        over = False

        def hand(told: Told | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
                loop.call_soon_threadsafe(spoken.put_nowait, told)

        def speak(place: int) -> bool:
            """Whether the answer has ended; else the engine delivers it, and its end is told then."""
            try:
                if over:
                    return True
                asked = job.requests[place]
                speech = TextStream(job.served.engine, job.served.tokenizer, asked, job.stops)
                speeches.append(speech)
                if over:  # it ended between the two looks
                    speech.cancel()
                if speech.subscribe(partial(deliver, place, speech)):
                    return False
                with closing(speech):
                    for piece in speech:
                        hand((place, piece))
                end(place, speech)
            except BaseException as error:
                fail(error)
            return True

        def deliver(place: int, speech: TextStream, told: TextDelta | BaseException | None) -> None:
            if isinstance(told, TextDelta):
                hand((place, told))
                return
            try:
                if told is not None:
                    raise told
                end(place, speech)
            except BaseException as error:
                fail(error)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(spoke)

        def end(place: int, speech: TextStream) -> None:
            failed = getattr(job.requests[place].constraint, "failed", "")
            if failed and not over:
                what = say(f"the asked form broke off: {failed}", f"所要求的格式中断：{failed}")
                raise ApiError(400, what[:300], param="response_format")
            finish = speech.finish_reason or "cancelled"
            self.metrics.answer(name, finish, speech.tokens)
            hand((place, End(finish, speech.tokens)))

        def fail(error: BaseException) -> None:
            self.metrics.answer(name, "error", 0)
            hand(error)

        def spoke() -> None:
            ticket.worked()
            speaking.pop()
            if not speaking:
                ticket.leave()

        def maybe_spoke(work: asyncio.Future[bool]) -> None:
            if work.cancelled() or work.exception() is not None or work.result():
                spoke()

        speaking = list(range(len(job.requests)))
        for place in range(len(job.requests)):
            ticket.working()
            work = asyncio.ensure_future(anyio.to_thread.run_sync(speak, place, limiter=self._speakers))
            work.add_done_callback(maybe_spoke)
        late = ticket.at_deadline(spoken.put_nowait)
        left = len(job.requests)
        first = True
        try:
            while left:
                batch: list[Told] = []
                told: Any = await spoken.get()
                while True:
                    if isinstance(told, BaseException):
                        if batch:
                            yield batch
                        raise told
                    if isinstance(told[1], End):
                        if told[1].finish_reason == "cancelled":
                            raise RuntimeError("an answer was cancelled: the engine is closed")
                        left -= 1
                    elif first:
                        first = False
                        self.metrics.first_piece(name, time.monotonic() - begun)
                    batch.append(told)
                    if spoken.empty():
                        break
                    told = spoken.get_nowait()
                yield batch
        finally:
            late.cancel()
            over = True
            for speech in list(speeches):
                speech.cancel()
