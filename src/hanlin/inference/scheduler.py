"""Continuous batching: one thread runs all open tasks of a model, one decode step after another.

It decides which sequences share a step and reuses the prefix that a slot's KV cache already holds. Sampling is
`sampler`; the models are in `backends`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.inference.decoder import BatchItem, DecoderModel, KVCache
from hanlin.inference.score_batch import common_length
from hanlin.inference.tasks import Task

_MIN_SLOT_LENGTH = 512
_PREFILL_TOKENS_PER_STEP = 512  # beside answers in progress, so that a long prompt does not hold them up
_MAX_LOGITS_BYTES_PER_STEP = 64 << 20
_MAX_WAIT_PER_STEP = 0.01
"""Seconds that a step waits for constraints in all. What is ready a little later would else miss every other step."""
_MAX_WAIT_PER_TASK = 0.05
"""Seconds that one answer may hold up those beside it in all; after that it is never waited for."""
_POLL_SECONDS = 0.002


class _Slot:
    """A sequence of the KV cache: the tokens whose keys and values it holds, the adapter that made them, its current
    task, and, while the task's constraint is not ready, the positions and logits of its last step.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self.adapter: str | None = None
        self.task: Task | None = None
        self.held: tuple[Sequence[int], NDArray[np.float32]] | None = None
        self.seconds_to_wait = 0.0

    def assign(self, task: Task | None) -> None:
        self.task, self.held, self.seconds_to_wait = task, None, _MAX_WAIT_PER_TASK

    def common_prefix_length(self, task: Task) -> int:
        """How many tokens of the task's sequence the slot already holds."""
        return common_length(self.token_ids, task.sequence) if self.adapter == task.adapter else 0


