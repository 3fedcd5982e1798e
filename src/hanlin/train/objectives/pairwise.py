"""What is optimised on preferences, as values: DPO and IPO, ORPO, SimPO over pairs, KTO over single judged answers.

Owns how log-probabilities of answers become rewards, and rewards become a sum of losses. Does not own encoding
(`objectives`), which prompt meets which answer (`mismatched`), or when reference values are computed (`stages`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch.nn import functional

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.compute.model import Network
from hanlin.train.dataset.packed import Pass, Rows
from hanlin.train.objectives.base import AddUp, LossSum

EXACT = 1e-12
"""How near a first loss has to be whose reference was measured in the same passes: sums of float64 alone differ."""
NEAR = 1e-3
"""And where the same pass may give other numbers the next time."""
ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
"""And where it was measured in others, with a `beta` of 0.1 or less; a greater one magnifies what is rounded."""
NEARLY_CERTAIN = -1e-6
"""Mean log-probabilities count as at most this: the odds of a certain answer are infinite."""


class Answers(NamedTuple):
    """Summed log-probabilities of answers and the tokens that each has, both of one shape: [pairs, 2] with the chosen
    answer first, or [answers]. They are float64: a sum over a long answer is some thousands, where float32 has steps of
    half a thousandth, and what counts is how little it differs from the reference."""

    sums: torch.Tensor
    lengths: torch.Tensor

    @property
    def means(self) -> torch.Tensor:
        return self.sums / self.lengths


def answer_log_probabilities(network: Network, batch: Pass) -> Answers:
    """Summed log-probabilities of the learnt tokens of each of a pass's examples, float64 [examples]."""
    found = network.token_log_probabilities(batch).double()
    sums = torch.stack([part.sum() for part in found.split(list(batch.counts))])
    return Answers(sums, torch.tensor(batch.counts, dtype=sums.dtype, device=sums.device))


def pair_log_probabilities(network: Network, batch: Pass) -> Answers:
    """The same of pairs, [pairs, 2]."""
    found = answer_log_probabilities(network, batch)
    return Answers(found.sums.view(-1, 2), found.lengths.view(-1, 2))


@torch.no_grad()
def measured(network: Network, rows: Rows, units: Sequence[int] | np.ndarray, pass_tokens: int) -> Answers:
    """The same of all answers of these units, [units, answers of a unit]; dropout is off, nothing is learnt."""
    place = {int(unit): number for number, unit in enumerate(units)}
    sums = torch.zeros((len(place), rows.encoded.width), dtype=torch.float64, device=network.device)
    lengths = torch.ones_like(sums)
    training = network.model.training
    network.model.eval()
    for batch in network.passes(rows, units, pass_tokens):
        found = answer_log_probabilities(network, batch)
        places = [place[unit] for unit in batch.units]
        sums[places], lengths[places] = found.sums.view(len(places), -1), found.lengths.view(len(places), -1)
    network.model.train(training)
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


class PairObjective(ABC):
    """What the objectives over pairs share: every answer has a reward, every pair a loss of its two rewards' difference
    (the margin), and the weight is the pairs.

    The loss of a pair is `preference_weight` times that, and `chosen_weight` times the mean -log p of the chosen
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
    chosen_weight: float = 0.0

    @abstractmethod
    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        """The reward of each answer, [pairs, 2]."""

    @abstractmethod
    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        """The loss of each pair whose chosen answer's reward is greater by `margin` [pairs]."""

    def of_step(self, network: Network, units: np.ndarray, pass_tokens: int, add_up: AddUp) -> Self:
        return self

    def at_start(self, network: Network, rows: Rows, units: np.ndarray, pass_tokens: int, add_up: AddUp) -> Self:
        return self

    def loss(self, network: Network, batch: Pass) -> LossSum:
        answers = pair_log_probabilities(network, batch)
        rewards = self.rewards(answers, batch.units)
        margin = rewards[:, 0] - rewards[:, 1]
        losses = self.losses(margin)
        preference = losses.detach().sum()
        if self.preference_weight != 1:
            losses = losses * self.preference_weight
        if self.chosen_weight:
            losses = losses - self.chosen_weight * answers.means[:, 0]
        known = rewards.detach()
        sums = (preference, (margin > 0).sum(), margin.detach().sum(), known[:, 0].sum(), known[:, 1].sum())
        return LossSum(losses.sum(), float(len(batch.units)), dict(zip(self.measures, sums, strict=True)))

    @property
    def start(self) -> Start | None:
        """What the first preference loss has to be; without a reference, any finite one may be the first."""
        return None

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        if self.start is not None:
            self.start.check(means["preference_loss"], EXACT if exact else NEAR)


