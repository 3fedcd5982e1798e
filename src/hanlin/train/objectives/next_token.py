"""Next-token cross-entropy."""

from __future__ import annotations

from typing import ClassVar

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch
from hanlin.train.objectives.base import LossSum, Objective


class NextToken(Objective):
    """-log p of each target given the tokens before it in its document; the weight is the number of targets."""

    weight_name: ClassVar[str] = "target_tokens"
    metric_names: ClassVar[tuple[str, ...]] = ()

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        return LossSum(model.loss_sum(batch), float(len(batch.targets)))
