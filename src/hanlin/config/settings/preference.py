"""Settings of preference training: DPO, IPO, ORPO, SimPO, KTO and reference log-probabilities."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.train import ForwardSettings, Training


class OverlongSettings(Settings):
    """What is done with prompts and answers that are too long."""

    overlong: Literal["drop", "error"] = setting(
        "drop",
        "records whose prompt and answer together are longer than `max_seq_length`: drop them, or stop with an error",
        "提示与回答合计超过 max_seq_length 的记录：丢弃，或报错停止",
    )


class PairBatchSettings(Settings):
    """The data and the batch of kinds that train on preference pairs."""

    data: tuple[str, ...] = ref("preferences", en="preference pairs to train on", zh="用于训练的偏好对")
    batch_pairs: int = setting(
        32, "pairs of one optimizer step, over all processes", "每个优化步的偏好对数（所有进程合计）", ge=1
    )


class ReferenceSettings(Settings):
    """The reference model: the model as it is before training."""

    model: str = ref("model", en="the model to align; it is also the reference", zh="要对齐的模型，同时也是参考模型")
    reference: str | None = ref(
        "reference_logprobs",
        default=None,
        en="a `reference_logprobs` stage over the same model and data, so that several runs share it; none: computed "
        "in this stage",
        zh="在相同模型与数据上运行的 reference_logprobs 阶段，供多次训练共用；不填则在本阶段计算",
    )


class AlignmentSettings(OverlongSettings, Training):
    """Training on preferences."""

    model: str = ref("model", en="the model to align", zh="要对齐的模型")
    warmup_ratio: float = setting(0.1, "fraction of the steps used for warmup", "预热步数占总步数的比例", ge=0, le=1)


class Dpo(ReferenceSettings, PairBatchSettings, AlignmentSettings):
    """Direct preference optimization, with the model before training as its reference (Rafailov et al. 2023,
    arXiv:2305.18290)."""

    default_learning_rates = (5e-7, 5e-6)
    loss: Literal["sigmoid", "ipo"] = setting(
        "sigmoid",
        "loss of a pair's margin: sigmoid as in DPO, or ipo, a square that pulls the margin to a fixed value (Azar et "
        "al. 2023, arXiv:2310.12036)",
        "由偏好差计算损失的方式：sigmoid 即 DPO 原本的损失；ipo 为平方损失，把差值拉向固定值（Azar 等 2023，"
        "arXiv:2310.12036）",
        unless_default=True,
    )
    beta: float = setting(
        0.1, "how strongly the policy is held to the reference", "约束策略模型不偏离参考模型的强度", gt=0
    )
    label_smoothing: float = setting(
        0.0, "assumed fraction of pairs with swapped labels", "假定标注颠倒的偏好对所占比例", ge=0, lt=0.5
    )
    sft_weight: float = setting(
        0.0,
        "weight of an additional SFT loss on chosen answers, which keeps their probability up (Pang et al. 2024, "
        "arXiv:2404.19733)",
        "在 chosen 回答上附加的 SFT 损失的权重，避免其概率在对齐中下降（Pang 等 2024，arXiv:2404.19733）",
        ge=0,
    )


class Orpo(PairBatchSettings, AlignmentSettings):
    """Odds-ratio preference optimization: SFT on chosen answers and alignment at once, without a reference model (Hong
    et al. 2024, arXiv:2403.07691)."""

    default_learning_rates = (8e-6, 8e-5)
    orpo_lambda: float = setting(
        0.1,
        "weight of the odds-ratio loss relative to the SFT loss on chosen answers (lambda in eq. 6)",
        "优势比损失相对于 chosen 回答 SFT 损失的权重（式 6 的 lambda）",
        gt=0,
    )


class Simpo(PairBatchSettings, AlignmentSettings):
    """Simple preference optimization: an answer's reward is the mean log-probability of its tokens, without a reference
    model (Meng et al. 2024, arXiv:2405.14734)."""

    default_learning_rates = (6e-7, 6e-6)
    beta: float = setting(2.0, "scale of the rewards (beta in eq. 4)", "奖励的缩放系数（式 4 的 beta）", gt=0)
    gamma: float = setting(
        1.0,
        "target margin between the rewards of chosen and rejected answers (gamma in eq. 5); half of beta is a good "
        "start",
        "chosen 与 rejected 回答奖励之差的目标值（式 5 的 gamma）；可从 beta 的一半开始尝试",
        ge=0,
    )


class Kto(ReferenceSettings, AlignmentSettings):
    """Kahneman-Tversky optimization on single answers labeled good or bad, with the model before training as its
    reference (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    default_learning_rates = (5e-7, 5e-6)
    data: tuple[str, ...] = ref(
        "unpaired_preferences",
        "preferences",
        en="labeled answers to train on; a preference pair counts as one good and one bad answer",
        zh="用于训练的带好坏标注的回答；一个偏好对算作一好一坏两个回答",
    )
    batch_answers: int = setting(
        32,
        "answers of one optimizer step, over all processes; the reference point is estimated on them",
        "每个优化步的回答数（所有进程合计）；参照点在其上估计",
        ge=2,
    )
    beta: float = setting(
        0.1, "how strongly the policy is held to the reference", "约束策略模型不偏离参考模型的强度", gt=0
    )
    desirable_weight: float = setting(
        1.0,
        "weight of good answers (lambda_D); times their number, 1 to 1.5 times that of bad answers is advised (eq. 8)",
        "好回答的权重（lambda_D）；乘以好回答的数量后，宜为坏回答的 1 至 1.5 倍（式 8）",
        gt=0,
    )
    undesirable_weight: float = setting(1.0, "weight of bad answers (lambda_U)", "坏回答的权重（lambda_U）", gt=0)


class ReferenceLogprobs(OverlongSettings, ForwardSettings):
    """Log-probabilities of answers under a model before it is aligned: what `dpo` and `kto` use as the reference."""

    model: str = ref("model", en="the model to be aligned", zh="将要对齐的模型")
    data: tuple[str, ...] = ref(
        "preferences", "unpaired_preferences", en="the data that it will be aligned on", zh="将用于对齐的数据"
    )
    objective: Literal["dpo", "kto"] = setting(
        "dpo",
        "the kind that will use it: dpo needs both answers of pairs, kto single answers, each also after the prompt of "
        "another",
        "供哪种训练使用：dpo 需要偏好对的两个回答；kto 需要单个回答，以及各回答接在其他提示之后的情形",
    )