class Scheduler:
    """Runs tasks on a model in its own thread.

    The KV cache is allocated for the longest waiting task when it is first needed, and again, larger, when a longer
    task comes.
    """

    def __init__(
        self, model: DecoderModel, *, name: str, parallel: int, cache_bytes: int, bytes_per_token: int, **settings: Any
    ) -> None:
        """Start the scheduler's thread.

        Args:
            model: The model to run.
            name: Name of the thread.
            parallel: Maximum number of sequences in a step. Fewer, but at least one, if their keys and values would
                exceed `cache_bytes`.
            cache_bytes: Maximum size of the KV cache.
            bytes_per_token: Size of the keys and values of one token.
            **settings: Further arguments of `DecoderModel.new_kv_cache`.
        """
        self._model = model
        self._parallel, self._cache_bytes, self._bytes_per_token = parallel, cache_bytes, max(1, bytes_per_token)
        self._settings = settings
        self._max_logit_rows = max(parallel, _MAX_LOGITS_BYTES_PER_STEP // (4 * model.vocabulary_size))
        self._kv_cache: KVCache | None = None
        self._slots: list[_Slot] = []
        self._waiting: deque[Task] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._step_started_at: float | None = None
        self.after_step: Callable[[], None] | None = None
        """Called in the scheduler's thread when all that a step brought is told."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def step_seconds(self) -> float:
        """How long the current step has taken so far; 0 between steps."""
        started_at = self._step_started_at
        return 0.0 if started_at is None else time.monotonic() - started_at

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks together, so that their order and their batches are the same every time."""
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.extend(tasks)
            self._wake.notify()

    def close(self) -> None:
        """Cancel every task and free the model."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._step():
                self._notify()
        finally:
            self._finish_all(None)
            self._notify()
            if self._kv_cache is not None:
                self._kv_cache.close()
            self._model.close()

    def _notify(self) -> None:
        if self.after_step is not None:
            self.after_step()

    def _step(self) -> bool:
        """Admit waiting tasks and decode once; wait if there is no work. False when the scheduler is closed."""
        with self._wake:
            while not (self._closed or self._waiting or any(slot.task for slot in self._slots)):
                self._wake.wait()
            if self._closed:
                return False
            try:
                self._drop_cancelled()
                self._admit()
            except BaseException as error:  # whoever waits must hear of it
                self._finish_all(error)
        self._step_started_at = time.monotonic()
        try:
            self._sample_held()
            self._decode()
        except BaseException as error:
            with self._wake:
                self._finish_all(error)
                for slot in self._slots:
                    slot.token_ids = []
                if self._kv_cache is not None:
                    self._kv_cache.close()
                    self._kv_cache, self._slots = None, []
        finally:
            self._step_started_at = None
        return True

    def _finish_all(self, error: BaseException | None) -> None:
        for slot in self._slots:
            if slot.task is not None:
                slot.task.finish(error)
                slot.assign(None)
        while self._waiting:
            self._waiting.popleft().finish(error)

    def _drop_cancelled(self) -> None:
        for slot in self._slots:
            if slot.task is not None and slot.task.cancelled:
                slot.task.finish(None)
                slot.assign(None)
        for task in [task for task in self._waiting if task.cancelled]:
            self._waiting.remove(task)
            task.finish(None)

    def _admit(self) -> None:
        """Assign free slots to waiting tasks, first come first served, each to the slot with the longest shared
        prefix.
        """
        while self._waiting:
            task = self._waiting[0]
            if self._kv_cache is None or task.max_length > self._kv_cache.length:
                if any(slot.task for slot in self._slots):
                    return  # until the slots are free and can be made larger
                self._grow_cache(max(waiting.max_length for waiting in self._waiting))
            free = [slot for slot in self._slots if slot.task is None]
            if not free:
                return
            slot = max(free, key=lambda slot: (slot.common_prefix_length(task), -len(slot.token_ids), -slot.index))
            slot.assign(self._waiting.popleft())
            self._rewind(slot)

    def _grow_cache(self, length: int) -> None:
        if self._kv_cache is not None:
            self._kv_cache.close()
            self._kv_cache, self._slots = None, []
        size = _MIN_SLOT_LENGTH
        while size < length:
            size *= 2
        size = max(length, min(size, self._model.trained_context))
        sequences = max(1, min(self._parallel, self._cache_bytes // (size * self._bytes_per_token)))
        self._kv_cache = self._model.new_kv_cache(sequences=sequences, length=size, **self._settings)
        self._slots = [_Slot(index) for index in range(sequences)]

    def _rewind(self, slot: _Slot) -> None:
        """Truncate a slot to the prefix that its task reuses, at most up to the first position whose logits are
        needed.
        """
        assert slot.task is not None and self._kv_cache is not None
        sequence = slot.task.sequence
        first_logit_position = slot.task.positions(0, len(sequence))[0]
        reused = min(slot.common_prefix_length(slot.task), first_logit_position)
        slot.adapter = slot.task.adapter
        if slot.task.cached_tokens is None:
            slot.task.cached_tokens = reused
        if reused < len(slot.token_ids):
            self._kv_cache.truncate(slot.index, reused)
            del slot.token_ids[reused:]

    def _sample_held(self) -> None:
        """Sample from the logits that were held back, if by now the constraint is ready."""
        for slot in self._slots:
            if slot.task is not None and slot.held is not None and slot.task.is_ready():
                (positions, logits), slot.held = slot.held, None
                self._handle_result(slot, positions, logits)

    def _decode(self) -> None:
        active = [slot for slot in self._slots if slot.task is not None and slot.held is None]
        if not active or self._kv_cache is None:
            with self._wake:
                if not self._closed and any(slot.held is not None for slot in self._slots):
                    self._wake.wait(_POLL_SECONDS)  # nothing else can be done
            return
        active.sort(key=lambda slot: len(slot.task.sequence) - len(slot.token_ids) if slot.task else 0)
        decoding = any(slot.task and len(slot.task.sequence) - len(slot.token_ids) == 1 for slot in active)
        tokens_left = (
            min(self._kv_cache.batch, len(active) + _PREFILL_TOKENS_PER_STEP) if decoding else self._kv_cache.batch
        )
        logits_left = self._max_logit_rows
        items, requests = [], []
        for slot in active:
            assert slot.task is not None
            start = len(slot.token_ids)
            stop = min(len(slot.task.sequence), start + tokens_left)
            positions = slot.task.positions(start, stop)
            if len(positions) > logits_left:
                stop = positions[logits_left]
                positions = positions[:logits_left]
            if stop == start:
                continue
            tokens_left -= stop - start
            logits_left -= len(positions)
            offsets = [position - start for position in positions]
            items.append(BatchItem(slot.index, start, slot.task.sequence[start:stop], offsets, slot.task.adapter))
            requests.append((slot, positions))
        results = self._kv_cache.decode(items)
        seconds_left = _MAX_WAIT_PER_STEP
        for (slot, positions), item, logits in zip(requests, items, results, strict=True):
            slot.token_ids.extend(item.ids)
            assert slot.task is not None
            if positions and not slot.task.is_ready():
                seconds_left -= self._wait_for(slot, seconds_left)
                if not slot.task.is_ready():
                    slot.held = positions, logits.copy()
                    continue
            self._handle_result(slot, positions, logits)

    def _wait_for(self, slot: _Slot, seconds: float) -> float:
        """Wait until a slot's task is ready, as long as it may hold up the others. Returns the seconds waited."""
        assert slot.task is not None
        start_time = time.monotonic()
        slot.task.is_ready(max(0.0, min(seconds, slot.seconds_to_wait)))
        waited = time.monotonic() - start_time
        slot.seconds_to_wait -= waited
        return waited

    def _handle_result(self, slot: _Slot, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        task = slot.task
        assert task is not None
        sequence = task.sequence
        complete = len(slot.token_ids) == len(sequence)
        if positions:
            task.process_logits(positions, logits)
        if not complete:
            return
        if not task.advance():
            slot.assign(None)
            task.finish(None)
        elif task.sequence is not sequence:  # another one; an answer's own has only grown
            self._rewind(slot)
