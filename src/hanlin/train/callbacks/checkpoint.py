"""Where a killed run goes on from: weights, optimizer and step in files that are whole or not there.

Owns the files, and that training need not wait for them. That nothing else needs saving is by design: the order of the
data, the learning rate and the random numbers of a step are functions of seed and step (`rows.Order`, `schedule`,
`loop`).
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
from types import TracebackType
from typing import IO, Any, NamedTuple, Protocol, Self, cast

import torch

from hanlin.core.i18n import say
from hanlin.train.compute.state import CopyTensor

FIRST_AFTER = 20.0
"""Seconds to the first checkpoint of a run: early, so that a mistake found soon costs little to go on from."""
WORTH = 20.0
"""Checkpoints are at least so many times as far apart as they stop the training, however often they are asked for."""
LIST = "checkpoints.json"
"""The checkpoints that are whole, the newest first, each with the hash of its bytes."""


class Holder(Protocol):
    """What holds weights and averages, in whatever parts (`placement`); all processes of a group have to ask it."""

    def weights(self, keep: CopyTensor) -> dict[str, Any]: ...

    def optimizer_state(self, keep: CopyTensor) -> dict[str, Any]: ...


class Checkpoint(NamedTuple):
    """What is reached after `step` steps, in whole tensors; `seconds` is the time that all tries took together."""

    step: int
    seconds: float
    weights: dict[str, torch.Tensor]
    optimizer_state: dict[str, Any]


@dataclass(slots=True)
class Checkpoints:
    """The last `keep` checkpoints of a run in `folder`. One counts when it stands in the list, which is replaced as a
    whole after its file: until then those before it stay.

    Training stops only while weights and averages are copied into this process's memory: a thread writes the copy, and
    the next copy waits for it. Frozen weights are not saved: they are read from the model that the run began with.
    `tell` is given sentences. With `writes` false it takes part in bringing the parts together, and writes nothing.
    """

    folder: Path
    every: float
    keep: int = 2
    tell: Callable[[str], None] = lambda sentence: None
    writes: bool = True
    stopped: float = 0.0
    """Seconds for which the last one stopped the training."""
    _due: float = field(init=False)
    _room_from: float = field(init=False)
    _copies: Copied = field(init=False)
    _background: Background = field(init=False)

    def __post_init__(self) -> None:
        first = min(self.every, FIRST_AFTER)
        self._due, self._room_from = time.monotonic() + first, time.monotonic() + first / 2
        self._copies, self._background = Copied(), Background()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Until all is written; another error that ends the run is not hidden by one of writing."""
        try:
            self.wait()
        except OSError:
            if error is None:
                raise

    def due(self) -> bool:
        self._background.check()
        return self.writes and time.monotonic() >= self._due

    def make_room(self, holder: Holder) -> None:
        """Take, beside the training, the memory of the first copy when that is near: a system clears a gigabyte for the
        first time in about a second, and training would stop for it. Not for a group: it brings the parts together."""
        if not self.writes or time.monotonic() < self._room_from:
            return
        self._room_from = math.inf
        forms: list[tuple[str, torch.Size, torch.dtype]] = []

        def note(name: str, tensor: torch.Tensor) -> None:
            forms.append((name, tensor.shape, tensor.dtype))

        holder.weights(note)
        holder.optimizer_state(note)
        self._background.start(lambda: self._copies.make_room(forms))

    def save(
        self,
        step: int,
        seconds: float,
        holder: Holder,
        best: int | None = None,
        *,
        best_now: bool = False,
        whole: bool = True,
    ) -> None:
        """Copy what is reached after `step` steps and begin to write it; `best` is the step whose weights are the best
        so far, `best_now` says that it is this one, whose weights are then kept; without `whole` nothing else is.

        Raises OSError when the last one could not be written, and then leaves nothing of that.
        """
        begun = time.monotonic()
        self._room_from = math.inf
        self._background.wait()
        keep = self._copies.keep if self.writes else _nothing
        weights = holder.weights(keep)
        optimizer_state = holder.optimizer_state(keep) if whole else {}
        if not self.writes:
            return

        def write() -> None:
            if best_now:
                keep_weights(self.folder, step, weights)
            if whole:
                self._write(Checkpoint(step, seconds, weights, optimizer_state), best)
                self._due = time.monotonic() + max(self.every, WORTH * self.stopped)

        self.stopped = time.monotonic() - begun
        self._due = math.inf if whole else self._due  # before the thread, which may be done at once
        self._background.start(write)

    def wait(self) -> None:
        """Until all is written. Raises OSError when it could not be."""
        self._background.wait()

    def _write(self, reached: Checkpoint, best: int | None) -> None:
        state = {
            "step": reached.step,
            "seconds": reached.seconds,
            "weights": reached.weights,
            "optimizer": reached.optimizer_state,
        }
        file = self.folder / f"checkpoint-{reached.step:08d}.pt"
        digest = write_hashed(state, file)
        kept = [row for row in self._listed() if row["file"] != file.name][: self.keep - 1]
        rows = [{"file": file.name, "step": reached.step, "sha256": digest, "best": best}, *kept]
        write_aside(self.folder / LIST, json.dumps(rows))
        for old in set(self.folder.glob("checkpoint-*.pt")) - {self.folder / row["file"] for row in rows}:
            old.unlink()
        forget_weights(self.folder, [row["best"] for row in rows if row["best"] is not None])

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there is none."""
        for row in self._listed():
            file = self.folder / row["file"]
            if hashed(file) == row["sha256"]:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return Checkpoint(int(state["step"]), float(state["seconds"]), state["weights"], state["optimizer"])
            self.tell(
                say(
                    f"the checkpoint of step {row['step']} is damaged; the one before is taken",
                    f"第 {row['step']} 步的检查点已损坏，改用前一个",
                )
            )
        return None

    def _listed(self) -> list[dict[str, Any]]:
        """The list; empty where it is not there or cannot be read, which is told."""
        file = self.folder / LIST
        if not file.is_file():
            return []
        try:
            return [{"file": str(row["file"]), **row} for row in json.loads(file.read_text(encoding="utf-8"))]
        except (ValueError, TypeError, KeyError):
            self.tell(say("the list of checkpoints is damaged; the run starts anew", "检查点清单已损坏，重新开始训练"))
            return []


class Copied:
    """Copies of tensors in this process's memory, into the same places each time."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def keep(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        held = self._held.get(name)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            held = self._held[name] = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
        return held.copy_(tensor.detach())

    def make_room(self, forms: Iterable[tuple[str, torch.Size, torch.dtype]]) -> None:
        for name, shape, number_format in forms:
            self._held[name] = torch.empty(shape, dtype=number_format).zero_()  # written, or it is no memory yet


