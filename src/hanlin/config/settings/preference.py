"""Settings of preference training: DPO, IPO, ORPO, SimPO, KTO and reference log-probabilities."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.train import ChatSettings, ForwardSettings, Training
from hanlin.core.i18n import tr


class OverlongSettings(ChatSettings):
    """What is done with prompts and answers: how they are rendered, and which are too long."""

    overlong: Literal["drop", "error"] = setting(
        "drop",
        "records whose prompt and answer together are longer than `max_seq_length`: drop them, or stop with an error",
    )


class PairBatchSettings(Settings):
    """The data and the batch of kinds that train on preference pairs."""

    data: tuple[str, ...] = ref("preferences", description="preference pairs to train on", min_length=1)
    batch_pairs: int = setting(32, "pairs of one optimizer step, over all processes", ge=1)


class ReferenceSettings(Settings):
    """The reference model: the model as it is before training, with the adapter of `init_from` if there is one."""

    model: str = ref("model", description="the model to align; it is also the reference")
    reference: str | None = ref(
        "reference_logprobs",
        default=None,
        description="a `reference_logprobs` stage over the same model and data, so that several runs share it; none: "
        "computed "
        "in this stage",
    )


class AlignmentSettings(OverlongSettings, Training):
    """Training on preferences."""

    model: str = ref("model", description="the model to align")
    warmup_ratio: float = setting(0.1, "fraction of the steps used for warmup", ge=0, le=1)


def _check_reference(settings: Dpo | Kto) -> None:
    if settings.reference is not None and settings.init_from is not None:
        raise ValueError(tr("reference is of the model without the adapter of init_from: leave reference out"))


class Dpo(ReferenceSettings, PairBatchSettings, AlignmentSettings):
    """Direct preference optimization, with the model before training as its reference (Rafailov et al. 2023,
    arXiv:2305.18290).
    """

    default_learning_rates = (5e-7, 5e-6)
    loss: Literal["sigmoid", "ipo", "hinge"] = setting(
        "sigmoid",
        "loss of a pair's margin: sigmoid as in DPO; ipo, a square that pulls the margin to a fixed value (Azar et "
        "al. 2023, arXiv:2310.12036); hinge, which leaves pairs with a margin above 1 alone (Zhao et al. 2023, "
        "arXiv:2305.10425)",
        unless_default=True,
    )
    beta: float = setting(0.1, "how strongly the policy is held to the reference", gt=0)
    label_smoothing: float = setting(0.0, "assumed fraction of pairs with swapped labels", ge=0, lt=0.5)
    sft_weight: float = setting(
        0.0,
        "weight of an additional SFT loss on chosen answers, which keeps their probability up (Pang et al. 2024, "
        "arXiv:2404.19733)",
        ge=0,
    )

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        _check_reference(self)
        return self


class Orpo(PairBatchSettings, AlignmentSettings):
    """Odds-ratio preference optimization: SFT on chosen answers and alignment at once, without a reference model (Hong
    et al. 2024, arXiv:2403.07691).
    """

    default_learning_rates = (8e-6, 8e-5)
    orpo_lambda: float = setting(
        0.1,
        "weight of the odds-ratio loss relative to the SFT loss on chosen answers (lambda in eq. 6)",
        gt=0,
    )


class Simpo(PairBatchSettings, AlignmentSettings):
    """Simple preference optimization: an answer's reward is the mean log-probability of its tokens, without a reference
    model (Meng et al. 2024, arXiv:2405.14734).
    """

    default_learning_rates = (6e-7, 6e-6)
    beta: float = setting(2.0, "scale of the rewards (beta in eq. 4)", gt=0)
    gamma: float = setting(
        1.0,
        "target margin between the rewards of chosen and rejected answers (gamma in eq. 5); half of beta is a good "
        "start",
        ge=0,
    )


class Kto(ReferenceSettings, AlignmentSettings):
    """Kahneman-Tversky optimization on single answers labeled good or bad, with the model before training as its
    reference (Ethayarajh et al. 2024, arXiv:2402.01306).
    """

    default_learning_rates = (5e-7, 5e-6)
    data: tuple[str, ...] = ref(
        "unpaired_preferences",
        "preferences",
        description="labeled answers to train on; a preference pair counts as one good and one bad answer",
        min_length=1,
    )
    batch_answers: int = setting(
        32,
        "answers of one optimizer step, over all processes; the reference point is estimated on them",
        ge=2,
    )
    beta: float = setting(0.1, "how strongly the policy is held to the reference", gt=0)
    desirable_weight: float = setting(
        1.0,
        "weight of good answers (lambda_D); times their number, 1 to 1.5 times that of bad answers is advised (eq. 8)",
        gt=0,
    )
    undesirable_weight: float = setting(1.0, "weight of bad answers (lambda_U)", gt=0)

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        _check_reference(self)
        return self


class ReferenceLogprobs(OverlongSettings, ForwardSettings):
    """Log-probabilities of answers under a model before it is aligned: what `dpo` and `kto` use as the reference."""

    model: str = ref("model", description="the model to be aligned")
    data: tuple[str, ...] = ref(
        "preferences", "unpaired_preferences", description="the data that it will be aligned on", min_length=1
    )
    objective: Literal["dpo", "kto"] = setting(
        "dpo",
        "the kind that will use it: dpo needs both answers of pairs, kto single answers, each also after the prompt of "
        "another",
    )
