"""The loss on records that are not learned from, measured while a run lasts: its best weights, and when it may stop.

Owns the measuring and what follows from it. What was best, and for how long nothing was better, is read from the run's
curve, so that there is no state to save but the best weights themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanlin.config.settings.train import Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.callbacks.checkpoint import best_file, hashed
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.state import load_weights
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext
from hanlin.train.objectives.base import Objective

LOSS = "validation_loss"


@dataclass(frozen=True, slots=True)
class Validation:
    """Rows that are not learned from and the objective over them. `every` so many steps, and after the last, they are
    measured; the run stops when `patience` measurements in a row brought no smaller loss."""

    rows: PackedDataset
    objective: Objective
    every: int
    patience: int | None
    keeps_best: bool

    @classmethod
    def of(cls, rows: PackedDataset, objective: Objective, settings: Training) -> Validation:
        assert settings.eval_steps is not None
        return cls(rows, objective, settings.eval_steps, settings.early_stopping_patience, settings.save_best)

    def due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or step == steps

    def measure(self, model: TrainModel, dist: DistContext, micro_batch_tokens: int) -> dict[str, float]:
        """The mean loss and the objective's other means after a step, by their names in the curve. Dropout and noise
        are off, and each record counts as in training."""
        model.refresh()
        training = model.hf_model.training
        model.hf_model.eval()
        mine = np.arange(len(self.rows.samples))[dist.rank :: dist.world_size]
        names = ("loss", *self.objective.measures)
        sums = torch.zeros(len(names) + 1, dtype=torch.float64, device=model.device)
        with torch.no_grad():
            now = self.objective.of_step(model, mine, micro_batch_tokens, dist.all_reduce_sum)
            for batch in model.micro_batches(self.rows, mine, micro_batch_tokens):
                found = now.loss(model, batch)
                told = [found.total, *(found.metrics[name] for name in self.objective.measures)]
                sums += torch.stack(
                    [*(value.double().to(model.device) for value in told), sums.new_tensor(found.weight)]
                )
        model.hf_model.train(training)
        dist.all_reduce_sum([sums])
        return {f"validation_{name}": float(value / sums[-1]) for name, value in zip(names, sums, strict=False)}

    def patient(self, curve: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the run may go on."""
        losses = [row[LOSS] for row in curve if LOSS in row]
        return self.patience is None or len(losses) - 1 - _first_least(losses) < self.patience


def best_step(curve: Sequence[Mapping[str, Any]]) -> int | None:
    """The step after which the held-out loss was least, the first of them; None before any was measured."""
    measured = [row for row in curve if LOSS in row]
    return int(measured[_first_least([row[LOSS] for row in measured])]["step"]) if measured else None


def _first_least(losses: Sequence[float]) -> int:
    """The place of the first least loss; one that is no number is never the least."""
    return min(range(len(losses)), key=lambda place: (math.isnan(losses[place]), losses[place]), default=-1)


def summary(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the metrics of a run say of its held-out loss."""
    step = best_step(curve)
    if step is None:
        return {}
    losses = {int(row["step"]): float(row[LOSS]) for row in curve if LOSS in row}
    ends = {"first": next(iter(losses.values())), "best": losses[step], "last": list(losses.values())[-1]}
    return {LOSS: ends, "best_step": step}


def take_weights(folder: Path, step: int, model: TrainModel) -> None:
    """Put the weights of a step back. Raises UserError when their file is damaged."""
    file = best_file(folder, step)
    known = file.with_suffix(".sha256")
    if not known.is_file() or hashed(file) != known.read_text(encoding="utf-8"):
        raise UserError(
            say("the best weights are damaged", "最佳权重文件已损坏"),
            file,
            say("remove the stage's .work folder and run again", "请删除该阶段的 .work 目录后重新运行"),
        )
    load_weights(torch.load(file, map_location="cpu", weights_only=True), model.trainable_parameters())
