"""What an objective is to the training loop: from a micro-batch to a sum of losses and its weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import torch

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset


@dataclass(frozen=True, slots=True)
class LossSum:
    """A sum of losses, never a mean: sums add up over micro-batches and processes and are divided once.

    Attributes:
        total: The sum, with gradient.
        weight: Of how many things (tokens, pairs, answers) it is the sum.
        metrics: Sums of other values over the same things, by name.
    """

    total: torch.Tensor
    weight: float
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


AllReduceSum = Callable[[Sequence[torch.Tensor]], None]
"""Replaces each tensor by its sum over all processes, in place."""


class Objective(ABC):
    """What the training loop knows of what it optimizes.

    An objective that measures nothing beside the loss gives `loss` and the two names; the other methods change nothing.
    """

    weight_name: ClassVar[str]
    """What the weight counts: `target_tokens`, `pairs` or `answers`."""
    metric_names: ClassVar[tuple[str, ...]]
    """The names of `LossSum.metrics`."""

    def prepare_step(
        self, model: TrainModel, indices: np.ndarray, micro_batch_tokens: int, all_reduce_sum: AllReduceSum
    ) -> Self:
        """The objective of one step; itself, unless something is measured before the step's gradients.

        What is measured follows from the data of the step alone, however it is divided among processes.

        Args:
            model: The model with the weights that the step starts from.
            indices: The samples that this process learns from in the step [n].
            micro_batch_tokens: The most tokens of a micro-batch.
            all_reduce_sum: Sums over processes.
        """
        return self

    def calibrate_reference(
        self,
        model: TrainModel,
        dataset: PackedDataset,
        indices: np.ndarray,
        micro_batch_tokens: int,
        all_reduce_sum: AllReduceSum,
    ) -> Self:
        """The objective of the very first step; arguments as for `prepare_step`, and the samples.

        Raises UserError if the model is not the one that the reference was computed with.
        """
        return self

    @abstractmethod
    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        """The summed loss of a micro-batch, with gradient, its weight and its metrics."""

    def check_first_loss(self, means: Mapping[str, float], exact: bool) -> None:  # noqa: B027 (a default, on purpose)
        """Raise UserError if the means of the very first step (`loss` and the metrics) cannot be right.

        By default any finite loss may be the first.

        Args:
            means: The means, by name.
            exact: Whether the same micro-batch gives the same numbers each time.
        """
