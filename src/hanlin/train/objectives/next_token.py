"""Next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset
from hanlin.train.objectives.base import AddUp, LossSum


class NextToken:
    """-log p of each learned token given what stands before it in its document; the weight is their number."""

    weighs: ClassVar[str] = "target_tokens"
    measures: ClassVar[tuple[str, ...]] = ()

    def of_step(self, model: TrainModel, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp) -> Self:
        return self

    def at_start(
        self, model: TrainModel, rows: PackedDataset, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp
    ) -> Self:
        return self

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        return LossSum(model.loss_sum(batch), float(len(batch.targets)))

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        """Any finite loss may be where training starts."""
