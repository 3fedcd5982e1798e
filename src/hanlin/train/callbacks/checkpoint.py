"""Checkpoints: weights, optimizer state and step in files that are complete or absent.

Nothing else needs saving: the order of the data, the learning rate and the random numbers of a step are functions of
seed and step (`dataset.sampler`, `optim.schedule`, `trainer`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, cast

import torch

from hanlin.core.errors import UserError
from hanlin.core.files import PARTIAL_SUFFIX, parse_json, write_text
from hanlin.core.i18n import tr
from hanlin.train.callbacks.base import Callback, TrainerState
from hanlin.train.callbacks.interrupt import INTERRUPT
from hanlin.train.callbacks.validation import VALIDATION_LOSS, best_step
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.state import CopyTensor, load_weights

FIRST_SAVE_SECONDS = 20.0
"""Seconds to the first checkpoint of a run: early, so that a mistake found soon costs little to go on from."""
MIN_INTERVAL_RATIO = 20.0
"""Checkpoints are at least this many times as far apart as one stops the training, whatever the settings ask for."""
LIST_FILE = "checkpoints.json"
"""The complete checkpoints, the newest first, each with the SHA-256 of its bytes."""
_DUE = "checkpoint"


class StateSource(Protocol):
    """What has weights and optimizer state, sharded or not (`distributed.base.Strategy`); every process calls it."""

    def weights(self, copy: CopyTensor) -> dict[str, Any]: ...

    def optimizer_state(self, copy: CopyTensor) -> dict[str, Any]: ...


class Checkpoint(NamedTuple):
    """A run after some steps.

    Attributes:
        step: Steps done.
        seconds: The time that all tries took together.
        weights: The trained parameters, as full tensors by name.
        optimizer_state: The state of the optimizer.
    """

    step: int
    seconds: float
    weights: dict[str, torch.Tensor]
    optimizer_state: dict[str, Any]


@dataclass
class Checkpointer(Callback):
    """Writes the last checkpoints of a run, and its best weights.

    A checkpoint counts once it is in the list, which is replaced as a whole after the checkpoint's file is complete:
    until then those before it stay. Training stops only while weights and optimizer state are copied into the memory
    of this process: a thread writes the copy, and the next copy waits for it. Frozen weights are not saved: they are
    read from the model that the run started from.

    Attributes:
        folder: Where the files are written.
        save_every_seconds: Seconds between two checkpoints.
        save_total_limit: How many checkpoints are kept.
        save_best: Whether the weights of the step with the least validation loss are kept.
        log: Takes sentences for the user.
        writes: Whether this process writes; the others take part in gathering sharded tensors.
        pause_seconds: For how long the last checkpoint stopped the training.
    """

    folder: Path
    save_every_seconds: float
    save_total_limit: int = 2
    save_best: bool = False
    log: Callable[[str], None] = lambda sentence: None
    writes: bool = True
    pause_seconds: float = 0.0
    _due_at: float = field(init=False)
    _preallocate_at: float = field(init=False)
    _copies: HostCopies = field(init=False)
    _writer: BackgroundWriter = field(init=False)

    def __post_init__(self) -> None:
        first = min(self.save_every_seconds, FIRST_SAVE_SECONDS)
        self._due_at, self._preallocate_at = time.monotonic() + first, time.monotonic() + first / 2
        self._copies, self._writer = HostCopies(), BackgroundWriter()

    def requests(self) -> dict[str, bool]:
        return {_DUE: self.is_due()}

    def on_step_end(self, state: TrainerState) -> None:
        """Save if a checkpoint is due, the run is interrupted, or the weights are the best so far."""
        if state.dist.world_size == 1:
            self.preallocate(state.strategy)
        best = best_step(state.log.rows)
        is_best = self.save_best and VALIDATION_LOSS in state.log.rows[-1] and best == state.step
        is_full = bool(state.requests & {_DUE, INTERRUPT})
        if is_full or is_best:
            state.log.sync()
            self.save(state.step, state.seconds, state.strategy, best, is_best=is_best, is_full=is_full)
        if INTERRUPT in state.requests:
            self.wait()

    def on_train_end(self, error: BaseException | None) -> None:
        """Wait until all is written; an error that ended the run is not hidden by one of writing."""
        try:
            self.wait()
        except OSError:
            if error is None:
                raise

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint. Raises OSError if the last one could not be written."""
        self._writer.raise_error()
        return self.writes and time.monotonic() >= self._due_at

    def preallocate(self, source: StateSource) -> None:
        """Allocate, beside the training, the memory of the first copy when that is near.

        A system clears a gigabyte for the first time in about a second, and training would stop for it. Not for a
        process group: it would gather the shards.
        """
        if not self.writes or time.monotonic() < self._preallocate_at:
            return
        self._preallocate_at = math.inf
        shapes: list[tuple[str, torch.Size, torch.dtype]] = []

        def note_shape(name: str, tensor: torch.Tensor) -> None:
            shapes.append((name, tensor.shape, tensor.dtype))

        source.weights(note_shape)
        source.optimizer_state(note_shape)
        self._writer.start(lambda: self._copies.preallocate(shapes))

    def save(
        self,
        step: int,
        seconds: float,
        source: StateSource,
        best: int | None = None,
        *,
        is_best: bool = False,
        is_full: bool = True,
    ) -> None:
        """Copy the state of the run and begin to write it.

        Args:
            step: Steps done.
            seconds: The time that all tries took together.
            source: What has the weights and the optimizer state.
            best: The step with the best weights so far.
            is_best: Whether it is this one, whose weights are then kept in a file of their own.
            is_full: Whether a checkpoint is written; if not, only the best weights are.

        Raises:
            OSError: The last one could not be written; nothing of its file is left.
        """
        started = time.monotonic()
        self._preallocate_at = math.inf
        self._writer.wait()
        copy: CopyTensor = self._copies.copy if self.writes else _copy_nothing
        weights = source.weights(copy)
        optimizer_state = source.optimizer_state(copy) if is_full else {}
        if not self.writes:
            return

        def write() -> None:
            if is_best:
                save_best_weights(self.folder, step, weights)
            if is_full:
                self._write(Checkpoint(step, seconds, weights, optimizer_state), best)
                interval = max(self.save_every_seconds, MIN_INTERVAL_RATIO * self.pause_seconds)
                self._due_at = time.monotonic() + interval

        self.pause_seconds = time.monotonic() - started
        self._due_at = math.inf if is_full else self._due_at  # before the thread, which may be done at once
        self._writer.start(write)

    def wait(self) -> None:
        """Wait until all is written. Raises OSError if it could not be."""
        self._writer.wait()

    def _write(self, checkpoint: Checkpoint, best: int | None) -> None:
        state = {
            "step": checkpoint.step,
            "seconds": checkpoint.seconds,
            "weights": checkpoint.weights,
            "optimizer": checkpoint.optimizer_state,
        }
        file = self.folder / f"checkpoint-{checkpoint.step:08d}.pt"
        digest = save_with_sha256(state, file)
        others = [row for row in self._read_list() if row["file"] != file.name][: self.save_total_limit - 1]
        rows = [{"file": file.name, "step": checkpoint.step, "sha256": digest, "best": best}, *others]
        write_text(self.folder / LIST_FILE, json.dumps(rows), fsync=True)
        for old in set(self.folder.glob("checkpoint-*.pt")) - {self.folder / row["file"] for row in rows}:
            old.unlink()
        remove_best_weights(self.folder, [row["best"] for row in rows if row["best"] is not None])

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that is complete; None if there is none."""
        for row in self._read_list():
            file = self.folder / row["file"]
            if sha256_of(file) == row["sha256"]:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return Checkpoint(int(state["step"]), float(state["seconds"]), state["weights"], state["optimizer"])
            step = row["step"]
            self.log(tr("the checkpoint of step {step} is damaged; the one before it is used", step=step))
        return None

    def _read_list(self) -> list[dict[str, Any]]:
        """The list of checkpoints; empty if there is none, or if it cannot be read, which is logged."""
        file = self.folder / LIST_FILE
        if not file.is_file():
            return []
        try:
            return [{"file": str(row["file"]), **row} for row in parse_json(file.read_text(encoding="utf-8"))]
        except (ValueError, TypeError, KeyError):
            self.log(tr("the list of checkpoints is damaged; training starts again"))
            return []


class HostCopies:
    """Copies of tensors in the memory of this process, in the same buffers each time."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def copy(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
            self._buffers[name] = buffer
        return buffer.copy_(tensor.detach())

    def preallocate(self, shapes: Iterable[tuple[str, torch.Size, torch.dtype]]) -> None:
        for name, shape, dtype in shapes:
            self._buffers[name] = torch.empty(shape, dtype=dtype).zero_()  # written, or it is no memory yet


