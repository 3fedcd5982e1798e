"""Stream the answers of one job from the threads that generate them to the event loop that sends them.

    job.requests = [A, B]       worker threads                            event loop
                                A: TextDelta, TextDelta, AnswerEnd  --+
                                B: TextDelta, AnswerEnd             --+-->  [(0, TextDelta), (1, TextDelta)], ...

The APIs in `serve.api` turn the events into responses.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread

from hanlin.core.i18n import tr
from hanlin.inference.protocol import FinishReason
from hanlin.inference.text_stream import TextDelta, TextStream
from hanlin.serve.admission import Slot
from hanlin.serve.errors import ApiError
from hanlin.serve.metrics import Metrics
from hanlin.serve.registry import GenerationJob


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The last event of an answer.

    Attributes:
        finish_reason: Why it ended.
        completion_tokens: Number of generated tokens, without the stop token.
        stop_string: The stop string that ended it, or ''.
        cached_tokens: How many tokens of its prompt the KV cache held; None if the engine does not say.
    """

    finish_reason: FinishReason
    completion_tokens: int
    stop_string: str = ""
    cached_tokens: int | None = None


AnswerEvent = tuple[int, TextDelta | AnswerEnd]
"""The index of an answer within its job, and its next text or its end."""


class AnswerStream:
    """Generates the answers of one job and yields their events in batches.

    Each answer is generated in one worker thread, or, if the engine supports callbacks, delivered by the engine's own
    thread. Events go through an unbounded queue: generation never waits for a client that reads slowly, and the slot is
    released when the last answer is generated, read or not.

    Args:
        job: The requests to answer.
        slot: The job's slot in the admission queue; it is released when every answer has ended.
        metrics: Counts prompts, answers and the time to the first text.
        threads: Limits the worker threads.
    """

    def __init__(self, job: GenerationJob, slot: Slot, metrics: Metrics, threads: anyio.CapacityLimiter) -> None:
        self._job, self._slot, self._metrics, self._threads = job, slot, metrics, threads
        self._model_name = job.model.name
        self._events: asyncio.Queue[AnswerEvent | BaseException] = asyncio.Queue()
        self._text_streams: list[TextStream] = []
        self._num_generating = len(job.requests)  # answers that are still being generated
        self._num_unread_ends = len(job.requests)
        self._has_text = False
        self._is_closed = False
        self._start_time = 0.0
        self._loop: asyncio.AbstractEventLoop

    async def batches(self) -> AsyncGenerator[list[AnswerEvent], None]:
        """Yield the available events, at least one in each batch, until every answer has ended.

        Closing the generator early, because the client disconnected, cancels the answers.

        Raises:
            ApiError: The deadline has passed, or a response format cannot be completed.
            BaseException: Any other error that ended an answer.
        """
        await self._slot.acquire()
        self._start_time = time.monotonic()
        self._metrics.count_prompt(self._model_name, self._job.prompt_tokens)
        self._loop = asyncio.get_running_loop()
        self._start_answers()
        deadline = self._slot.call_at_deadline(self._events.put_nowait)
        try:
            while self._num_unread_ends:
                batch, error = await self._read_batch()
                if batch:
                    yield batch
                if error is not None:
                    raise error
        finally:
            deadline.cancel()
            self._cancel()

    # ------------------------------------------------------------------------------------------ on the event loop

    def _start_answers(self) -> None:
        for index in range(len(self._job.requests)):
            self._slot.add_task()
            future = asyncio.ensure_future(anyio.to_thread.run_sync(self._generate, index, limiter=self._threads))
            future.add_done_callback(self._on_thread_done)

    async def _read_batch(self) -> tuple[list[AnswerEvent], BaseException | None]:
        """Wait for an event, then take all that are available.

        Returns:
            The events, and the error that ended the batch, or None.
        """
        batch: list[AnswerEvent] = []
        event = await self._events.get()
        while not isinstance(event, BaseException):
            self._record(event)
            batch.append(event)
            if self._events.empty():
                return batch, None
            event = self._events.get_nowait()
        return batch, event

    def _record(self, event: AnswerEvent) -> None:
        _, content = event
        if isinstance(content, AnswerEnd):
            if content.finish_reason == "cancelled":
                raise RuntimeError("an answer was cancelled: the engine is closed")
            self._num_unread_ends -= 1
        elif not self._has_text:
            self._has_text = True
            self._metrics.observe_first_text(self._model_name, time.monotonic() - self._start_time)

    def _on_thread_done(self, future: asyncio.Future[bool]) -> None:
        if future.cancelled() or future.exception() is not None or future.result():
            self._on_answer_done()

    def _on_answer_done(self) -> None:
        self._slot.finish_task()
        self._num_generating -= 1
        if not self._num_generating:
            self._slot.release()

    def _cancel(self) -> None:
        self._is_closed = True
        for text_stream in list(self._text_streams):
            text_stream.cancel()

    # ----------------------------------------------------------------- in a worker thread, or in the engine's thread

    def _generate(self, index: int) -> bool:
        """Generate one answer. Returns False if the engine delivers it later, by `_on_item`; True if it has ended."""
        try:
            if self._is_closed:
                return True
            model = self._job.model
            text_stream = TextStream(
                model.engine,
                model.tokenizer,
                self._job.requests[index],
                self._job.stop_strings,
                continues_text=self._job.continues_text[index],
            )
            self._text_streams.append(text_stream)
            if self._is_closed:  # it was closed between the two checks
                text_stream.cancel()
            if text_stream.subscribe(partial(self._on_item, index, text_stream)):
                return False
            with closing(text_stream):
                for text_delta in text_stream:
                    self._put((index, text_delta))
            self._put_end(index, text_stream)
        except BaseException as error:
            self._fail(error)
        return True

    def _on_item(self, index: int, text_stream: TextStream, item: TextDelta | BaseException | None) -> None:
        """Handle what the engine's thread delivers: a text delta, None at the end of the answer, or an error."""
        if isinstance(item, TextDelta):
            self._put((index, item))
            return
        try:
            if item is not None:
                raise item
            self._put_end(index, text_stream)
        except BaseException as error:
            self._fail(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._on_answer_done)

    def _put_end(self, index: int, text_stream: TextStream) -> None:
        reason = getattr(self._job.requests[index].constraint, "failed", "")
        if reason and not self._is_closed:
            message = tr("the response format could not be completed: {reason}", reason=reason)
            raise ApiError(400, message[:300], param="response_format")
        finish_reason = text_stream.finish_reason or "cancelled"
        self._metrics.count_answer(self._model_name, finish_reason, text_stream.tokens)
        end = AnswerEnd(finish_reason, text_stream.tokens, text_stream.stop_string, text_stream.cached_tokens)
        self._put((index, end))

    def _fail(self, error: BaseException) -> None:
        self._metrics.count_answer(self._model_name, "error", 0)
        self._put(error)

    def _put(self, event: AnswerEvent | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has stopped
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
