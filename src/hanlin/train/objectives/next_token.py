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


class RoutedNextToken(NextToken):
    """The same for a model of experts, whose loss holds the balance of its experts too: it and the load are metrics."""

    metric_names: ClassVar[tuple[str, ...]] = ("router_loss", "busiest_expert")

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        total = model.loss_sum(batch)
        return LossSum(total, float(len(batch.targets)), dict(model.router_metrics))


def next_token(model: TrainModel) -> NextToken:
    """The objective for a model, with experts or without."""
    return RoutedNextToken() if model.has_experts else NextToken()
