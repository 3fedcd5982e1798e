"""Settings of the training kinds, composed from groups: batches, what is trained, optimizer, validation, checkpoints.

Batch sizes are those of one optimizer step over all processes. How a step is divided into micro-batches that fit a
device (`micro_batch_tokens`) changes only speed and memory.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.model import LoraSettings
from hanlin.core.i18n import say

LrScheduler = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


class ForwardSettings(Settings):
    """How records are packed and go through a model."""

    max_seq_length: int = setting(
        2048,
        "length of a packed sequence in tokens; whole records are packed into it, and none may be longer",
        "打包序列的长度（词元数）；记录整条装入，单条不得超过此长度",
        ge=8,
    )
    precision: Precision = setting(
        "auto",
        "number format of the computation; auto: bfloat16 if the processor computes it faster, else float32",
        "计算所用的数值格式；auto：处理器计算 bfloat16 更快时用 bfloat16，否则用 float32",
    )
    micro_batch_tokens: int = setting(
        4096,
        "tokens of one micro-batch on one device; fewer need less memory",
        "单个设备上一个微批的词元数；越小越省内存",
        affects_key=False,
        ge=8,
    )
    attention: Literal["auto", "grouped", "varlen", "flex"] = setting(
        "auto",
        "attention within packed documents: grouped (documents of similar length together, any device), varlen "
        "(FlashAttention; NVIDIA GPU, bfloat16) or flex (FlexAttention; GPU); auto: varlen if it runs, else grouped",
        "打包文档内的注意力实现：grouped（长度相近的文档分组计算，任何设备）、varlen（FlashAttention，需 NVIDIA GPU 与 "
        "bfloat16）或 flex（FlexAttention，需 GPU）；auto：能用 varlen 则用，否则用 grouped",
        affects_key=False,
    )


class TrainableSettings(Settings):
    """Which weights are trained."""

    lora: LoraSettings | None = setting(
        None,
        "train a LoRA adapter with these settings; none: train all weights",
        "以这些设置训练 LoRA 适配器；不填则训练全部权重",
    )
    train_last_layers: int | None = setting(
        None,
        "train only this many decoder layers at the end, or put the adapter only there",
        "只训练最后若干个解码层；有适配器时只在这些层加适配器",
        ge=1,
        unless_default=True,
    )
    trainable_tokens: Literal["untrained"] | int | None = setting(
        None,
        "embedding rows to train, together with the adapter or the last layers, or alone; untrained: the rows of "
        "special tokens in the data that were never trained, initialized to the mean of the other rows; a number: "
        "every row from this token id on, such as those that `extend_vocabulary` added",
        "要训练的词表行（嵌入与输出头），可与适配器或最后几层同训，也可单独训练；untrained：数据中的特殊词元里从未训练过"
        "的行，以其余行的均值初始化；填数字：从该词元 id 起的所有行，例如 extend_vocabulary 新增的行",
        unless_default=True,
    )

    @model_validator(mode="after")
    def _check_trainable_tokens(self) -> Self:
        if isinstance(self.trainable_tokens, int) and self.trainable_tokens < 0:
            raise ValueError(say("trainable_tokens is a token id, 0 or more", "trainable_tokens 是词元 id，须不小于 0"))
        if (
            self.trainable_tokens is not None
            and self.lora
            and {"embed_tokens", "lm_head"} & set(self.lora.modules_to_save)
        ):
            raise ValueError(
                say(
                    "trainable_tokens are rows of matrices that lora.modules_to_save trains in full: choose one",
                    "trainable_tokens 所在的矩阵已由 lora.modules_to_save 完整训练，两者只能选一个",
                )
            )
        return self


class OptimizerSettings(Settings):
    """Optimizer, learning-rate schedule and length of a run. The default learning rate depends on `lora`: an adapter
    takes one about ten times that of full training."""

    learning_rate: float | None = setting(
        None,
        "peak learning rate; none: the default of the kind, for an adapter or for full training",
        "学习率峰值；不填则取该类型的默认值（适配器与全参数训练各有默认值）",
        gt=0,
    )
    lr_scheduler: LrScheduler = setting(
        "cosine", "learning-rate schedule after the warmup", "预热之后的学习率调度：余弦、线性或恒定"
    )
    warmup_ratio: float = setting(0.03, "fraction of the steps used for warmup", "预热步数占总步数的比例", ge=0, le=1)
    min_lr_ratio: float = setting(
        0.0,
        "learning rate at the end, as a fraction of its peak",
        "学习率终值与峰值之比",
        ge=0,
        le=1,
    )
    epochs: float = setting(
        1.0, "passes over the data; overridden by `steps`", "训练的轮数；设置了 steps 时以 steps 为准", gt=0
    )
    steps: int | None = setting(
        None,
        "number of optimizer steps, whatever share of the data that is",
        "优化步数，不论相当于多少轮",
        ge=1,
    )
    weight_decay: float = setting(0.0, "decoupled weight decay of the matrices", "矩阵权重的解耦权重衰减", ge=0)
    optimizer: Literal["adamw", "adamw_8bit", "galore", "apollo"] = setting(
        "adamw",
        "adamw; adamw_8bit: its state in 8 bits, paged on a GPU, a quarter of the memory (Dettmers et al. 2022, "
        "arXiv:2110.02861; needs `pip install hanlin[qlora]`); or, for full matrices, AdamW with low-rank state: "
        "galore (Zhao et al. 2024, arXiv:2403.03507) or apollo (Zhu et al. 2024, arXiv:2412.05270)",
        "adamw；adamw_8bit：优化器状态以 8 位存放，GPU 上分页，内存占用约四分之一（Dettmers 等 2022，arXiv:2110.02861；"
        "需 pip install hanlin[qlora]）；训练完整矩阵时还可用低秩状态的 AdamW：galore（Zhao 等 2024，arXiv:2403.03507）"
        "或 apollo（Zhu 等 2024，arXiv:2412.05270）",
        unless_default=True,
    )
    galore_rank: int = setting(
        128,
        "rank of the gradient projection of `galore` and `apollo`",
        "galore 与 apollo 的梯度投影的秩",
        ge=1,
        unless_default=True,
    )
    galore_update_interval: int = setting(
        200,
        "steps between updates of the projection of `galore` and `apollo`",
        "galore 与 apollo 每隔多少步更新一次投影",
        ge=1,
        unless_default=True,
    )
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW's beta1 and beta2", "AdamW 的 beta1 与 beta2")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", "梯度裁剪：梯度范数的上限", gt=0)
    gradient_checkpointing: bool = setting(
        False,
        "recompute activations in the backward pass: less memory, about a third more time",
        "反向传播时重新计算激活：省内存，时间约多三分之一",
        affects_key=False,
    )

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(say("each of betas must be at least 0 and less than 1", "betas 须不小于 0 且小于 1"))
        return self


class ValidationSettings(Settings):
    """What is measured while training runs, and when that ends it."""

    eval_steps: int | None = setting(
        None,
        "steps between measurements of the validation loss, on the data's `validation.jsonl` (`validation_fraction` of "
        "its stage); none: not measured",
        "每隔多少步在数据的 validation.jsonl（由数据阶段的 validation_fraction 留出）上计算一次验证损失；不填则不计算",
        ge=1,
        unless_default=True,
    )
    early_stopping_patience: int | None = setting(
        None,
        "stop after this many measurements in a row without a lower validation loss; none: never",
        "验证损失连续这么多次没有下降即提前停止；不填则不提前停止",
        ge=1,
        unless_default=True,
    )
    save_best: bool = setting(
        False,
        "save the weights with the lowest validation loss instead of the last ones",
        "保存验证损失最低时的权重，而非最后的权重",
        unless_default=True,
    )
    probe_every: int | None = setting(
        None,
        "steps between measurements of the probes, English and arithmetic that the model could do before, which show "
        "forgetting while it happens; none: not measured",
        "每隔多少步测一次探针（模型原本就会的英文与算术），训练中即可发现遗忘；不填则不测",
        ge=1,
        unless_default=True,
    )
    probes: str | None = ref(
        "files",
        default=None,
        en="your own probes, JSON Lines of `topic` with `text`, or with `question` and `answer`; none: packaged ones",
        zh="自备的探针文件（JSON Lines，每行含 topic 与 text，或 topic、question 与 answer）；不填则用内置探针",
    )
    probe_limit: float | None = setting(
        None,
        "stop when the loss per token on the probes of a topic has risen by more than this; none: never",
        "某个主题的探针每词元损失比训练开始时升高超过此值即停止；不填则不停止",
        gt=0,
        unless_default=True,
    )
    report_to: tuple[Literal["tensorboard", "wandb", "swanlab"], ...] = setting(
        (),
        "experiment trackers that get the metrics of every step; each needs its extra (`pip install hanlin[wandb]`)",
        "逐步接收训练指标的实验跟踪工具；各需安装相应的可选依赖（如 pip install hanlin[wandb]）",
        affects_key=False,
    )

    @model_validator(mode="after")
    def _check_measured(self) -> Self:
        if self.eval_steps is None and (self.save_best or self.early_stopping_patience is not None):
            raise ValueError(
                say(
                    "save_best and early_stopping_patience need eval_steps",
                    "设置 save_best 或 early_stopping_patience 时须同时设置 eval_steps",
                )
            )
        if self.probe_every is None and (self.probes is not None or self.probe_limit is not None):
            raise ValueError(
                say("probes and probe_limit need probe_every", "设置 probes 或 probe_limit 时须同时设置 probe_every")
            )
        return self


class CheckpointSettings(Settings):
    """Checkpoints that an interrupted run resumes from."""

    save_every_seconds: float = setting(
        60.0,
        "seconds between checkpoints, from which an interrupted run resumes",
        "保存检查点的间隔秒数；中断后从检查点继续",
        affects_key=False,
        gt=0,
    )
    save_total_limit: int = setting(
        2,
        "checkpoints to keep during a run; a damaged one is detected by its hash, and the one before it is used",
        "训练期间保留的检查点个数；损坏的检查点由哈希值识别，改用上一个",
        affects_key=False,
        ge=1,
    )


class Training(CheckpointSettings, ValidationSettings, OptimizerSettings, TrainableSettings, ForwardSettings):
    """The settings that all training kinds share."""

    default_learning_rates: ClassVar[tuple[float, float]]
    """The default peak learning rate of full training, and of an adapter."""

    @model_validator(mode="after")
    def _check_low_rank(self) -> Self:
        if self.optimizer in ("galore", "apollo") and (
            self.lora is not None or (self.trainable_tokens is not None and self.train_last_layers is None)
        ):
            raise ValueError(
                say(
                    f"{self.optimizer} is for full matrices; use adamw for an adapter or for single embedding rows",
                    f"{self.optimizer} 用于训练完整矩阵；训练适配器或个别词表行请用 adamw",
                )
            )
        return self

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the kind's default for an adapter or for full training."""
        if self.learning_rate is not None:
            return self.learning_rate
        return self.default_learning_rates[self.lora is not None]


