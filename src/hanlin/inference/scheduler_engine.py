"""Answers over a scheduler: what every engine has in common that runs its model in a loop of its own.

Owns requests, replies and streams. Does not own the loop (`batching`) or choosing ids (`sampling`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from hanlin.core.progress import Progress
from hanlin.inference.protocol import Finish, Likely, Reply, Request
from hanlin.inference.request_checks import room_for_answer
from hanlin.inference.sampler import Chooser
from hanlin.inference.scheduler import Scheduler
from hanlin.inference.tasks import AnswerTask, Sink


class Answering:
    """Half an engine: `generate` and `stream` over its scheduler."""

    context_length: int
    vocabulary: int
    _scheduler: Scheduler

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """See `Engine.generate`. At temperature 0 the likeliest id, of equal ones the lowest."""
        finished: SimpleQueue[tuple[AnswerTask, BaseException | None]] = SimpleQueue()
        tasks = self.tasks(requests, [SimpleQueue() for _ in requests])
        for task in tasks:
            task.finished = finished
        try:
            self.begin(tasks)
            written = 0
            for done in range(1, len(tasks) + 1):
                task, error = finished.get()
                if error is not None:
                    raise error
                written += len(task.answer)
                if progress is not None:
                    progress.update(done, len(tasks), "answers", force=done == len(tasks), tokens=written)
        finally:
            for task in tasks:
                task.cancelled = True  # what is done already does not mind
        return [Reply(task.answer, task.finish or "cancelled") for task in tasks]

    def stream(self, request: Request) -> AnswerStream:
        tasks = self.tasks([request], [SimpleQueue()])
        self.begin(tasks)
        return AnswerStream(tasks[0])

    def tasks(self, requests: Sequence[Request], sinks: Sequence[Sink]) -> list[AnswerTask]:
        """What `begin` runs: the ids of each answer go to its sink, then None or the error that ended it."""
        tasks = []
        for request, sink in zip(requests, sinks, strict=True):
            room = room_for_answer(request, self.context_length, self.vocabulary)
            chooser = Chooser(request.sampling, request.prompt_ids, request.constraint)
            tasks.append(AnswerTask(request.prompt_ids, room, request.stop_ids, chooser, sink, request.adapter))
        return tasks

    def begin(self, tasks: Sequence[AnswerTask]) -> None:
        """Answer together, so that the order and company are the same each time."""
        self._scheduler.submit(tasks)

    def after_step(self, call: Callable[[], None]) -> None:
        """Have `call` run, in the thread that puts ids into sinks, when all ids of a step are put."""
        self._scheduler.after_step = call


class Answer(Protocol):
    """One answer as a stream reads it; setting `cancelled` ends it soon."""

    cancelled: bool

    @property
    def ids(self) -> Any: ...

    @property
    def finish(self) -> Finish | None: ...

    @property
    def likely(self) -> Sequence[Likely]: ...

    @property
    def ended(self) -> threading.Event: ...


class AnswerStream:
    """The ids of one answer; see `Stream`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._ended = False

    @property
    def finish(self) -> Finish | None:
        return self._answer.finish if self._ended else None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self._ended:
            raise StopIteration
        number = self._answer.ids.get()
        if isinstance(number, int):
            return number
        self._answer.ids.put(None)  # for another thread that waits here
        self._ended = True
        if number is not None:
            raise number
        raise StopIteration

    @property
    def likely(self) -> Sequence[Likely]:
        return self._answer.likely

    def cancel(self) -> None:
        self._answer.cancelled = True

    def close(self) -> None:
        self._answer.cancelled = True
        self._answer.ended.wait()  # until the scheduler has let go of it
        self._ended = True

    def __del__(self) -> None:
        self._answer.cancelled = True
