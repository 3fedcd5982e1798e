"""Continuous batching: a thread that runs every open answer and score of a model through one decode step after another.

Owns which sequences share a step, and the reuse of what a slot still holds. Does not own choosing ids (`sampling`) or
the model, which is llama.cpp's (`llama_cpp_library`) or transformers' (`transformers_context`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.inference.decoder import Context, Model, Piece
from hanlin.inference.score_batch import common_length
from hanlin.inference.tasks import Task

_SHORTEST_SLOT = 512
_PROMPT_IDS_A_STEP = 512  # beside answers in progress, so that a long prompt does not hold them up
_LOGITS_BYTES_A_STEP = 64 << 20


class _Slot:
    """A sequence of the context: the ids whose keys and values it holds, as which adapter made them, and the task that
    has it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.held: list[int] = []
        self.adapter: str | None = None
        self.task: Task | None = None

    def common(self, task: Task) -> int:
        """How much of a task's sequence it holds already."""
        return common_length(self.held, task.sequence) if self.adapter == task.adapter else 0


class Scheduler:
    """Runs tasks on a model in its own thread. The context is made when first needed, for the longest task that waits,
    and made anew, larger, when a longer one comes."""

    def __init__(
        self, model: Model, *, name: str, parallel: int, cache_bytes: int, bytes_an_id: int, **settings: Any
    ) -> None:
        """`parallel` sequences at once, or fewer where their keys and values, `bytes_an_id` each, would take more than
        `cache_bytes`, though never fewer than one. `settings` are the context's own; `name` is the thread's."""
        self._model = model
        self._parallel, self._cache_bytes, self._bytes_an_id = parallel, cache_bytes, max(1, bytes_an_id)
        self._settings = settings
        self._logits_a_step = max(parallel, _LOGITS_BYTES_A_STEP // (4 * model.vocabulary_size))
        self._context: Context | None = None
        self._slots: list[_Slot] = []
        self._waiting: deque[Task] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self.after_step: Callable[[], None] | None = None
        """Called in the scheduler's thread when all that a step brought is told."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue tasks at once, so that their order and company are the same each time."""
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.extend(tasks)
            self._wake.notify()

    def close(self) -> None:
        """End every task as cancelled and free the model."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._step():
                self._told()
        finally:
            self._end_all(None)
            self._told()
            if self._context is not None:
                self._context.close()
            self._model.close()

    def _told(self) -> None:
        if self.after_step is not None:
            self.after_step()

    def _step(self) -> bool:
        """Admit what waits and decode once; waits for work when there is none. False when the scheduler is closed."""
        with self._wake:
            while not (self._closed or self._waiting or any(slot.task for slot in self._slots)):
                self._wake.wait()
            if self._closed:
                return False
            try:
                self._drop_cancelled()
                self._admit()
            except BaseException as error:  # whoever waits must hear of it
                self._end_all(error)
        try:
            self._decode()
        except BaseException as error:
            with self._wake:
                self._end_all(error)
                for slot in self._slots:
                    slot.held = []
                if self._context is not None:
                    self._context.close()
                    self._context, self._slots = None, []
        return True

    def _end_all(self, error: BaseException | None) -> None:
        for slot in self._slots:
            if slot.task is not None:
                slot.task.end(error)
                slot.task = None
        while self._waiting:
            self._waiting.popleft().end(error)

    def _drop_cancelled(self) -> None:
        for slot in self._slots:
            if slot.task is not None and slot.task.cancelled:
                slot.task.end(None)
                slot.task = None
        for task in [task for task in self._waiting if task.cancelled]:
            self._waiting.remove(task)
            task.end(None)

    def _admit(self) -> None:
        """Give free slots to what waits, first come first served, each where the most of its beginning still lies."""
        while self._waiting:
            task = self._waiting[0]
            if self._context is None or task.longest > self._context.length:
                if any(slot.task for slot in self._slots):
                    return  # until the slots are free and can be made larger
                self._enlarge(max(waiting.longest for waiting in self._waiting))
            free = [slot for slot in self._slots if slot.task is None]
            if not free:
                return
            slot = max(free, key=lambda slot: (slot.common(task), -len(slot.held), -slot.number))
            slot.task = self._waiting.popleft()
            self._rewind(slot)

    def _enlarge(self, length: int) -> None:
        if self._context is not None:
            self._context.close()
            self._context, self._slots = None, []
        size = _SHORTEST_SLOT
        while size < length:
            size *= 2
        size = max(length, min(size, self._model.trained_context))
        sequences = max(1, min(self._parallel, self._cache_bytes // (size * self._bytes_an_id)))
        self._context = self._model.context(sequences=sequences, length=size, **self._settings)
        self._slots = [_Slot(number) for number in range(sequences)]

    def _rewind(self, slot: _Slot) -> None:
        """Keep of a slot what its task's sequence begins with, up to the first position whose logits are wanted."""
        assert slot.task is not None and self._context is not None
        sequence = slot.task.sequence
        first_wanted = slot.task.positions(0, len(sequence))[0]
        kept = min(slot.common(slot.task), first_wanted)
        slot.adapter = slot.task.adapter
        if kept < len(slot.held):
            self._context.forget(slot.number, kept)
            del slot.held[kept:]

    def _decode(self) -> None:
        active = [slot for slot in self._slots if slot.task is not None]
        if not active or self._context is None:
            return
        active.sort(key=lambda slot: len(slot.task.sequence) - len(slot.held) if slot.task else 0)
        writing = any(slot.task and len(slot.task.sequence) - len(slot.held) == 1 for slot in active)
        ids_left = min(self._context.batch, len(active) + _PROMPT_IDS_A_STEP) if writing else self._context.batch
        logits_left = self._logits_a_step
        pieces, wanted = [], []
        for slot in active:
            assert slot.task is not None
            start = len(slot.held)
            stop = min(len(slot.task.sequence), start + ids_left)
            positions = slot.task.positions(start, stop)
            if len(positions) > logits_left:
                stop = positions[logits_left]
                positions = positions[:logits_left]
            if stop == start:
                continue
            ids_left -= stop - start
            logits_left -= len(positions)
            offsets = [position - start for position in positions]
            pieces.append(Piece(slot.number, start, slot.task.sequence[start:stop], offsets, slot.task.adapter))
            wanted.append((slot, positions))
        results = self._context.decode(pieces)
        for (slot, positions), piece, logits in zip(wanted, pieces, results, strict=True):
            slot.held.extend(piece.ids)
            self._after(slot, positions, logits)

    def _after(self, slot: _Slot, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        task = slot.task
        assert task is not None
        sequence = task.sequence
        whole = len(slot.held) == len(sequence)
        if positions:
            task.take(positions, logits)
        if not whole:
            return
        if not task.more():
            slot.task = None
            task.end(None)
        elif task.sequence is not sequence:  # another one; an answer's own has only grown
            self._rewind(slot)
