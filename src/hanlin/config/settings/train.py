"""Settings of the training kinds: what is optimized, for how long, in what portions, and what is trained.

Portions are given as what one optimizer step learns from over all processes together; how it is divided into passes
that fit a device (`micro_batch_tokens`) changes only speed and memory.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.model import LoraSettings
from hanlin.core.i18n import say

Curve = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


class Passes(Settings):
    """How examples go through a model."""

    max_seq_length: int = setting(
        2048,
        "tokens of a row: whole records are packed into rows of this length, none is longer",
        "一行的词元数：记录整条装入这样长的行，单条不得更长",
        ge=8,
    )
    precision: Precision = setting(
        "auto",
        "number format of the arithmetic; auto: bfloat16 where the processor multiplies it faster",
        "计算所用数值格式；auto：处理器计算 bfloat16 更快则用之",
    )
    micro_batch_tokens: int = setting(
        4096,
        "tokens that go through the model at once on one device; fewer need less memory",
        "单个设备一次通过模型的词元数；越小越省内存",
        affects_key=False,
        ge=8,
    )
    attention: Literal["auto", "grouped", "varlen", "flex"] = setting(
        "auto",
        "how tokens attend within their document: documents of like length in groups (any device), FlashAttention over "
        "documents of any length (NVIDIA GPU, bfloat16), or FlexAttention (GPU); auto: FlashAttention where it runs",
        "文档内注意力的实现：按相近长度分组（任何设备）、变长 FlashAttention（NVIDIA GPU，bfloat16）"
        "或 FlexAttention（GPU）；auto：能用 FlashAttention 则用之",
        affects_key=False,
    )


class Training(Passes):
    """What the training kinds share. A full-weight run and an adapter want learning rates an order of magnitude apart,
    so the default rate depends on `lora`."""

    rates: ClassVar[tuple[float, float]]
    """The default peak rate for all weights, and for an adapter."""

    lora: LoraSettings | None = setting(
        None, "train an adapter of this form; none: train all weights", "只训练这样的适配器；不填则训练全部权重"
    )
    train_last_layers: int | None = setting(
        None,
        "only the last so many decoder blocks are trained, or get an adapter",
        "只训练最后这么多个解码层（有适配器则只在这些层加适配器）",
        ge=1,
        unless_default=True,
    )
    trainable_tokens: Literal["untrained"] | int | None = setting(
        None,
        "rows of the vocabulary that are trained, beside the adapter or the last layers, or alone: `untrained` are "
        "those that the data's special tokens need and that nobody has trained, which start as the mean of the others; "
        "a number: every row from this id on, such as those that `extend_vocabulary` added",
        "训练词表中的这些行（与适配器或最后几层同训；二者皆无则只训练它们）："
        "untrained 为数据中特殊词元所需而从未训练过的行，"
        "以其余行的均值为初值；填数字则为从该编号起的所有行，例如 extend_vocabulary 新增的行",
        unless_default=True,
    )
    learning_rate: float | None = setting(
        None,
        "peak learning rate; none: the kind's default for an adapter or for all weights",
        "峰值学习率；不填则按适配器或全部权重取该类型的默认值",
        gt=0,
    )
    lr_scheduler: Curve = setting(
        "cosine", "how the learning rate falls after the warm-up", "预热之后学习率的下降方式：余弦、线性或不变"
    )
    warmup_ratio: float = setting(
        0.03, "share of the steps in which the learning rate rises", "学习率上升阶段占总步数的比例", ge=0, le=1
    )
    min_lr_ratio: float = setting(
        0.0, "where the learning rate ends, as a share of its peak", "学习率终值与峰值之比", ge=0, le=1
    )
    epochs: float = setting(
        1.0, "how often the data is seen; `steps` overrides it", "数据看几遍；设了 steps 则不计", gt=0
    )
    steps: int | None = setting(
        None,
        "exactly so many optimizer steps, whatever part of the data that is",
        "恰好训练这么多步，不论合多少遍",
        ge=1,
    )
    weight_decay: float = setting(0.0, "decoupled decay of the matrices", "矩阵权重的解耦衰减", ge=0)
    optimizer: Literal["adamw", "adamw_8bit", "galore", "apollo"] = setting(
        "adamw",
        "AdamW; AdamW with its averages in 8 bits, paged on a GPU (Dettmers et al. 2022, arXiv:2110.02861): "
        "a quarter of their memory, needs `pip install hanlin[qlora]`; or, to train whole matrices, AdamW with "
        "averages of low rank: `galore` (Zhao et al. 2024, arXiv:2403.03507) or `apollo` (Zhu et al. 2024, "
        "arXiv:2412.05270)",
        "AdamW；滑动平均以 8 比特存放的 AdamW（GPU 上分页，占用为四分之一，需 pip install hanlin[qlora]）；"
        "或训练完整矩阵时滑动平均为低秩的 AdamW：galore 或 apollo",
        unless_default=True,
    )
    galore_rank: int = setting(
        128,
        "directions through which `galore` and `apollo` see a matrix's gradient",
        "galore 与 apollo 用多少个方向观察矩阵的梯度",
        ge=1,
        unless_default=True,
    )
    galore_update_interval: int = setting(
        200,
        "steps after which `galore` and `apollo` choose new directions",
        "galore 与 apollo 每隔多少步重选方向",
        ge=1,
        unless_default=True,
    )
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW's two averages", "AdamW 的两个滑动平均系数")
    max_grad_norm: float = setting(1.0, "longer gradients are shortened to this", "梯度范数超过此值即缩短", gt=0)
    gradient_checkpointing: bool = setting(
        False,
        "compute activations again instead of keeping them: less memory, a third more time",
        "反向时重算激活：省内存，多用约三分之一时间",
        affects_key=False,
    )
    eval_steps: int | None = setting(
        None,
        "steps between measurements of the loss on the data's `validation.jsonl` (`validation_fraction` of its stage); "
        "none: it is not measured",
        "每隔多少步在数据的 validation.jsonl（由数据阶段的 validation_fraction 留出）上测一次损失；不填则不测",
        ge=1,
        unless_default=True,
    )
    early_stopping_patience: int | None = setting(
        None,
        "measurements in a row without a smaller held-out loss after which training stops; none: it never does",
        "留出损失连续多少次测量没有下降即提前停止；不填则不提前停止",
        ge=1,
        unless_default=True,
    )
    save_best: bool = setting(
        False,
        "the weights with the smallest held-out loss are saved, not the last",
        "保存留出损失最小时的权重，而非最后的权重",
        unless_default=True,
    )
    probe_every: int | None = setting(
        None,
        "steps between measurements of the probes: English and arithmetic that the model knew before, so that "
        "forgetting is seen while it happens; none: they are not measured",
        "每隔多少步测一次探针（模型原本会的英文与算术），训练中即可看到遗忘；不填则不测",
        ge=1,
        unless_default=True,
    )
    probes: str | None = ref(
        "files",
        default=None,
        en="your own probes: JSON Lines of `topic` with `text`, or with `question` and `answer`; none: packaged ones",
        zh="自备的探针（JSON Lines，每行含 topic 与 text，或 topic、question 与 answer）；不填则用内置的",
    )
    probe_limit: float | None = setting(
        None,
        "training stops when the loss a token on a topic's probes has grown by more than this; none: it never does",
        "某一主题探针的每词元损失比开始时升高超过此值即停止训练；不填则不停止",
        gt=0,
        unless_default=True,
    )
    report_to: tuple[Literal["tensorboard", "wandb", "swanlab"], ...] = setting(
        (),
        "programs that are told every step while it happens; each needs its extra (`pip install hanlin[wandb]`)",
        "训练中逐步接收指标的程序；须安装相应附加包（如 pip install hanlin[wandb]）",
        affects_key=False,
    )
    save_every_seconds: float = setting(
        60.0,
        "time between checkpoints that a killed run goes on from",
        "断点续训检查点的间隔秒数",
        affects_key=False,
        gt=0,
    )
    save_total_limit: int = setting(
        2,
        "checkpoints that are kept while a run lasts; a damaged one is told by its hash, and the one before taken",
        "训练期间保留的检查点个数；损坏者由哈希识别，改用前一个",
        affects_key=False,
        ge=1,
    )

    @model_validator(mode="after")
    def _betas_are_shares(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(say("betas lie between 0 and 1", "betas 须在 0 与 1 之间"))
        return self

    @model_validator(mode="after")
    def _what_is_best_is_measured(self) -> Self:
        if self.eval_steps is None and (self.save_best or self.early_stopping_patience is not None):
            raise ValueError(
                say(
                    "save_best and early_stopping_patience need eval_steps",
                    "save_best 与 early_stopping_patience 须与 eval_steps 同设",
                )
            )
        if self.probe_every is None and (self.probes is not None or self.probe_limit is not None):
            raise ValueError(
                say("probes and probe_limit need probe_every", "probes 与 probe_limit 须与 probe_every 同设")
            )
        return self

    @model_validator(mode="after")
    def _low_rank_averages_are_of_whole_matrices(self) -> Self:
        if self.optimizer in ("galore", "apollo") and (
            self.lora is not None or (self.trainable_tokens is not None and self.train_last_layers is None)
        ):
            raise ValueError(
                say(
                    f"{self.optimizer} is for training whole matrices; an adapter or single rows need adamw",
                    f"{self.optimizer} 用于训练完整矩阵；适配器或单独的词表行请用 adamw",
                )
            )
        return self

    @model_validator(mode="after")
    def _rows_are_trained_once(self) -> Self:
        if isinstance(self.trainable_tokens, int) and self.trainable_tokens < 0:
            raise ValueError(say("trainable_tokens is an id, 0 or greater", "trainable_tokens 为词元编号，须不小于 0"))
        if (
            self.trainable_tokens is not None
            and self.lora
            and {"embed_tokens", "lm_head"} & set(self.lora.modules_to_save)
        ):
            raise ValueError(
                say(
                    "trainable_tokens are rows of matrices that lora.modules_to_save trains whole: choose one of the two",
                    "trainable_tokens 所在的矩阵已由 lora.modules_to_save 完整训练：二者只能选一",
                )
            )
        return self

    @property
    def peak_rate(self) -> float:
        """`learning_rate`, or the kind's default for what is trained."""
        return self.learning_rate if self.learning_rate is not None else self.rates[self.lora is not None]


