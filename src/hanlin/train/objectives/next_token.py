"""Next-token cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset
from hanlin.train.objectives.base import AllReduceSum, LossSum


class NextToken:
    """-log p of each target given the tokens before it in its document; the weight is the number of targets."""

    weight_name: ClassVar[str] = "target_tokens"
    metric_names: ClassVar[tuple[str, ...]] = ()

    def prepare_step(
        self, model: TrainModel, indices: np.ndarray, micro_batch_tokens: int, all_reduce_sum: AllReduceSum
    ) -> Self:
        return self

    def calibrate_reference(
        self,
        model: TrainModel,
        dataset: PackedDataset,
        indices: np.ndarray,
        micro_batch_tokens: int,
        all_reduce_sum: AllReduceSum,
    ) -> Self:
        return self

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        return LossSum(model.loss_sum(batch), float(len(batch.targets)))

    def check_first_loss(self, means: Mapping[str, float], exact: bool) -> None:
        """Any finite loss may be the first."""
