"""Continuous batching: a thread that runs every open answer and score of a model through one decode step after another.

Owns which sequences share a step, and the reuse of what a slot still holds. Does not own choosing ids (`sampling`) or
the model, which is llama.cpp's (`llama_cpp_library`) or transformers' (`transformers_context`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hanlin.inference.protocol import Finish, Likely, Score
from hanlin.inference.sampler import Chooser, log_softmax
from hanlin.inference.score_batch import ScoreRow, common_length

_SHORTEST_SLOT = 512
_PROMPT_IDS_A_STEP = 512  # beside answers in progress, so that a long prompt does not hold them up
_LOGITS_BYTES_A_STEP = 64 << 20


class Piece(NamedTuple):
    """Ids of one sequence that a step runs: the position of the first, the offsets of those whose logits are wanted,
    and the adapter that acts on the model for them."""

    sequence: int
    start: int
    ids: Sequence[int]
    wanted: Sequence[int]
    adapter: str | None = None


class Context(Protocol):
    """Keys and values of sequences of up to `length` ids each; a step runs at most `batch` ids."""

    length: int
    batch: int

    def forget(self, sequence: int, start: int) -> None:
        """Drop what a sequence holds from position `start` on."""

    def decode(self, pieces: Sequence[Piece]) -> Sequence[NDArray[np.float32]]:
        """Run pieces of different sequences; the wanted logits [positions, vocabulary] of each, until the next call."""

    def close(self) -> None: ...


class Model(Protocol):
    """What a scheduler runs. It sees to it itself where others run it too."""

    vocabulary_size: int
    trained_context: int

    @property
    def context(self) -> Callable[..., Context]:
        """Makes a context for so many `sequences` of that `length`; what else it takes is the model's own."""

    def close(self) -> None: ...


class Task(Protocol):
    """Work on one sequence: ids to run, positions whose logits are wanted, and what to do with them."""

    sequence: list[int]
    """All ids that are to be run so far."""
    longest: int
    """How many ids the sequence can become."""
    cancelled: bool
    adapter: str | None

    def positions(self, start: int, stop: int) -> list[int]:
        """The positions in [start, stop) whose logits are wanted."""

    def take(self, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        """Receive logits [positions, vocabulary], a view that holds until the next step."""

    def more(self) -> bool:
        """Called when the whole sequence was run: whether it is longer now, or `sequence` is another list."""

    def end(self, error: BaseException | None) -> None:
        """The last call: the work is done, was cancelled, or broke."""


class Sink(Protocol):
    """Where the ids of an answer go; put from the scheduler's thread, which must not wait."""

    def put(self, told: int | BaseException | None) -> None: ...


class AnswerTask:
    """One answer being written. Its ids go to `ids` as they come; then follows None, or the error that ended it."""

    def __init__(
        self,
        prompt: Sequence[int],
        room: int,
        stop_ids: Sequence[int],
        chooser: Chooser,
        ids: Sink,
        adapter: str | None = None,
    ) -> None:
        self.adapter = adapter
        self.sequence = list(prompt)
        self.longest = len(prompt) + room
        self.cancelled = False
        self.finish: Finish | None = None
        self.ids = ids
        self.ended = threading.Event()
        self._broken: Exception | None = None
        self.finished: SimpleQueue[tuple[AnswerTask, BaseException | None]] | None = None
        self._prompt_length = len(prompt)
        self._stop_ids = frozenset(stop_ids)
        self._chooser = chooser

    @property
    def likely(self) -> Sequence[Likely]:
        return self._chooser.likely

    @property
    def answer(self) -> tuple[int, ...]:
        return tuple(self.sequence[self._prompt_length :])

    def positions(self, start: int, stop: int) -> list[int]:
        last = len(self.sequence) - 1
        return [last] if start <= last < stop else []

    def take(self, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        try:
            number = self._chooser.choose(logits[0])
        except Exception as error:  # an answer's own trouble is not that of those beside it
            self._broken, self.finish = error, "cancelled"
            return
        if number in self._stop_ids:
            self.finish = "stop"
            return
        self.sequence.append(number)
        self.ids.put(number)
        if len(self.sequence) == self.longest:
            self.finish = "length"

    def more(self) -> bool:
        return self.finish is None

    def end(self, error: BaseException | None) -> None:
        if self.finish is None:
            self.finish = "cancelled"
        error = error or self._broken
        self.ended.set()
        self.ids.put(error)
        if self.finished is not None:
            self.finished.put((self, error))


class ScoreTask:
    """Rows to be scored one after another in one slot, so that a common beginning is run once."""

    adapter: str | None = None

    def __init__(self, rows: Sequence[ScoreRow], scores: list[Score | None]) -> None:
        self.cancelled = False
        self.longest = max(len(row.ids) for row in rows)
        self.finished: SimpleQueue[BaseException | None] = SimpleQueue()
        self._rows = deque(rows)
        self._scores = scores
        self._begin()

    def _begin(self) -> None:
        row = self._rows[0]
        self.sequence = list(row.ids)
        self._wanted = row.positions
        # of each wanted position, by the ids that follow it in some continuation
        self._logprobs: dict[tuple[int, int], float] = {}
        self._likeliest: dict[int, int] = {}
        self._following: dict[int, set[int]] = {position: set() for position in self._wanted}
        for _, start, continuation in row.scored:
            for place, number in enumerate(continuation):
                self._following[start + place].add(number)

    def positions(self, start: int, stop: int) -> list[int]:
        return [position for position in self._wanted if start <= position < stop]

    def take(self, positions: Sequence[int], logits: NDArray[np.float32]) -> None:
        for position, row in zip(positions, logits, strict=True):
            logprobs = log_softmax(row)
            self._likeliest[position] = int(row.argmax())
            for number in self._following[position]:
                self._logprobs[position, number] = float(logprobs[number])

    def more(self) -> bool:
        for place, start, continuation in self._rows.popleft().scored:
            steps = [(start + offset, number) for offset, number in enumerate(continuation)]
            self._scores[place] = Score(
                sum(self._logprobs[step] for step in steps),
                all(self._likeliest[position] == number for position, number in steps),
            )
        if self._rows:
            self._begin()
        return bool(self._rows)

    def end(self, error: BaseException | None) -> None:
        self.finished.put(error)


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