def _copy_nothing(name: str, tensor: torch.Tensor) -> None:
    """Another process copies it."""


class BackgroundWriter:
    """Runs one job at a time in a thread; its error is raised by the next call."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, job: Callable[[], None]) -> None:
        def run_job() -> None:
            try:
                job()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run_job, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the job is done."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_error()

    def raise_error(self) -> None:
        """Raise the error of a job, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def save_best_weights(folder: Path, step: int, weights: dict[str, torch.Tensor]) -> None:
    """Write the weights of the step that is the best so far. Those of steps before stay until no checkpoint needs them
    (`remove_best_weights`).
    """
    file = best_weights_file(folder, step)
    write_text(file.with_suffix(".sha256"), save_with_sha256(weights, file), fsync=True)


def remove_best_weights(folder: Path, needed: Sequence[int]) -> None:
    """Remove the best weights of all steps but those `needed`."""
    stems = {best_weights_file(folder, step).stem for step in needed}
    for file in folder.glob("best-*"):
        if file.stem not in stems:
            file.unlink()


def load_best_weights(folder: Path, step: int, model: TrainModel) -> None:
    """Load the best weights, which are those of `step`, into the model. Raises UserError if their file is damaged."""
    file = best_weights_file(folder, step)
    digest_file = file.with_suffix(".sha256")
    if not digest_file.is_file() or sha256_of(file) != digest_file.read_text(encoding="utf-8"):
        raise UserError(
            tr("the best weights are damaged"),
            file,
            tr("remove the stage's .work folder and run again"),
        )
    load_weights(torch.load(file, map_location="cpu", weights_only=True), model.trainable_parameters())


def best_weights_file(folder: Path, step: int) -> Path:
    """Where the weights of a step are kept that was the best."""
    return folder / f"best-{step:08d}.pt"


def save_with_sha256(state: dict[str, Any], file: Path) -> str:
    """Write `state` with `torch.save`, at once or not at all.

    Returns:
        The SHA-256 of the file's bytes.

    Raises:
        OSError: The disk is full; nothing of the file is left.
    """
    partial = file.with_name("checkpoint" + PARTIAL_SUFFIX)
    try:
        with partial.open("wb") as raw:
            writer = _HashingWriter(raw)
            try:
                torch.save(state, cast(IO[bytes], writer))
            except RuntimeError as error:  # torch's own message for the error of the file system
                raise writer.error or error from error
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return writer.digest.hexdigest()


def sha256_of(file: Path) -> str | None:
    """The SHA-256 of a file's bytes; None if it does not exist."""
    if not file.is_file():
        return None
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


class _HashingWriter:
    """A file that is hashed while it is written."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            count = self._raw.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return count

    def flush(self) -> None:
        self._raw.flush()
