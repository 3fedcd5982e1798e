"""The part that all engines with an own scheduler share: requests, completions and streams."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

from hanlin.core.progress import Progress
from hanlin.inference.completions import collect_completions
from hanlin.inference.protocol import (
    Completion,
    FinishReason,
    GenerationRequest,
    OnCompletion,
    PromptScore,
    PromptScoreRequest,
    TokenLogprobs,
)
from hanlin.inference.request_checks import check_text_ids, max_completion_tokens
from hanlin.inference.sampler import Sampler
from hanlin.inference.scheduler import Scheduler
from hanlin.inference.tasks import GenerationTask, PromptScoreTask, TokenSink


class SchedulerEngine:
    """Base class that implements `generate` and `stream` over `_scheduler`."""

    context_length: int
    vocabulary: int
    _scheduler: Scheduler

    @property
    def max_scored_length(self) -> int:
        return self.context_length + 1

    def generate(
        self,
        requests: Sequence[GenerationRequest],
        progress: Progress | None = None,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """See `Engine.generate`. At temperature 0 the likeliest token is taken, the lowest id among equal ones."""
        finished: SimpleQueue[tuple[GenerationTask, BaseException | None]] = SimpleQueue()
        tasks = self.tasks(requests, [SimpleQueue() for _ in requests])
        for task in tasks:
            task.finished = finished
        indices = {id(task): index for index, task in enumerate(tasks)}

        def each_finished() -> Iterator[tuple[int, Completion]]:
            for _ in tasks:
                task, error = finished.get()
                if error is not None:
                    raise error
                yield indices[id(task)], Completion(task.answer, task.finish_reason or "cancelled")

        try:
            self.submit(tasks)
            return collect_completions(each_finished(), len(tasks), progress, on_completion)
        finally:
            for task in tasks:
                task.cancelled = True  # what is done already does not mind

    def stream(self, request: GenerationRequest) -> TokenStream:
        tasks = self.tasks([request], [SimpleQueue()])
        self.submit(tasks)
        return TokenStream(tasks[0])

    def score_prompts(self, requests: Sequence[PromptScoreRequest]) -> list[PromptScore]:
        """See `Engine.score_prompts`. Prompts run beside the answers that are being generated."""
        for request in requests:
            check_text_ids(request.ids, self.context_length, self.vocabulary)
        finished: SimpleQueue[BaseException | None] = SimpleQueue()
        tasks = [PromptScoreTask(request, finished) for request in requests]
        try:
            self._scheduler.submit(tasks)
            for _ in tasks:
                if (error := finished.get()) is not None:
                    raise error
        finally:
            for task in tasks:
                task.cancelled = True
        scores = [task.score for task in tasks if task.score is not None]
        if len(scores) < len(tasks):
            raise RuntimeError("the engine was closed while it scored")
        return scores

    def tasks(self, requests: Sequence[GenerationRequest], sinks: Sequence[TokenSink]) -> list[GenerationTask]:
        """Make the tasks for `submit`: the tokens of each answer go to its sink, then None or the error that ended
        it.
        """
        tasks = []
        for request, sink in zip(requests, sinks, strict=True):
            max_new_tokens = max_completion_tokens(request, self.context_length, self.vocabulary)
            sampler = Sampler(request.sampling, request.prompt_ids, request.constraint, request.stop_ids)
            tasks.append(
                GenerationTask(request.prompt_ids, max_new_tokens, request.stop_ids, sampler, sink, request.adapter)
            )
        return tasks

    def submit(self, tasks: Sequence[GenerationTask]) -> None:
        """Queue tasks together, so that their order and their batches are the same every time."""
        self._scheduler.submit(tasks)

    @property
    def step_seconds(self) -> float:
        """How long the current step has taken so far; 0 between steps."""
        return self._scheduler.step_seconds

    def set_step_callback(self, call: Callable[[], None]) -> None:
        """Call `call` in the scheduler's thread after each step, when all of its tokens are in their sinks."""
        self._scheduler.after_step = call


class TokenQueue(Protocol):
    """One answer as a stream reads it. Setting `cancelled` ends it soon."""

    cancelled: bool

    @property
    def ids(self) -> Any: ...

    @property
    def finish_reason(self) -> FinishReason | None: ...

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]: ...

    @property
    def cached_tokens(self) -> int | None: ...

    @property
    def ended(self) -> threading.Event: ...


class TokenStream:
    """The token ids of one answer; see `Stream`."""

    def __init__(self, source: TokenQueue) -> None:
        self._source = source
        self._ended = False

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._source.finish_reason if self._ended else None

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self._ended:
            raise StopIteration
        token_id = self._source.ids.get()
        if isinstance(token_id, int):
            return token_id
        self._source.ids.put(None)  # for another thread that waits here
        self._ended = True
        if token_id is not None:
            raise token_id
        raise StopIteration

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        return self._source.logprobs

    @property
    def cached_tokens(self) -> int | None:
        return self._source.cached_tokens

    def cancel(self) -> None:
        self._source.cancelled = True

    def close(self) -> None:
        self._source.cancelled = True
        self._source.ended.wait()  # until the scheduler has let go of it
        self._ended = True

    def __del__(self) -> None:
        self._source.cancelled = True