@dataclass(frozen=True)
class Dpo(PairObjective):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, eq. 7).

    `reference` [pairs, 2] holds the summed log-probabilities of the chosen and the rejected answer under the model as
    it was at the start. `label_smoothing` is the share of pairs assumed to be labelled the wrong way round (Mitchell
    2023, "A note on DPO with noisy preferences"). `chosen_weight` adds the mean -log p of a chosen answer's tokens, so
    that aligning does not unlearn it (Pang et al. 2024, arXiv:2404.19733, eq. 1).
    """

    beta: float
    label_smoothing: float
    reference: np.ndarray
    chosen_weight: float = 0.0

    def at_start(self, network: Network, rows: Rows, units: np.ndarray, pass_tokens: int, add_up: AddUp) -> Self:
        """With the reference of these units measured once more, in the passes that learn from them: products of other
        shapes round otherwise, and a policy that equals its reference starts where it must, to the last bit. What was
        measured before has to be the same but for such rounding."""
        found = measured(network, rows, units, pass_tokens)
        rewards = self.rewards(found, tuple(units))
        self.start.check(_mean(self.losses(rewards[:, 0] - rewards[:, 1]), add_up), _rounded(network, self.beta))
        return replace(self, reference=_replaced(self.reference, units, found.sums))

    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        return self.beta * (answers.sums - _of_units(self.reference, units, answers.sums))

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        losses = self.curve(margin) * (1 - self.label_smoothing)
        if self.label_smoothing:
            losses = losses + self.curve(-margin) * self.label_smoothing
        return losses

    def curve(self, margin: torch.Tensor) -> torch.Tensor:
        """The loss of a pair that is surely labelled the right way round."""
        return -functional.logsigmoid(margin)

    @property
    def start(self) -> Start:
        """Every margin is 0 at the start, whatever share of labels is mistrusted."""
        return Start(math.log(2), "log 2")


@dataclass(frozen=True)
class Ipo(Dpo):
    """Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036, eq. 17, whose tau is `beta`): the margin is
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
    """Simple preference optimisation (Meng et al. 2024, arXiv:2405.14734, eq. 6): an answer's reward is `beta` times
    the mean log-probability of its tokens (eq. 4), and is to be greater by `gamma` (eq. 5). No reference."""

    beta: float
    gamma: float

    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        return self.beta * answers.means

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        return -functional.logsigmoid(margin - self.gamma)


