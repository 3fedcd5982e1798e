"""Tasks of the scheduler: generating an answer, scoring texts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hanlin.inference.protocol import FinishReason, PromptScore, PromptScoreRequest, Score, TokenLogprobs
from hanlin.inference.sampler import Sampler, log_softmax, token_logprobs
from hanlin.inference.score_batch import ScoreRow


class Task(Protocol):
    """Work on one sequence: the tokens to run, the positions whose logits are needed, and what to do with the
    logits.
    """

    sequence: list[int]
    """All ids that are to be run so far."""
    max_length: int
    """How many ids the sequence can become."""
    cancelled: bool
    adapter: str | None
    cached_tokens: int | None
    """How many of its ids were in the KV cache when it first got a slot; None before."""

    def positions(self, start: int, stop: int) -> list[int]:
        """The positions in [start, stop) whose logits are needed."""

    def is_ready(self, seconds: float = 0.0) -> bool:
        """Whether `process_logits` need not wait; waits up to `seconds` for it."""

    def process_logits(self, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        """Receive logits [positions, vocabulary], a view that is valid until the next step."""

    def advance(self) -> bool:
        """Called when the whole sequence was run. True if there is more: the sequence has grown or was replaced."""

    def finish(self, error: BaseException | None) -> None:
        """The last call: the work is done, was cancelled, or failed with `error`."""


class TokenSink(Protocol):
    """Receives the tokens of an answer from the scheduler's thread; `put` must not wait."""

    def put(self, item: int | BaseException | None) -> None: ...


class GenerationTask:
    """One answer that is generated. Its tokens go to `ids`, then None, or the error that ended it."""

    def __init__(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampler: Sampler,
        ids: TokenSink,
        adapter: str | None = None,
    ) -> None:
        self.adapter = adapter
        self.cached_tokens: int | None = None
        self.sequence = list(prompt)
        self.max_length = len(prompt) + max_new_tokens
        self.cancelled = False
        self.finish_reason: FinishReason | None = None
        self.ids = ids
        self.ended = threading.Event()
        self._error: Exception | None = None
        self.finished: SimpleQueue[tuple[GenerationTask, BaseException | None]] | None = None
        self._prompt_length = len(prompt)
        self._stop_ids = frozenset(stop_ids)
        self._sampler = sampler

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        return self._sampler.logprobs

    @property
    def answer(self) -> tuple[int, ...]:
        return tuple(self.sequence[self._prompt_length :])

    def positions(self, start: int, stop: int) -> list[int]:
        last = len(self.sequence) - 1
        return [last] if start <= last < stop else []

    def is_ready(self, seconds: float = 0.0) -> bool:
        try:
            return self._sampler.is_ready(seconds)
        except Exception:  # `process_logits` meets it again, and tells whoever waits
            return True

    def process_logits(self, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        try:
            token_id = self._sampler.sample(logits[0])
        except Exception as error:  # an answer's own trouble is not that of those beside it
            self._error, self.finish_reason = error, "cancelled"
            return
        if token_id in self._stop_ids:
            self.finish_reason = "stop"
            return
        self.sequence.append(token_id)
        self.ids.put(token_id)
        if len(self.sequence) == self.max_length:
            self.finish_reason = "length"

    def advance(self) -> bool:
        return self.finish_reason is None

    def finish(self, error: BaseException | None) -> None:
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
        self._sampler.close()
        error = error or self._error
        self.ended.set()
        self.ids.put(error)
        if self.finished is not None:
            self.finished.put((self, error))


class ScoreTask:
    """Rows to score one after another in one slot, so that a shared prefix is run once."""

    adapter: str | None = None
    cached_tokens: int | None = None

    def __init__(
        self, rows: Sequence[ScoreRow], results: SimpleQueue[tuple[int, Score] | BaseException | None]
    ) -> None:
        """Prepare to score rows.

        Args:
            rows: The rows, neighbors in the order of `build_score_rows`.
            results: Receives (pair index, score) for each pair of a row when the row is done, and at the end None, or
                the error that ended the task.
        """
        self.cancelled = False
        self.max_length = max(len(row.ids) for row in rows)
        self._results = results
        self._rows = deque(rows)
        self._begin()

    def _begin(self) -> None:
        row = self._rows[0]
        self.sequence = list(row.ids)
        self._positions = row.positions
        # by position and by the id that follows it in some continuation
        self._logprobs: dict[tuple[int, int], float] = {}
        self._argmax: dict[int, int] = {}
        self._following: dict[int, set[int]] = {position: set() for position in self._positions}
        for _, start, continuation in row.scored:
            for index, token_id in enumerate(continuation):
                self._following[start + index].add(token_id)

    def positions(self, start: int, stop: int) -> list[int]:
        return [position for position in self._positions if start <= position < stop]

    def is_ready(self, seconds: float = 0.0) -> bool:
        return True

    def process_logits(self, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        for position, row in zip(positions, logits, strict=True):
            logprobs = log_softmax(row)
            self._argmax[position] = int(row.argmax())
            for token_id in self._following[position]:
                self._logprobs[position, token_id] = float(logprobs[token_id])

    def advance(self) -> bool:
        for index, start, continuation in self._rows.popleft().scored:
            steps = [(start + offset, token_id) for offset, token_id in enumerate(continuation)]
            score = Score(
                sum(self._logprobs[step] for step in steps),
                all(self._argmax[position] == token_id for position, token_id in steps),
            )
            self._results.put((index, score))
        if self._rows:
            self._begin()
        return bool(self._rows)

    def finish(self, error: BaseException | None) -> None:
        self._results.put(error)


class PromptScoreTask:
    """A prompt whose tokens are all scored. It runs none of them twice, and reuses nothing of the KV cache: the logits
    of every position are needed.
    """

    cached_tokens: int | None = None

    def __init__(self, request: PromptScoreRequest, finished: SimpleQueue[BaseException | None]) -> None:
        """`finished` receives None at the end, or the error that ended the task."""
        self.adapter = request.adapter
        self.cancelled = False
        self.sequence = list(request.ids)
        self.max_length = len(self.sequence)
        self.score: PromptScore | None = None
        self._top_logprobs = request.top_logprobs
        self._logprobs: list[TokenLogprobs] = []
        self._finished = finished

    def positions(self, start: int, stop: int) -> list[int]:
        return list(range(start, stop))

    def is_ready(self, seconds: float = 0.0) -> bool:
        return True

    def process_logits(self, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        last = len(self.sequence) - 1
        for position, row in zip(positions, logits, strict=True):
            token_id = self.sequence[position + 1] if position < last else int(row.argmax())
            scored = token_logprobs(row, token_id, self._top_logprobs)
            if position < last:
                self._logprobs.append(scored)
            else:
                self.score = PromptScore(tuple(self._logprobs), token_id, scored)

    def advance(self) -> bool:
        return False

    def finish(self, error: BaseException | None) -> None:
        self._finished.put(error)
