"""Log-probabilities of answers, and the check of the first loss against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset

EXACT_TOLERANCE = 1e-12
"""How far a first loss may be off whose reference was measured in the same micro-batches: sums of float64 alone
differ."""
INEXACT_TOLERANCE = 1e-3
"""The same if a micro-batch may give other numbers the next time."""
ROUNDING_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
"""The same if it was measured in other micro-batches, for a `beta` of 0.1 or less; a greater one magnifies rounding."""
MAX_MEAN_LOGPROB = -1e-6
"""Mean log-probabilities count as at most this: the odds of a certain answer are infinite."""


class AnswerLogprobs(NamedTuple):
    """Log-probabilities of answers, both tensors [pairs, 2] with the chosen answer first, or [answers].

    Attributes:
        sums: Summed over the tokens of each answer, float64: a sum over a long answer is some thousands, where float32
            has steps of half a thousandth, and what counts is how little it differs from the reference.
        lengths: Tokens of each answer, float64.
    """

    sums: torch.Tensor
    lengths: torch.Tensor

    @property
    def means(self) -> torch.Tensor:
        return self.sums / self.lengths


def compute_answer_logprobs(model: TrainModel, batch: MicroBatch) -> AnswerLogprobs:
    """The log-probabilities of the targets of each example of a micro-batch, [examples]."""
    logprobs = model.token_logprobs(batch).double()
    sums = torch.stack([part.sum() for part in logprobs.split(list(batch.target_counts))])
    return AnswerLogprobs(sums, torch.tensor(batch.target_counts, dtype=sums.dtype, device=sums.device))


def compute_pair_logprobs(model: TrainModel, batch: MicroBatch) -> AnswerLogprobs:
    """The same for a micro-batch of pairs, [pairs, 2]."""
    logprobs = compute_answer_logprobs(model, batch)
    return AnswerLogprobs(logprobs.sums.view(-1, 2), logprobs.lengths.view(-1, 2))


@torch.no_grad()
def compute_logprobs(
    model: TrainModel, dataset: PackedDataset, indices: Sequence[int] | np.ndarray, micro_batch_tokens: int
) -> AnswerLogprobs:
    """The log-probabilities of all answers of some samples, without gradient and dropout.

    Args:
        model: The model.
        dataset: The samples.
        indices: Which of them [n].
        micro_batch_tokens: The most tokens of a micro-batch.

    Returns:
        [n, answers of a sample], in the order of `indices`.
    """
    row_of = {int(index): row for row, index in enumerate(indices)}
    sums = torch.zeros((len(row_of), dataset.encoded.width), dtype=torch.float64, device=model.device)
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
    """The first loss of a policy that equals its reference.

    Attributes:
        value: The number.
        formula: How it is written.
    """

    value: float
    formula: str

    def check(self, loss: float, tolerance: float) -> None:
        """Raise UserError if the first loss differs by more than `tolerance`, relative to the value if that is greater
        than 1.
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
    """How far a first loss may be off whose reference was measured in other micro-batches."""
    return ROUNDING_TOLERANCES[model.dtype] * max(1.0, 10 * beta)
