"""Log-probabilities of answers, and the check of the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset

EXACT = 1e-12


NEAR = 1e-3


ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 5e-3}


NEARLY_CERTAIN = -1e-6


class Answers(NamedTuple):
    """Summed log-probabilities of answers and the tokens that each has, both of one shape: [pairs, 2] with the chosen
    answer first, or [answers]. They are float64: a sum over a long answer is some thousands, where float32 has steps of
    half a thousandth, and what counts is how little it differs from the reference."""

    sums: torch.Tensor
    lengths: torch.Tensor

    @property
    def means(self) -> torch.Tensor:
        return self.sums / self.lengths


def answer_log_probabilities(model: TrainModel, batch: MicroBatch) -> Answers:
    """Summed log-probabilities of the learned tokens of each of a pass's examples, float64 [examples]."""
    found = model.token_logprobs(batch).double()
    sums = torch.stack([part.sum() for part in found.split(list(batch.target_counts))])
    return Answers(sums, torch.tensor(batch.target_counts, dtype=sums.dtype, device=sums.device))


def pair_log_probabilities(model: TrainModel, batch: MicroBatch) -> Answers:
    """The same of pairs, [pairs, 2]."""
    found = answer_log_probabilities(model, batch)
    return Answers(found.sums.view(-1, 2), found.lengths.view(-1, 2))


@torch.no_grad()
def measured(
    model: TrainModel, rows: PackedDataset, units: Sequence[int] | np.ndarray, micro_batch_tokens: int
) -> Answers:
    """The same of all answers of these units, [units, answers of a unit]; dropout is off, nothing is learned."""
    place = {int(unit): number for number, unit in enumerate(units)}
    sums = torch.zeros((len(place), rows.encoded.width), dtype=torch.float64, device=model.device)
    lengths = torch.ones_like(sums)
    training = model.hf_model.training
    model.hf_model.eval()
    for batch in model.micro_batches(rows, units, micro_batch_tokens):
        found = answer_log_probabilities(model, batch)
        places = [place[unit] for unit in batch.sample_indices]
        sums[places], lengths[places] = found.sums.view(len(places), -1), found.lengths.view(len(places), -1)
    model.hf_model.train(training)
    return Answers(sums, lengths)


class Start(NamedTuple):
    """The first loss of a policy that equals its reference, and how that number is written."""

    value: float
    text: str

    def check(self, loss: float, near: float) -> None:
        """Raise UserError when the first loss is another: not `near` it, as a part of what it has to be."""
        if not abs(loss - self.value) <= near * max(1.0, self.value):
            raise UserError(
                say(
                    f"the first loss is {loss:.6f}, but a policy that equals its reference has "
                    f"{self.text} = {self.value:.6f}",
                    f"首步损失为 {loss:.6f}，而与参考模型相同的策略应为 {self.text} = {self.value:.6f}",
                ),
                None,
                say(
                    "the model changed since its reference was computed: remove the stage's .work folder and run again",
                    "参考值计算之后模型已变：请删除该阶段的 .work 目录后重新运行",
                ),
            )


def _rounded(model: TrainModel, beta: float) -> float:
    """How near the first loss has to be whose reference was measured in other passes."""
    return ROUNDED[model.dtype] * max(1.0, 10 * beta)
