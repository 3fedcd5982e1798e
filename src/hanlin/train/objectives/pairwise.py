"""The losses over preference pairs: DPO with its variants IPO and hinge, ORPO, SimPO.

Log-probabilities of answers become rewards, and rewards a sum of losses. KTO, which takes single answers, is `kto`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch.nn import functional

from hanlin.core.hardware.devices import to_float64
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset
from hanlin.train.objectives.answer_logprobs import (
    EXACT_TOLERANCE,
    INEXACT_TOLERANCE,
    MAX_MEAN_LOGPROB,
    AnswerLogprobs,
    ExpectedLoss,
    compute_dataset_logprobs,
    compute_pair_logprobs,
    first_loss_tolerance,
)
from hanlin.train.objectives.base import AllReduceSum, LossSum, Objective


class PairObjective(Objective):
    """What the losses over pairs have in common; the weight is the number of pairs.

    Every answer has a reward, and every pair a preference loss of the difference of its two rewards (the margin). The
    loss of a pair is `preference_weight` times that, and `sft_weight` times the mean -log p of the tokens of the chosen
    answer. It never depends on the other pairs.
    """

    weight_name: ClassVar[str] = "pairs"
    metric_names: ClassVar[tuple[str, ...]] = (
        "preference_loss",
        "accuracy",
        "margin",
        "chosen_reward",
        "rejected_reward",
    )
    preference_weight: float = 1.0
    sft_weight: float = 0.0

    @abstractmethod
    def rewards(self, answers: AnswerLogprobs, indices: tuple[int, ...]) -> torch.Tensor:
        """The reward of each answer, [pairs, 2]."""

    @abstractmethod
    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        """The preference loss of each pair; `margin` is the reward of the chosen answer minus that of the rejected one
        [pairs].
        """

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        answers = compute_pair_logprobs(model, batch)
        rewards = self.rewards(answers, batch.sample_indices)
        margin = rewards[:, 0] - rewards[:, 1]
        losses = self.losses(margin)
        preference = losses.detach().sum()
        if self.preference_weight != 1:
            losses = losses * self.preference_weight
        if self.sft_weight:
            losses = losses - self.sft_weight * answers.means[:, 0]
        values = rewards.detach()
        sums = (preference, (margin > 0).sum(), margin.detach().sum(), values[:, 0].sum(), values[:, 1].sum())
        return LossSum(losses.sum(), float(len(batch.sample_indices)), dict(zip(self.metric_names, sums, strict=True)))

    @property
    def expected_first_loss(self) -> ExpectedLoss | None:
        """What the first preference loss has to be; None without a reference: then any finite one may be the first."""
        return None

    def check_first_loss(self, means: Mapping[str, float], exact: bool) -> None:
        if self.expected_first_loss is not None:
            self.expected_first_loss.check(means["preference_loss"], EXACT_TOLERANCE if exact else INEXACT_TOLERANCE)


@dataclass(frozen=True)
class Dpo(PairObjective):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

    Attributes:
        beta: Scale of the log-ratios.
        label_smoothing: The share of pairs assumed to be labeled the wrong way round (Mitchell 2023, "A note on DPO
            with noisy preferences").
        reference: Summed log-probabilities of the chosen and the rejected answer under the model as it was at the
            start, float64 [pairs, 2].
        sft_weight: Weight of the mean -log p of the chosen answer's tokens, so that training does not unlearn it (Pang
            et al. 2024, arXiv:2404.19733, eq. 1).
    """

    beta: float
    label_smoothing: float
    reference: np.ndarray
    sft_weight: float = 0.0

    def calibrate_reference(
        self,
        model: TrainModel,
        dataset: PackedDataset,
        indices: np.ndarray,
        micro_batch_tokens: int,
        all_reduce_sum: AllReduceSum,
    ) -> Self:
        """Measure the reference of these samples once more, in the micro-batches that learn from them.

        Matrix products of other shapes round differently; so a policy that equals its reference starts at the expected
        loss to the last bit. What was measured before has to be the same but for such rounding.
        """
        logprobs = compute_dataset_logprobs(model, dataset, indices, micro_batch_tokens)
        rewards = self.rewards(logprobs, tuple(indices))
        loss = mean_over_processes(self.losses(rewards[:, 0] - rewards[:, 1]), all_reduce_sum)
        self.expected_first_loss.check(loss, first_loss_tolerance(model, self.beta))
        return replace(self, reference=replace_reference(self.reference, indices, logprobs.sums))

    def rewards(self, answers: AnswerLogprobs, indices: tuple[int, ...]) -> torch.Tensor:
        return self.beta * (answers.sums - select_reference(self.reference, indices, answers.sums))

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        losses = self.pair_loss(margin) * (1 - self.label_smoothing)
        if self.label_smoothing:
            losses = losses + self.pair_loss(-margin) * self.label_smoothing
        return losses

    def pair_loss(self, margin: torch.Tensor) -> torch.Tensor:
        """The loss of a pair that is labeled the right way round."""
        return -functional.logsigmoid(margin)

    @property
    def expected_first_loss(self) -> ExpectedLoss:
        """Every margin is 0 at the start, whatever `label_smoothing` is."""
        return ExpectedLoss(math.log(2), "log 2")