class TokenBatchSettings(Settings):
    """The batch of kinds whose optimizer steps are measured in tokens."""

    batch_tokens: int = setting(
        131_072,
        "tokens of one optimizer step, over all processes",
        "每个优化步的词元数（所有进程合计）",
        ge=8,
    )
    neftune_noise_alpha: float = setting(
        0.0,
        "noise on the embeddings during training: NEFTune's alpha (Jain et al. 2023, arXiv:2310.05914); 5 is a good "
        "start",
        "训练时加在词嵌入上的噪声强度，即 NEFTune 的 alpha（Jain 等 2023，arXiv:2310.05914）；可从 5 开始尝试",
        ge=0,
        unless_default=True,
    )


def _check_batch(settings: Pretrain | Sft) -> None:
    if settings.batch_tokens < settings.max_seq_length:
        raise ValueError(
            say("batch_tokens is less than max_seq_length", "batch_tokens 不能小于 max_seq_length"),
        )


class Pretrain(TokenBatchSettings, Training):
    """Next-token training on plain text. Documents are cut into packed sequences without losing a token."""

    default_learning_rates = (2e-5, 2e-4)
    model: str = ref("model", en="the model to train", zh="要训练的模型")
    data: tuple[str, ...] = ref("documents", en="documents to train on", zh="用于训练的文档")
    weight_decay: float = setting(0.1, "decoupled weight decay of the matrices", "矩阵权重的解耦权重衰减", ge=0)

    @model_validator(mode="after")
    def _check_batch_tokens(self) -> Self:
        _check_batch(self)
        return self