def _nothing(name: str, tensor: torch.Tensor) -> None:
    """Another process keeps it."""


class Background:
    """One piece of work at a time beside the training; what goes wrong with it is raised by whoever asks next."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=attempt, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until it is done."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise what went wrong, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def keep_weights(folder: Path, step: int, weights: dict[str, torch.Tensor]) -> None:
    """Write the weights of the step that is the best so far. Those before stay until a checkpoint needs them no more
    (`forget_weights`)."""
    file = best_file(folder, step)
    write_aside(file.with_suffix(".sha256"), write_hashed(weights, file))


def forget_weights(folder: Path, needed: Sequence[int]) -> None:
    """Remove the weights of all steps but those `needed`."""
    kept = {best_file(folder, step).stem for step in needed}
    for file in folder.glob("best-*"):
        if file.stem not in kept:
            file.unlink()


def best_file(folder: Path, step: int) -> Path:
    return folder / f"best-{step:08d}.pt"


def write_aside(file: Path, text: str) -> None:
    """Replace a small file as a whole."""
    aside = file.with_name(file.name + ".writing")
    with aside.open("w", encoding="utf-8", newline="\n") as written:
        written.write(text)
        written.flush()
        os.fsync(written.fileno())
    os.replace(aside, file)


def write_hashed(state: dict[str, Any], file: Path) -> str:
    """Write `state` at once or not at all, and return the SHA-256 of the file's bytes.

    Raises OSError when the disk is full; nothing of the file is left then.
    """
    aside = file.with_name("checkpoint.writing")
    try:
        with aside.open("wb") as raw:
            writer = _Hashing(raw)
            try:
                torch.save(state, cast(IO[bytes], writer))
            except RuntimeError as error:  # torch's own words for what the file system said
                raise writer.error or error from error
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(aside, file)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    return writer.digest.hexdigest()


def hashed(file: Path) -> str | None:
    """The SHA-256 of a file's bytes; None when it is not there."""
    if not file.is_file():
        return None
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


class _Hashing:
    """A file that is hashed as it is written."""

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