@dataclass(frozen=True)
class Orpo(PairObjective):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv:2403.07691, eq. 6): the mean -log p of the chosen
    answer's tokens (eq. 3), and `preference_weight` (lambda) times -log sigmoid of the log odds ratio (eq. 7). No
    reference.

    An answer's reward is its log odds (eq. 4), of the mean log-probability of its tokens. The plain loss is a mean over
    each answer, then over pairs, and prompts are not learnt; TRL's is one mean over all tokens of a batch, those of the
    prompts included.
    """

    preference_weight: float
    chosen_weight: float = 1.0

    def rewards(self, answers: Answers, units: tuple[int, ...]) -> torch.Tensor:
        certain = answers.means.clamp(max=NEARLY_CERTAIN)
        return certain - torch.log(-torch.expm1(certain))

    def losses(self, margin: torch.Tensor) -> torch.Tensor:
        return -functional.logsigmoid(margin)


START_OF_KTO = Start(0.5, "1/2")


@dataclass(frozen=True)
class Kto:
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7) of single answers that are known
    to be good or bad; the weight is the answers.

    An answer's log-ratio to the reference is compared with a reference point, the policy's divergence from its
    reference: a good answer loses 1 - sigmoid(beta (ratio - point)), a bad one 1 - sigmoid(beta (point - ratio)), times
    `good_weight` or `bad_weight` (lambda_D and lambda_U).

    The reference point is estimated as in TRL's `KTOTrainer`: the mean log-ratio of prompts followed by other prompts'
    answers, 0 where it is negative, without gradient. TRL takes the mean over each micro-batch of all processes, so it
    changes with how a step is divided. Here it is the mean over all answers of the step, measured in a first pass with
    the weights that the step begins with (`of_step`), and the same for every part of it.

    `good` [answers] are the verdicts. `mismatched` are the answers' prompts with other answers (`Mismatched`), in the
    same order. `reference` [answers, 2] holds the summed log-probabilities of answer and mismatched answer under the
    model as it was at the start.
    """

    beta: float
    good_weight: float
    bad_weight: float
    good: np.ndarray
    reference: np.ndarray
    mismatched: Rows
    point: float = 0.0
    weighs: ClassVar[str] = "answers"
    measures: ClassVar[tuple[str, ...]] = ("preference_loss", "accuracy", "margin", "reference_point")

    def of_step(self, network: Network, units: np.ndarray, pass_tokens: int, add_up: AddUp) -> Self:
        """With the reference point of the step. Dropout is off while it is measured."""
        return self._with_point(measured(network, self.mismatched, units, pass_tokens).sums[:, 0], units, add_up)

    def at_start(self, network: Network, rows: Rows, units: np.ndarray, pass_tokens: int, add_up: AddUp) -> Self:
        """As `Dpo.at_start` has it; the reference point is measured too."""
        answers, others = (measured(network, of, units, pass_tokens).sums[:, 0] for of in (rows, self.mismatched))
        given = self._with_point(others, units, add_up)
        as_good = torch.sigmoid(-given._gains(answers, tuple(units)))  # of good and bad ones, deviations might cancel
        START_OF_KTO.check(_mean(as_good, add_up), _rounded(network, self.beta))
        reference = _replaced(self.reference, units, torch.stack([answers, others], -1))
        return replace(self, reference=reference, point=0.0)

    def _with_point(self, others: torch.Tensor, units: np.ndarray, add_up: AddUp) -> Self:
        """With the reference point of these units' mismatched answers, whose log-probabilities are `others` [units]."""
        ratios = others - _of_units(self.reference[:, 1], tuple(units), others)
        return replace(self, point=max(0.0, _mean(ratios, add_up)))

    def _gains(self, found: torch.Tensor, units: tuple[int, ...]) -> torch.Tensor:
        """`beta` times what the log-ratio of each answer has over the reference point [answers]."""
        return self.beta * (found - _of_units(self.reference[:, 0], units, found) - self.point)

    def loss(self, network: Network, batch: Pass) -> LossSum:
        gain = self._gains(answer_log_probabilities(network, batch).sums, batch.units)
        good = torch.from_numpy(self.good[list(batch.units)]).to(gain.device)
        margin = torch.where(good, gain, -gain)
        losses = torch.sigmoid(-margin)  # 1 - sigmoid(margin), without its rounding
        preference = losses.detach().sum()
        losses = losses * torch.where(good, self.good_weight, self.bad_weight)
        answers = float(len(batch.units))
        sums = (preference, (margin > 0).sum(), margin.detach().sum(), torch.tensor(self.point * answers))
        return LossSum(losses.sum(), answers, dict(zip(self.measures, sums, strict=True)))

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        """Every log-ratio and the reference point are 0 at the start; weights are left out of `preference_loss`."""
        START_OF_KTO.check(means["preference_loss"], EXACT if exact else NEAR)


def _rounded(network: Network, beta: float) -> float:
    """How near the first loss has to be whose reference was measured in other passes."""
    return ROUNDED[network.dtype] * max(1.0, 10 * beta)


def _mean(values: torch.Tensor, add_up: AddUp) -> float:
    """The mean over all processes' values [n], without gradient."""
    sums = torch.stack([values.detach().double().sum(), torch.full((), len(values), device=values.device).double()])
    add_up([sums])
    return float(sums[0] / sums[1])


def _replaced(reference: np.ndarray, units: np.ndarray, found: torch.Tensor) -> np.ndarray:
    """A copy of the reference with what was found of the units."""
    whole = reference.copy()
    whole[units] = found.cpu().numpy()
    return whole


def _of_units(reference: np.ndarray, units: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """The reference values of a pass's units."""
    return torch.from_numpy(reference[list(units)]).to(like.device)