class Sft(TokenBatchSettings, Training):
    """Supervised fine-tuning: the loss is on the assistant's turns, including the token that ends a turn."""

    default_learning_rates = (1e-5, 1e-4)
    model: str = ref("model", en="the model to train", zh="要训练的模型")
    data: tuple[str, ...] = ref("conversations", en="conversations to train on", zh="用于训练的对话")
    batch_tokens: int = setting(
        32_768, "tokens of one optimizer step, over all processes", "每个优化步的词元数（所有进程合计）", ge=8
    )
    epochs: float = setting(
        2.0, "passes over the data; overridden by `steps`", "训练的轮数；设置了 steps 时以 steps 为准", gt=0
    )
    template: str | None = setting(
        None,
        "name of a packaged chat template; none: the one in the model's folder",
        "内置对话模板的名称；不填则用模型目录自带的模板",
        resource="template",
    )
    overlong: Literal["truncate_turns", "drop", "error"] = setting(
        "truncate_turns",
        "conversations longer than `max_seq_length`: drop their last turns, drop them, or stop with an error",
        "对话超过 max_seq_length 时：去掉最后几轮、丢弃整条，或报错停止",
    )

    @model_validator(mode="after")
    def _check_batch_tokens(self) -> Self:
        _check_batch(self)
        return self
