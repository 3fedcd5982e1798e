"""Log-probabilities of answers, and the check of the first loss against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hanlin.core.errors import UserError
from hanlin.core.hardware.devices import to_float64
from hanlin.core.i18n import tr
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset

EXACT_TOLERANCE = 1e-12
"""Tolerance of the first loss if policy and reference were computed in the same micro-batches: only the order of
float64 sums differs."""
INEXACT_TOLERANCE = 1e-3
"""The same if the computation of a micro-batch is not deterministic."""
ROUNDING_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
"""By compute dtype: the same if the reference was computed in other micro-batches, for a `beta` of 0.1 or less; a
greater one magnifies rounding."""
MAX_MEAN_LOGPROB = -1e-6
"""Mean log-probabilities are clamped to this: at 0 the odds of an answer would be infinite."""


class AnswerLogprobs(NamedTuple):
    """Log-probabilities of answers. Both tensors are [pairs, 2], chosen answer first, or [answers].

    Attributes:
        sums: Sum over the tokens of each answer, float64: the sum of a long answer is some thousands, where float32 has
            steps of half a thousandth, and the loss depends on its small difference from the reference.
        lengths: Number of tokens of each answer, float64.
    """

    sums: torch.Tensor
    lengths: torch.Tensor

    @property
    def means(self) -> torch.Tensor:
        """Log-probability per token of each answer, in the shape of `sums`."""
        return self.sums / self.lengths


def compute_answer_logprobs(model: TrainModel, batch: MicroBatch) -> AnswerLogprobs:
    """Compute the log-probabilities of the targets of each segment of a micro-batch, [segments]."""
    logprobs = to_float64(model.token_logprobs(batch))
    sums = torch.stack([answer.sum() for answer in logprobs.split(list(batch.target_counts))])
    return AnswerLogprobs(sums, torch.tensor(batch.target_counts, dtype=sums.dtype, device=sums.device))


def compute_pair_logprobs(model: TrainModel, batch: MicroBatch) -> AnswerLogprobs:
    """Compute the log-probabilities of both answers of each pair of a micro-batch, [pairs, 2]."""
    logprobs = compute_answer_logprobs(model, batch)
    return AnswerLogprobs(logprobs.sums.view(-1, 2), logprobs.lengths.view(-1, 2))


@torch.no_grad()
def compute_dataset_logprobs(
    model: TrainModel, dataset: PackedDataset, indices: Sequence[int] | np.ndarray, micro_batch_tokens: int
) -> AnswerLogprobs:
    """Compute the log-probabilities of all answers of some samples, without gradient and dropout.

    Args:
        model: The model.
        dataset: One record in each sample.
        indices: Indices of the samples, [n], each once.
        micro_batch_tokens: Most tokens of a micro-batch.

    Returns:
        Both tensors [n, answers of a record], in the order of `indices`.
    """
    row_of = {int(index): row for row, index in enumerate(indices)}
    sums = to_float64(torch.zeros((len(row_of), dataset.encoded.width), device=model.device))
    lengths = torch.ones_like(sums)
    training = model.hf_model.training
    model.hf_model.eval()
    for batch in model.micro_batches(dataset, indices, micro_batch_tokens):
        logprobs = compute_answer_logprobs(model, batch)
        rows = [row_of[index] for index in batch.sample_indices]
        sums[rows], lengths[rows] = logprobs.sums.view(len(rows), -1), logprobs.lengths.view(len(rows), -1)
    model.hf_model.train(training)
    return AnswerLogprobs(sums, lengths)


class ExpectedLoss(NamedTuple):
    """The loss before the first optimizer step, at which the policy equals its reference.

    Attributes:
        value: The loss, such as 0.693.
        formula: The same as a formula for messages, such as `log 2`.
    """

    value: float
    formula: str

    def check(self, loss: float, tolerance: float) -> None:
        """Check the loss of the first step.

        Args:
            loss: The loss that was computed.
            tolerance: Largest difference, relative to `value` if that is greater than 1.

        Raises:
            UserError: It differs by more, or is NaN.
        """
        if not abs(loss - self.value) <= tolerance * max(1.0, self.value):
            raise UserError(
                tr(
                    "the first loss is {loss:.6f}, but a policy that equals its reference has {formula} = {value:.6f}",
                    loss=loss,
                    formula=self.formula,
                    value=self.value,
                ),
                None,
                tr("the model changed since its reference was computed: remove the stage's .work folder and run again"),
            )


def first_loss_tolerance(model: TrainModel, beta: float) -> float:
    """Return the tolerance of the first loss if the reference was computed in other micro-batches."""
    return ROUNDING_TOLERANCES[model.dtype] * max(1.0, 10 * beta)
