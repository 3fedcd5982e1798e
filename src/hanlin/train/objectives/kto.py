"""KTO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset
from hanlin.train.objectives.answer_logprobs import EXACT, NEAR, Start, _rounded, answer_log_probabilities, measured
from hanlin.train.objectives.base import AddUp, LossSum
from hanlin.train.objectives.pairwise import _mean, of_units, replaced

START_OF_KTO = Start(0.5, "1/2")


@dataclass(frozen=True)
class Kto:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7) of single answers that are known
    to be good or bad; the weight is the answers.

    An answer's log-ratio to the reference is compared with a reference point, the policy's divergence from its
    reference: a good answer loses 1 - sigmoid(beta (ratio - point)), a bad one 1 - sigmoid(beta (point - ratio)), times
    `desirable_weight` or `undesirable_weight` (lambda_D and lambda_U).

    The reference point is estimated as in TRL's `KTOTrainer`: the mean log-ratio of prompts followed by other prompts'
    answers, 0 where it is negative, without gradient. TRL takes the mean over each micro-batch of all processes, so it
    changes with how a step is divided. Here it is the mean over all answers of the step, measured in a first pass with
    the weights that the step begins with (`of_step`), and the same for every part of it.

    `good` [answers] are the verdicts. `mismatched` are the answers' prompts with other answers (`Mismatched`), in the
    same order. `reference` [answers, 2] holds the summed log-probabilities of answer and mismatched answer under the
    model as it was at the start.
    """

    beta: float
    desirable_weight: float
    undesirable_weight: float
    good: np.ndarray
    reference: np.ndarray
    mismatched: PackedDataset
    point: float = 0.0
    weighs: ClassVar[str] = "answers"
    measures: ClassVar[tuple[str, ...]] = ("preference_loss", "accuracy", "margin", "reference_point")

    def of_step(self, model: TrainModel, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp) -> Self:
        """With the reference point of the step. Dropout is off while it is measured."""
        return self._with_point(measured(model, self.mismatched, units, micro_batch_tokens).sums[:, 0], units, add_up)

    def at_start(
        self, model: TrainModel, rows: PackedDataset, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp
    ) -> Self:
        """As `Dpo.at_start` has it; the reference point is measured too."""
        answers, others = (measured(model, of, units, micro_batch_tokens).sums[:, 0] for of in (rows, self.mismatched))
        given = self._with_point(others, units, add_up)
        as_good = torch.sigmoid(-given._gains(answers, tuple(units)))  # of good and bad ones, deviations might cancel
        START_OF_KTO.check(_mean(as_good, add_up), _rounded(model, self.beta))
        reference = replaced(self.reference, units, torch.stack([answers, others], -1))
        return replace(self, reference=reference, point=0.0)

    def _with_point(self, others: torch.Tensor, units: np.ndarray, add_up: AddUp) -> Self:
        """With the reference point of these units' mismatched answers, whose log-probabilities are `others` [units]."""
        ratios = others - of_units(self.reference[:, 1], tuple(units), others)
        return replace(self, point=max(0.0, _mean(ratios, add_up)))

    def _gains(self, found: torch.Tensor, units: tuple[int, ...]) -> torch.Tensor:
        """`beta` times what the log-ratio of each answer has over the reference point [answers]."""
        return self.beta * (found - of_units(self.reference[:, 0], units, found) - self.point)

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        gain = self._gains(answer_log_probabilities(model, batch).sums, batch.sample_indices)
        good = torch.from_numpy(self.good[list(batch.sample_indices)]).to(gain.device)
        margin = torch.where(good, gain, -gain)
        losses = torch.sigmoid(-margin)  # 1 - sigmoid(margin), without its rounding
        preference = losses.detach().sum()
        losses = losses * torch.where(good, self.desirable_weight, self.undesirable_weight)
        answers = float(len(batch.sample_indices))
        sums = (preference, (margin > 0).sum(), margin.detach().sum(), torch.tensor(self.point * answers))
        return LossSum(losses.sum(), answers, dict(zip(self.measures, sums, strict=True)))

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        """Every log-ratio and the reference point are 0 at the start; weights are left out of `preference_loss`."""
        START_OF_KTO.check(means["preference_loss"], EXACT if exact else NEAR)
