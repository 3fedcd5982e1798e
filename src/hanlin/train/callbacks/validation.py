"""The loss on the validation split, measured while a run lasts: early stopping, and which weights are the best.

Which step was best, and for how long nothing was better, is read from the run's metrics, so that there is no state to
save but the best weights themselves (`checkpoint`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hanlin.config.settings.train import Training
from hanlin.core.hardware.devices import to_float64
from hanlin.train.callbacks.base import Callback, TrainerState
from hanlin.train.callbacks.metrics_log import MetricsLog
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext
from hanlin.train.objectives.base import Objective

VALIDATION_LOSS = "validation_loss"


@dataclass(frozen=True)
class Validation(Callback):
    """Measures the objective on samples that are not trained on.

    Attributes:
        dataset: The samples.
        objective: The objective over them.
        eval_steps: Measure after every so many steps, and after the last.
        early_stopping_patience: Stop when this many measurements in a row brought no smaller loss; None: never.
    """

    dataset: PackedDataset
    objective: Objective
    eval_steps: int
    early_stopping_patience: int | None

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        return (VALIDATION_LOSS,)

    @classmethod
    def from_settings(cls, dataset: PackedDataset, objective: Objective, settings: Training) -> Validation:
        assert settings.eval_steps is not None
        return cls(dataset, objective, settings.eval_steps, settings.early_stopping_patience)

    def evaluate(self, state: TrainerState) -> dict[str, float]:
        if state.step % self.eval_steps != 0 and state.step != state.total_steps:
            return {}
        return self.measure(state.model, state.dist, state.micro_batch_tokens)

    def measure(self, model: TrainModel, dist: DistContext, micro_batch_tokens: int) -> dict[str, float]:
        """The mean loss and the objective's other means, by their names in the log. Dropout and noise are off, and each
        record counts as in training.
        """
        model.refresh()
        training = model.hf_model.training
        model.hf_model.eval()
        indices = np.arange(len(self.dataset.samples))[dist.rank :: dist.world_size]
        names = ("loss", *self.objective.metric_names)
        sums = to_float64(torch.zeros(len(names) + 1, device=model.device))
        with torch.no_grad():
            objective = self.objective.prepare_step(model, indices, micro_batch_tokens, dist.all_reduce_sum)
            for batch in model.micro_batches(self.dataset, indices, micro_batch_tokens):
                loss = objective.loss(model, batch)
                values = [loss.total, *(loss.metrics[name] for name in self.objective.metric_names)]
                sums += torch.stack(
                    [*(to_float64(value).to(sums.device) for value in values), sums.new_tensor(loss.weight)]
                )
        model.hf_model.train(training)
        dist.all_reduce_sum([sums])
        return {f"validation_{name}": float(value / sums[-1]) for name, value in zip(names, sums, strict=False)}

    def should_stop(self, state: TrainerState) -> bool:
        losses = [row[VALIDATION_LOSS] for row in state.log.rows if VALIDATION_LOSS in row]
        patience = self.early_stopping_patience
        return patience is not None and len(losses) - 1 - _argmin(losses) >= patience

    def summarize(self, log: MetricsLog) -> dict[str, Any]:
        step = best_step(log.rows)
        if step is None:
            return {}
        losses = {int(row["step"]): float(row[VALIDATION_LOSS]) for row in log.rows if VALIDATION_LOSS in row}
        ends = {"first": next(iter(losses.values())), "best": losses[step], "last": list(losses.values())[-1]}
        return {VALIDATION_LOSS: ends, "best_step": step}


def best_step(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The first step with the least validation loss; None before any was measured."""
    measured = [row for row in rows if VALIDATION_LOSS in row]
    return int(measured[_argmin([row[VALIDATION_LOSS] for row in measured])]["step"]) if measured else None


def _argmin(losses: Sequence[float]) -> int:
    """The index of the first least loss; NaN is never the least; -1 if there are none."""
    return min(range(len(losses)), key=lambda index: (math.isnan(losses[index]), losses[index]), default=-1)
