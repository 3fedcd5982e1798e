"""KTO: the loss over single answers that are labeled good or bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset
from hanlin.train.objectives.answer_logprobs import (
    EXACT_TOLERANCE,
    INEXACT_TOLERANCE,
    ExpectedLoss,
    compute_answer_logprobs,
    compute_dataset_logprobs,
    first_loss_tolerance,
)
from hanlin.train.objectives.base import AllReduceSum, LossSum, Objective
from hanlin.train.objectives.pairwise import mean_over_processes, replace_reference, select_reference

KTO_FIRST_LOSS = ExpectedLoss(0.5, "1/2")


@dataclass(frozen=True)
class Kto(Objective):
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7); the weight is the number of
    answers.

    The log-ratio of an answer to the reference is compared with a reference point, the KL divergence of the policy from
    its reference: a good answer costs 1 - sigmoid(beta (ratio - point)), a bad one 1 - sigmoid(beta (point - ratio)),
    times `desirable_weight` or `undesirable_weight` (lambda_D and lambda_U).

    The reference point is estimated as in TRL's `KTOTrainer`: the mean log-ratio of prompts followed by other prompts'
    answers, 0 if it is negative, without gradient. TRL takes the mean over each micro-batch of all processes, so it
    changes with how a step is divided. Here it is the mean over all answers of the step, measured before its gradients
    with the weights that the step starts from (`prepare_step`).

    Attributes:
        beta: Scale of the log-ratios.
        desirable_weight: Weight of good answers.
        undesirable_weight: Weight of bad answers.
        desirable: Which answers are good, bool [answers].
        reference: Summed log-probabilities of answer and mismatched answer under the model as it was at the start,
            float64 [answers, 2].
        mismatched: The prompts with answers to other prompts (`MismatchedRecords`), in the same order.
        reference_point: The reference point of the step.
    """

    beta: float
    desirable_weight: float
    undesirable_weight: float
    desirable: np.ndarray
    reference: np.ndarray
    mismatched: PackedDataset
    reference_point: float = 0.0
    weight_name: ClassVar[str] = "answers"
    metric_names: ClassVar[tuple[str, ...]] = ("preference_loss", "accuracy", "margin", "reference_point")

    def prepare_step(
        self, model: TrainModel, indices: np.ndarray, micro_batch_tokens: int, all_reduce_sum: AllReduceSum
    ) -> Self:
        """With the reference point of the step, measured without dropout."""
        mismatched = compute_dataset_logprobs(model, self.mismatched, indices, micro_batch_tokens).sums[:, 0]
        return self._with_reference_point(mismatched, indices, all_reduce_sum)

    def calibrate_reference(
        self,
        model: TrainModel,
        dataset: PackedDataset,
        indices: np.ndarray,
        micro_batch_tokens: int,
        all_reduce_sum: AllReduceSum,
    ) -> Self:
        """As `Dpo.calibrate_reference`; the reference point is measured, too."""
        answers, mismatched = (
            compute_dataset_logprobs(model, samples, indices, micro_batch_tokens).sums[:, 0]
            for samples in (dataset, self.mismatched)
        )
        objective = self._with_reference_point(mismatched, indices, all_reduce_sum)
        # all as if they were good: the deviations of good and bad answers might cancel
        losses = torch.sigmoid(-objective._scaled_log_ratios(answers, tuple(indices)))
        KTO_FIRST_LOSS.check(mean_over_processes(losses, all_reduce_sum), first_loss_tolerance(model, self.beta))
        reference = replace_reference(self.reference, indices, torch.stack([answers, mismatched], -1))
        return replace(self, reference=reference, reference_point=0.0)

    def _with_reference_point(
        self, mismatched: torch.Tensor, indices: np.ndarray, all_reduce_sum: AllReduceSum
    ) -> Self:
        """With the reference point that follows from the log-probabilities of the mismatched answers of these samples
        [n].
        """
        ratios = mismatched - select_reference(self.reference[:, 1], tuple(indices), mismatched)
        return replace(self, reference_point=max(0.0, mean_over_processes(ratios, all_reduce_sum)))

    def _scaled_log_ratios(self, logprobs: torch.Tensor, indices: tuple[int, ...]) -> torch.Tensor:
        """`beta` times the difference of the log-ratio of each answer and the reference point [answers]."""
        reference = select_reference(self.reference[:, 0], indices, logprobs)
        return self.beta * (logprobs - reference - self.reference_point)

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        log_ratios = self._scaled_log_ratios(compute_answer_logprobs(model, batch).sums, batch.sample_indices)
        desirable = torch.from_numpy(self.desirable[list(batch.sample_indices)]).to(log_ratios.device)
        margin = torch.where(desirable, log_ratios, -log_ratios)
        losses = torch.sigmoid(-margin)  # 1 - sigmoid(margin), without its rounding
        preference = losses.detach().sum()
        losses = losses * torch.where(desirable, self.desirable_weight, self.undesirable_weight)
        answers = float(len(batch.sample_indices))
        sums = (preference, (margin > 0).sum(), margin.detach().sum(), torch.tensor(self.reference_point * answers))
        return LossSum(losses.sum(), answers, dict(zip(self.metric_names, sums, strict=True)))

    def check_first_loss(self, means: Mapping[str, float], exact: bool) -> None:
        """Every log-ratio and the reference point are 0 at the start; weights are left out of `preference_loss`."""
        KTO_FIRST_LOSS.check(means["preference_loss"], EXACT_TOLERANCE if exact else INEXACT_TOLERANCE)
