"""Where a killed run goes on from: weights, optimiser and step in files that are whole or not there.

Owns the files. That nothing else needs saving is by design: the order of the data, the learning rate and the random
numbers of a step are functions of seed and step (`rows.Order`, `schedule`, `loop`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from hanlin.language import say

FIRST_AFTER = 20.0
"""Seconds to the first checkpoint of a run: early, so that a mistake found soon costs little to go on from."""
WORTH = 20.0
"""Checkpoints are at least so many times their own duration apart, however often they are asked for."""
LIST = "checkpoints.json"
"""The checkpoints that are whole, the newest first, each with the hash of its bytes."""

Named = Iterable[tuple[str, nn.Parameter]]


@dataclass(slots=True)
class Checkpoints:
    """The last `keep` checkpoints of a run in `folder`. One counts when it stands in the list, which is replaced as a
    whole after its file: until then those before it stay.

    Frozen weights are not saved: they are read from the model that the run began with. `tell` is given sentences.
    """

    folder: Path
    every: float
    keep: int = 2
    tell: Callable[[str], None] = lambda sentence: None
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + min(self.every, FIRST_AFTER)

    def due(self) -> bool:
        return time.monotonic() >= self._due

    def save(
        self,
        step: int,
        seconds: float,
        trained: Named,
        optimizer: torch.optim.Optimizer,
        best: int | None = None,
    ) -> list[int]:
        """Write what is reached after `step` steps; `seconds` is the time that all tries took together, `best` the step
        whose weights are the best so far. Returns those of all checkpoints that are kept. Raises OSError when it cannot
        be written, and then leaves nothing of it."""
        begun = time.monotonic()
        state = {
            "step": step,
            "seconds": seconds,
            "weights": {name: parameter.detach() for name, parameter in trained},
            "optimizer": optimizer.state_dict(),
        }
        file = self.folder / f"checkpoint-{step:08d}.pt"
        digest = write_hashed(state, file)
        kept = [row for row in self._listed() if row["file"] != file.name][: self.keep - 1]
        rows = [{"file": file.name, "step": step, "sha256": digest, "best": best}, *kept]
        aside = self.folder / (LIST + ".writing")
        aside.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(aside, self.folder / LIST)
        for old in set(self.folder.glob("checkpoint-*.pt")) - {self.folder / row["file"] for row in rows}:
            old.unlink()
        now = time.monotonic()
        self._due = now + max(self.every, WORTH * (now - begun))
        return [row["best"] for row in rows if row["best"] is not None]

    def restore(self, trained: Named, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """Put the newest whole checkpoint's weights and optimiser back; return the steps done and the seconds they
        took, zeros when there is none."""
        for row in self._listed():
            file = self.folder / row["file"]
            if hashed(file) == row["sha256"]:
                return self._restored(file, trained, optimizer)
            self.tell(
                say(
                    f"the checkpoint of step {row['step']} is damaged; the one before is taken",
                    f"第 {row['step']} 步的检查点已损坏，改用前一个",
                )
            )
        return 0, 0.0

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

    @staticmethod
    def _restored(file: Path, trained: Named, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        take_over(state["weights"], trained, file)
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), float(state["seconds"])


@torch.no_grad()
def take_over(weights: dict[str, torch.Tensor], trained: Named, file: Path) -> None:
    """Put saved weights into the parameters. Raises RuntimeError when they are another model's."""
    parameters = dict(trained)
    if parameters.keys() != weights.keys():
        raise RuntimeError(f"{file} is the checkpoint of another model")
    for name, value in weights.items():
        parameters[name].copy_(value)


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
