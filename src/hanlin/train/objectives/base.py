"""What is optimized, as values: how a record becomes examples, and how a pass through the model becomes a sum of losses
and the weight that the sum is of.

Owns encoding, what every objective is to the loop, and the loss on plain tokens. Does not own losses on preferences
(`alignment`), the loop that divides sums by weights, nor the head's arithmetic (`losses`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset


@dataclass(frozen=True, slots=True)
class LossSum:
    """`total` is a sum over `weight` things (tokens, pairs), never a mean: sums add up over passes, steps' parts and
    processes, and are divided once, by the weight of all. `metrics` are sums over the same things."""

    total: torch.Tensor
    weight: float
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


AddUp = Callable[[Sequence[torch.Tensor]], None]
"""Replaces each tensor by its sum over all processes."""


class Objective(Protocol):
    """What the loop needs to know of what it optimizes."""

    weighs: ClassVar[str]
    """What the weight counts: `target_tokens`, `pairs` or `answers`."""
    measures: ClassVar[tuple[str, ...]]
    """The names of `LossSum.metrics`."""

    def of_step(self, model: TrainModel, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp) -> Objective:
        """The objective as it is for one step; itself, unless something is measured before anything is learned.

        `units` are what this process learns from in the step, and `add_up` sums over all processes: what is measured
        follows from the step's data alone, however they are divided.
        """

    def at_start(
        self, model: TrainModel, rows: PackedDataset, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp
    ) -> Objective:
        """The objective as it is for the very first step, before anything is learned; arguments as for `of_step`.

        Raises UserError when the network is not the model that the objective measures it against.
        """

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum: ...

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        """Raise UserError when the very first means (`loss` and the measures) cannot be right; `exact`: the same pass
        gives the same numbers each time."""
