"""Data parallelism with a full copy of everything in each process, or a single process alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hanlin.train.compute.model import TrainModel
from hanlin.train.distributed.base import Strategy


class DDP(Strategy):
    """Every process holds all weights, gradients and optimizer state; gradients are summed once per step."""

    def _reduce_gradients(self, gradients: list[torch.Tensor]) -> None:
        self.dist.all_reduce_sum(gradients)

    def full_model(self, load: Callable[[], TrainModel]) -> TrainModel:
        return self.model
