"""Settings of preference training: DPO, IPO, ORPO, SimPO, KTO and reference log-probabilities."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.train import Passes, Training


class _Answers(Settings):
    """What is read of a model and of answers that are preferred or judged."""

    overlong: Literal["drop", "error"] = setting(
        "drop",
        "what is done with a record that has an answer which, with its prompt, is longer than a row: it is dropped and "
        "counted, or the run stops",
        "记录中提示加回答超过一行时：丢弃并计数，或停止运行",
    )


class _Aligning(_Answers, Training):
    """Training on preferences."""

    model: str = ref("model", en="the model to align", zh="要对齐的模型")
    warmup_ratio: float = setting(
        0.1, "share of the steps in which the learning rate rises", "学习率上升阶段占总步数的比例", ge=0, le=1
    )


class _PairPortions(_Aligning):
    """Training whose steps are measured in pairs of a better and a worse answer."""

    data: tuple[str, ...] = ref("preferences", en="preference pairs to learn", zh="要学习的偏好对")
    batch_pairs: int = setting(
        32, "pairs of one optimizer step, over all processes", "每个优化步的偏好对数（所有进程合计）", ge=1
    )


class _AligningFromReference(_Aligning):
    """Training that compares the model with what it was at the start."""

    model: str = ref("model", en="the model to align; it is its own reference", zh="要对齐的模型（同时是参考模型）")
    reference: str | None = ref(
        "reference_logprobs",
        default=None,
        en="a stage of kind `reference_logprobs` over the same model and data, so that several runs compute it once; "
        "none: it is computed here",
        zh="在相同模型与数据上的 reference_logprobs 阶段，供设置不同的多次运行共用；不填则在本阶段计算",
    )


class Dpo(_AligningFromReference, _PairPortions):
    """Direct preference optimization against the model as it was at the start (Rafailov et al. 2023,
    arXiv:2305.18290)."""

    rates = (5e-7, 5e-6)
    loss: Literal["sigmoid", "ipo"] = setting(
        "sigmoid",
        "what is made of a pair's margin: DPO's own sigmoid, or IPO's square, which draws it to a fixed distance "
        "(Azar et al. 2023, arXiv:2310.12036)",
        "由偏好差得到损失的方式：DPO 原本的 sigmoid，或 IPO 的平方（把差拉向固定距离）",
        unless_default=True,
    )
    beta: float = setting(0.1, "how strongly the policy is held to its reference", "约束策略不偏离参考模型的强度", gt=0)
    label_smoothing: float = setting(
        0.0, "share of pairs that are taken to be labeled the wrong way round", "假定标反的偏好对比例", ge=0, lt=0.5
    )
    sft_weight: float = setting(
        0.0,
        "weight of the plain loss on chosen answers, so that aligning does not unlearn them "
        "(Pang et al. 2024, arXiv:2404.19733)",
        "在选中回答上附加的语言模型损失权重，避免对齐时遗忘",
        ge=0,
    )


class Orpo(_PairPortions):
    """Odds ratio preference optimization: chosen answers are learned, and made likelier than rejected ones, at once and
    without a reference (Hong et al. 2024, arXiv:2403.07691)."""

    rates = (8e-6, 8e-5)
    orpo_lambda: float = setting(
        0.1,
        "weight of the odds ratio beside the plain loss on chosen answers (lambda in eq. 6)",
        "优势比损失相对于选中回答语言模型损失的权重（式 6 的 lambda）",
        gt=0,
    )


class Simpo(_PairPortions):
    """Simple preference optimization: the mean log-probability of an answer's tokens is its reward, without a reference
    (Meng et al. 2024, arXiv:2405.14734)."""

    rates = (6e-7, 6e-6)
    beta: float = setting(2.0, "scale of the rewards (beta in eq. 4)", "奖励的缩放系数（式 4 的 beta）", gt=0)
    gamma: float = setting(
        1.0,
        "by how much the chosen answer's reward is to be greater (gamma in eq. 5); half of beta is a good start",
        "选中回答的奖励应高出多少（式 5 的 gamma）；可从 beta 的一半开始",
        ge=0,
    )


class Kto(_AligningFromReference):
    """Kahneman-Tversky optimization of single answers known to be good or bad, against the model as it was at the start
    (Ethayarajh et al. 2024, arXiv:2402.01306)."""

    rates = (5e-7, 5e-6)
    data: tuple[str, ...] = ref(
        "unpaired_preferences",
        "preferences",
        en="judged answers to learn; a preference pair counts as a good and a bad one",
        zh="要学习的带评判回答；一个偏好对算作一好一坏两个回答",
    )
    batch_answers: int = setting(
        32,
        "answers of one optimizer step, over all processes; the reference point is a mean over them",
        "每个优化步的回答数（所有进程合计）；参照点为其均值",
        ge=2,
    )
    beta: float = setting(0.1, "how strongly the policy is held to its reference", "约束策略不偏离参考模型的强度", gt=0)
    desirable_weight: float = setting(
        1.0,
        "weight of good answers (lambda_D); times their number, it should be 1 to 1.5 times that of bad ones (eq. 8)",
        "好回答的权重（lambda_D）；乘以其数量后宜为坏回答的 1 至 1.5 倍（式 8）",
        gt=0,
    )
    undesirable_weight: float = setting(1.0, "weight of bad answers (lambda_U)", "坏回答的权重（lambda_U）", gt=0)


class ReferenceLogprobs(_Answers, Passes):
    """Log-probabilities of answers under a model before it is aligned, which `dpo` and `kto` measure it against."""

    model: str = ref("model", en="the model that is to be aligned", zh="将要对齐的模型")
    data: tuple[str, ...] = ref(
        "preferences", "unpaired_preferences", en="the answers that are to be learned from", zh="将要学习的回答"
    )
    objective: Literal["dpo", "kto"] = setting(
        "dpo",
        "what it is for: `dpo` asks for both answers of pairs, `kto` for single answers, each of them also "
        "behind another prompt",
        "用途：dpo 需要偏好对的两个回答；kto 需要单个回答，以及接在别的提示之后的回答",
    )
