"""The order in which packed rows are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True)
class Order:
    """Which units each step learns from: another seeded permutation of all of them in every epoch, divided evenly over
    the epoch's steps. The place in the data is the step, so there is nothing else to save."""

    units: int
    steps_per_epoch: int
    seed: int

    @classmethod
    def of(cls, units: int, per_step: int, seed: int) -> Order:
        return cls(units, max(1, round(units / per_step)), seed)

    def steps(self, epochs: float, steps: int | None) -> int:
        return steps if steps is not None else max(1, round(epochs * self.steps_per_epoch))

    def units_of(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self.steps_per_epoch)
        bounds = [self.units * edge // self.steps_per_epoch for edge in (place, place + 1)]
        return _permutation(self.units, self.seed, epoch)[bounds[0] : bounds[1]]


@lru_cache(maxsize=2)
def _permutation(units: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(units)
