"""What is optimized on preferences, as values: DPO and IPO, ORPO, SimPO over pairs, KTO over single judged answers.

Owns how log-probabilities of answers become rewards, and rewards become a sum of losses. Does not own encoding
(`objectives`), which prompt meets which answer (`mismatched`), or when reference values are computed (`stages`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch
from torch.nn import functional

from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.packed import MicroBatch, PackedDataset
from hanlin.train.objectives.answer_logprobs import (
    EXACT,
    NEAR,
    NEARLY_CERTAIN,
    Answers,
    Start,
    _rounded,
    measured,
    pair_log_probabilities,
)
from hanlin.train.objectives.base import AddUp, LossSum

"""How near a first loss has to be whose reference was measured in the same passes: sums of float64 alone differ."""
"""And where the same pass may give other numbers the next time."""
"""And where it was measured in others, with a `beta` of 0.1 or less; a greater one magnifies what is rounded."""
"""Mean log-probabilities count as at most this: the odds of a certain answer are infinite."""


class PairObjective(ABC):
    """What the objectives over pairs share: every answer has a reward, every pair a loss of its two rewards' difference
    (the margin), and the weight is the pairs.

    The loss of a pair is `preference_weight` times that, and `sft_weight` times the mean -log p of the chosen
    answer's tokens. A pair's loss never depends on the pairs beside it.
    """

    weighs: ClassVar[str] = "pairs"
    measures: ClassVar[tuple[str, ...]] = (
        "preference_loss",
        "accuracy",
        "margin",
        "chosen_reward",
        "rejected_reward",
    )
    preference_weight: float = 1.0
    sft_weight: float = 0.0

    @abstractmethod
    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        """The reward of each answer, [pairs, 2]."""

    @abstractmethod
    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        """The loss of each pair whose chosen answer's reward is greater by `margin` [pairs]."""

    def of_step(self, model: TrainModel, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp) -> Self:
        return self

    def at_start(
        self, model: TrainModel, rows: PackedDataset, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp
    ) -> Self:
        return self

    def loss(self, model: TrainModel, batch: MicroBatch) -> LossSum:
        answers = pair_log_probabilities(model, batch)
        rewards = self.rewards(answers, batch.sample_indices)
        margin = rewards[:, 0] - rewards[:, 1]
        losses = self.losses(margin)
        preference = losses.detach().sum()
        if self.preference_weight != 1:
            losses = losses * self.preference_weight
        if self.sft_weight:
            losses = losses - self.sft_weight * answers.means[:, 0]
        known = rewards.detach()
        sums = (preference, (margin > 0).sum(), margin.detach().sum(), known[:, 0].sum(), known[:, 1].sum())
        return LossSum(losses.sum(), float(len(batch.sample_indices)), dict(zip(self.measures, sums, strict=True)))

    @property
    def start(self) -> Start | None:
        """What the first preference loss has to be; without a reference, any finite one may be the first."""
        return None

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        if self.start is not None:
            self.start.check(means["preference_loss"], EXACT if exact else NEAR)


@dataclass(frozen=True)
class Dpo(PairObjective):
    """Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

    `reference` [pairs, 2] holds the summed log-probabilities of the chosen and the rejected answer under the model as
    it was at the start. `label_smoothing` is the share of pairs assumed to be labeled the wrong way round (Mitchell
    2023, "A note on DPO with noisy preferences"). `sft_weight` adds the mean -log p of a chosen answer's tokens, so
    that aligning does not unlearn it (Pang et al. 2024, arXiv:2404.19733, eq. 1).
    """

    beta: float
    label_smoothing: float
    reference: np.ndarray
    sft_weight: float = 0.0

    def at_start(
        self, model: TrainModel, rows: PackedDataset, units: np.ndarray, micro_batch_tokens: int, add_up: AddUp
    ) -> Self:
        """With the reference of these units measured once more, in the passes that learn from them: products of other
        shapes round otherwise, and a policy that equals its reference starts where it must, to the last bit. What was
        measured before has to be the same but for such rounding."""
        found = measured(model, rows, units, micro_batch_tokens)
        rewards = self.rewards(found, tuple(units))
        self.start.check(_mean(self.losses(rewards[:, 0] - rewards[:, 1]), add_up), _rounded(model, self.beta))
        return replace(self, reference=replaced(self.reference, units, found.sums))

    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        return self.beta * (answers.sums - of_units(self.reference, units, answers.sums))

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        losses = self.curve(margin) * (1 - self.label_smoothing)
        if self.label_smoothing:
            losses = losses + self.curve(-margin) * self.label_smoothing
        return losses

    def curve(self, margin: torch.Tensor) -> torch.Tensor:
        """The loss of a pair that is surely labeled the right way round."""
        return -functional.logsigmoid(margin)

    @property
    def start(self) -> Start:
        """Every margin is 0 at the start, whatever share of labels is mistrusted."""
        return Start(math.log(2), "log 2")


@dataclass(frozen=True)
class Ipo(Dpo):
    """Identity preference optimization (Azar et al. 2023, arXiv:2310.12036, eq. 17, whose tau is `beta`): the margin is
    drawn to a fixed distance instead of being pushed away for ever.

    Log-ratios are means over an answer's tokens, as in TRL, which states that this is the form that the paper's results
    were had with; rewards are `beta` times these, so (margin - 1/2)^2 / beta^2 is the paper's square.
    """

    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        return super().rewards(answers, units) / answers.lengths

    def curve(self, margin: torch.Tensor) -> torch.Tensor:
        return ((margin - 0.5) / self.beta) ** 2

    @property
    def start(self) -> Start:
        return Start(0.25 / self.beta**2, "1 / (4 beta^2)")


@dataclass(frozen=True)
class SimPo(PairObjective):
    """Simple preference optimization (Meng et al. 2024, arXiv:2405.14734, eq. 6): an answer's reward is `beta` times
    the mean log-probability of its tokens (eq. 4), and is to be greater by `gamma` (eq. 5). No reference."""

    beta: float
    gamma: float

    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        return self.beta * answers.means

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        return -functional.logsigmoid(margin - self.gamma)


@dataclass(frozen=True)
class Orpo(PairObjective):
    """Odds ratio preference optimization (Hong et al. 2024, arXiv:2403.07691, eq. 6): the mean -log p of the chosen
    answer's tokens (eq. 3), and `preference_weight` (lambda) times -log sigmoid of the log odds ratio (eq. 7). No
    reference.

    An answer's reward is its log odds (eq. 4), of the mean log-probability of its tokens. The plain loss is a mean over
    each answer, then over pairs, and prompts are not learned; TRL's is one mean over all tokens of a batch, those of the
    prompts included.
    """

    preference_weight: float
    sft_weight: float = 1.0

    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        certain = answers.means.clamp(max=NEARLY_CERTAIN)
        return certain - torch.log(-torch.expm1(certain))

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        return -functional.logsigmoid(margin)


def _mean(values: torch.Tensor, add_up: AddUp) -> float:
    """The mean over all processes' values [n], without gradient."""
    sums = torch.stack([values.detach().double().sum(), torch.full((), len(values), device=values.device).double()])
    add_up([sums])
    return float(sums[0] / sums[1])


def replaced(reference: np.ndarray, units: np.ndarray, found: torch.Tensor) -> np.ndarray:
    """A copy of the reference with what was found of the units."""
    whole = reference.copy()
    whole[units] = found.cpu().numpy()
    return whole


def of_units(reference: np.ndarray, units: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """The reference values of a pass's units."""
    return torch.from_numpy(reference[list(units)]).to(like.device)
