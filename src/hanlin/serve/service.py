"""The generation service: jobs in, answers out, streamed or whole; work in threads; clients that disconnect."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from hanlin.inference.text_stream import TextDelta
from hanlin.serve.admission import BodyBudget, Limits, Slot
from hanlin.serve.answer_stream import AnswerEnd, AnswerEvent, AnswerStream
from hanlin.serve.metrics import Metrics
from hanlin.serve.registry import GenerationJob
from hanlin.serve.transport.body_process import BodyProcess

T = TypeVar("T")

_COMPUTE_THREADS = 64
_SPARE_GENERATION_THREADS = 32


@dataclass(slots=True)
class Answer:
    """A whole answer. `first_text_ns` is when its first text came, by `time.perf_counter_ns`."""

    text_deltas: list[TextDelta] = field(default_factory=list)
    end: AnswerEnd = field(default_factory=lambda: AnswerEnd("cancelled", 0))
    first_text_ns: int | None = None

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.text_deltas)


class GenerationService:
    """Answers the jobs of one server. Whatever computes runs in worker threads, never on the event loop.

    Args:
        limits: Limits of the server.
        metrics: Counters of the server.
        model_count: How many models are served; the threads are sized by it.

    Attributes:
        bodies: Counts the bodies that are being received or parsed.
        body_process: Reads the bodies of many values.
        reading_many: Held meanwhile, so that those that wait for it take no thread.
    """

    def __init__(self, limits: Limits, metrics: Metrics, model_count: int) -> None:
        self.limits = limits
        self.metrics = metrics
        self.bodies = BodyBudget(limits.max_bodies_bytes)
        self.body_process = BodyProcess()
        self.reading_many = asyncio.Semaphore(1)
        self._compute_threads = anyio.CapacityLimiter(_COMPUTE_THREADS)  # to parse, render, tokenize
        # more threads than slots: a job may have more answers than the slots it holds
        self._generation_threads = anyio.CapacityLimiter(_SPARE_GENERATION_THREADS + 16 * limits.parallel * model_count)

    async def run_in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._compute_threads)

    def stream(self, job: GenerationJob, slot: Slot) -> AsyncGenerator[list[AnswerEvent], None]:
        """The events of a job's answers as they come; see `AnswerStream.batches`. Close it to cancel them."""
        return AnswerStream(job, slot, self.metrics, self._generation_threads).batches()

    async def collect(self, job: GenerationJob, slot: Slot, request: Request) -> list[Answer] | None:
        """Every answer of a job, whole and in order; None if the client disconnected first."""
        answers = [Answer() for _ in job.requests]

        async def read_all() -> None:
            async with aclosing(self.stream(job, slot)) as batches:
                async for batch in batches:
                    for index, event in batch:
                        if isinstance(event, AnswerEnd):
                            answers[index].end = event
                        else:
                            answers[index].first_text_ns = answers[index].first_text_ns or time.perf_counter_ns()
                            answers[index].text_deltas.append(event)

        return answers if await self.run_while_connected(request, read_all()) else None

    async def run_while_connected(self, request: Request, work: Awaitable[Any]) -> bool:
        """Await `work`; False if the client disconnected before its end, and then it was cancelled."""

        async def wait_for_disconnect() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        working, watching = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_disconnect())
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