class _TokenPortions(Training):
    """Training whose steps are measured in tokens."""

    batch_tokens: int = setting(
        131_072, "tokens of one optimizer step, over all processes", "每个优化步的词元数（所有进程合计）", ge=8
    )
    neftune_noise_alpha: float = setting(
        0.0,
        "noise on the embeddings in training, NEFTune's alpha (Jain et al. 2023, arXiv:2310.05914; 5 is a good start)",
        "训练时加在词嵌入上的噪声，即 NEFTune 的 alpha（可从 5 开始）",
        ge=0,
        unless_default=True,
    )

    @model_validator(mode="after")
    def _a_step_holds_a_row(self) -> Self:
        if self.batch_tokens < self.max_seq_length:
            raise ValueError(say("batch_tokens is less than max_seq_length", "batch_tokens 小于 max_seq_length"))
        return self


class Pretrain(_TokenPortions):
    """Next-token training on plain text. Documents are cut into rows without losing a token."""

    rates = (2e-5, 2e-4)
    model: str = ref("model", en="the model to train", zh="要训练的模型")
    data: tuple[str, ...] = ref("documents", en="documents to learn", zh="要学习的文档")
    weight_decay: float = setting(0.1, "decoupled decay of the matrices", "矩阵权重的解耦衰减", ge=0)


class Sft(_TokenPortions):
    """Next-token training on the assistant's turns of conversations, end of turn included."""

    rates = (1e-5, 1e-4)
    model: str = ref("model", en="the model to train", zh="要训练的模型")
    data: tuple[str, ...] = ref("conversations", en="conversations to learn", zh="要学习的对话")
    batch_tokens: int = setting(
        32_768, "tokens of one optimizer step, over all processes", "每个优化步的词元数（所有进程合计）", ge=8
    )
    epochs: float = setting(
        2.0, "how often the data is seen; `steps` overrides it", "数据看几遍；设了 steps 则不计", gt=0
    )
    template: str | None = setting(
        None,
        "chat template by name; none: the one that the model's folder brings",
        "对话模板名；不填则用模型目录自带的模板",
        resource="template",
    )
    overlong: Literal["truncate_turns", "drop", "error"] = setting(
        "truncate_turns",
        "what is done with a conversation longer than a row: its last turns are left out, it is dropped and counted, "
        "or the run stops",
        "对话超过一行时：去掉最后几轮、丢弃并计数，或停止运行",
    )