@dataclass(frozen=True)
class Ipo(Dpo):
    """Identity preference optimization (Azar et al. 2023, arXiv:2310.12036, eq. 17, whose tau is `beta`): the margin is
    drawn to a fixed distance instead of being pushed away for ever.

    Log-ratios are means over an answer's tokens, as in TRL, which states that this is the form that the paper's results
    were had with; rewards are `beta` times these, so (margin - 1/2)^2 / beta^2 is the paper's square.
    """

    def rewards(self, answers: AnswerLogprobs, indices: tuple[int, ...]) -> torch.Tensor:
        return super().rewards(answers, indices) / answers.lengths

    def pair_loss(self, margin: torch.Tensor) -> torch.Tensor:
        return ((margin - 0.5) / self.beta) ** 2

    @property
    def expected_first_loss(self) -> ExpectedLoss:
        return ExpectedLoss(0.25 / self.beta**2, "1 / (4 beta^2)")


@dataclass(frozen=True)
class Hinge(Dpo):
    """The hinge loss of SLiC (Zhao et al. 2023, arXiv:2305.10425, eq. 2) over DPO's rewards, as Liu et al. 2024
    (arXiv:2309.06657, sec. 3.2) normalize it: a pair whose margin is above 1 is left alone.
    """

    def pair_loss(self, margin: torch.Tensor) -> torch.Tensor:
        return functional.relu(1 - margin)

    @property
    def expected_first_loss(self) -> ExpectedLoss:
        return ExpectedLoss(1.0, "1")


DPO_LOSSES: dict[str, type[Dpo]] = {"sigmoid": Dpo, "ipo": Ipo, "hinge": Hinge}
"""The losses of the setting `loss` of `dpo`."""


@dataclass(frozen=True)
class SimPo(PairObjective):
    """Simple preference optimization (Meng et al. 2024, arXiv:2405.14734, eq. 6): an answer's reward is `beta` times
    the mean log-probability of its tokens (eq. 4), and is to be greater by `gamma` (eq. 5). No reference.
    """

    beta: float
    gamma: float

    def rewards(self, answers: AnswerLogprobs, indices: tuple[int, ...]) -> torch.Tensor:
        return self.beta * answers.means

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        return -functional.logsigmoid(margin - self.gamma)


@dataclass(frozen=True)
class Orpo(PairObjective):
    """Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691, eq. 6): the mean -log p of the chosen
    answer's tokens (eq. 3), and `preference_weight` (lambda) times -log sigmoid of the log odds ratio (eq. 7). No
    reference.

    An answer's reward is its log odds (eq. 4), of the mean log-probability of its tokens. The plain loss is a mean over
    each answer, then over pairs, and prompts are no targets; TRL's is one mean over all tokens of a batch, those of the
    prompts included.
    """

    preference_weight: float
    sft_weight: float = 1.0

    def rewards(self, answers: AnswerLogprobs, indices: tuple[int, ...]) -> torch.Tensor:
        means = answers.means.clamp(max=MAX_MEAN_LOGPROB)
        return means - torch.log(-torch.expm1(means))

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        return -functional.logsigmoid(margin)


def mean_over_processes(values: torch.Tensor, all_reduce_sum: AllReduceSum) -> float:
    """The mean over the values [n] of all processes, without gradient."""
    total = to_float64(values.detach()).sum()
    sums = torch.stack([total, torch.full_like(total, len(values))])
    all_reduce_sum([sums])
    return float(sums[0] / sums[1])


def replace_reference(reference: np.ndarray, indices: np.ndarray, logprobs: torch.Tensor) -> np.ndarray:
    """A copy of the reference [samples, answers] with new values of some samples."""
    changed = reference.copy()
    changed[indices] = logprobs.cpu().numpy()
    return changed


def select_reference(reference: np.ndarray, indices: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """The reference values of the samples of a micro-batch, on the device of `like`."""
    return torch.from_numpy(reference[list(indices)]).to(like.device)
