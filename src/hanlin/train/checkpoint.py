"""Where a killed run goes on from: weights, optimiser and step in one file that is whole or not there.

Owns the file. That nothing else needs saving is by design: the order of the data, the learning rate and the random
numbers of a step are functions of seed and step (`rows.Order`, `schedule`, `loop`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

FIRST_AFTER = 20.0
"""Seconds to the first checkpoint of a run: early, so that a mistake found soon costs little to go on from."""
WORTH = 20.0
"""Checkpoints are at least so many times their own duration apart, however often they are asked for."""


@dataclass(slots=True)
class Checkpoints:
    """The one checkpoint of a run in `folder`, replaced as a whole: until the next is written, the last stays.

    Frozen weights are not saved: they are read from the model that the run began with.
    """

    folder: Path
    every: float
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self._due = time.monotonic() + min(self.every, FIRST_AFTER)

    @property
    def file(self) -> Path:
        return self.folder / "checkpoint.pt"

    def due(self) -> bool:
        return time.monotonic() >= self._due

    def save(
        self,
        step: int,
        seconds: float,
        trained: Iterable[tuple[str, nn.Parameter]],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Write what is reached after `step` steps; `seconds` is the time that all tries took together."""
        begun = time.monotonic()
        state = {
            "step": step,
            "seconds": seconds,
            "weights": {name: parameter.detach() for name, parameter in trained},
            "optimizer": optimizer.state_dict(),
        }
        aside = self.file.with_name(self.file.name + ".writing")
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.file)
        now = time.monotonic()
        self._due = now + max(self.every, WORTH * (now - begun))

    def restore(
        self, trained: Iterable[tuple[str, nn.Parameter]], optimizer: torch.optim.Optimizer
    ) -> tuple[int, float]:
        """Put the checkpoint's weights and optimiser back; return the steps done and the seconds they took, zeros when
        there is no checkpoint."""
        if not self.file.is_file():
            return 0, 0.0
        state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        parameters = dict(trained)
        if parameters.keys() != state["weights"].keys():
            raise RuntimeError(f"{self.file} is the checkpoint of another model")
        with torch.no_grad():
            for name, value in state["weights"].items():
                parameters[name].copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), float(state["seconds"])
