"""Settings of the training kinds, composed from groups: batches, what is trained, optimizer, validation, checkpoints.

Batch sizes are those of one optimizer step over all processes. How a step is divided into micro-batches that fit a
device (`micro_batch_tokens`) changes only speed and memory.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.model import LoraSettings
from hanlin.core.i18n import tr

LrScheduler = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "float32", "bfloat16"]


class ForwardSettings(Settings):
    """How records are packed and go through a model."""

    max_seq_length: int = setting(
        2048,
        "length of a packed sequence in tokens; whole records are packed into it, and none may be longer",
        ge=8,
    )
    precision: Precision = setting(
        "auto",
        "number format of the computation; auto: bfloat16 if the processor computes it faster, else float32",
    )
    micro_batch_tokens: int = setting(
        4096,
        "tokens of one micro-batch on one device; fewer need less memory",
        affects_key=False,
        ge=8,
    )
    attention: Literal["auto", "grouped", "varlen", "flex"] = setting(
        "auto",
        "attention within packed documents: grouped (documents of similar length together, any device), varlen "
        "(FlashAttention; NVIDIA GPU, bfloat16) or flex (FlexAttention; GPU); auto: varlen if it runs, else grouped",
        affects_key=False,
    )


class ChatSettings(Settings):
    """How conversations and answers go through the chat template."""

    reasoning: Literal["learn", "read", "drop"] = setting(
        "learn",
        "the reasoning of an answer: learn it, only read it (the loss begins with the answer behind it), or drop it "
        "(answers are learned without it, thinking turned off where the template has a switch for it)",
        unless_default=True,
    )
    past_reasoning: Literal["template", "keep", "strip"] = setting(
        "template",
        "the reasoning of answers before the last question: as the chat template does it, keep it or strip it; the "
        "template that is saved with the model does the same. If it is stripped, a conversation with several such "
        "answers becomes several examples, each with the prompt that is served",
        unless_default=True,
    )
    on_refused: Literal["drop", "error"] = setting(
        "drop",
        "records that the chat template has no form for (tools, say): drop them, counted and reported by reason, or "
        "stop with an error",
        unless_default=True,
    )


class TrainableSettings(Settings):
    """Which weights are trained."""

    lora: LoraSettings | None = setting(
        None,
        "train a LoRA adapter with these settings; none: train all weights",
    )
    init_from: str | None = ref(
        "adapter",
        default=None,
        description="an adapter of the same `model` to go on training, with `lora` as it was for that one; none: a new "
        "adapter. To go on from a model that was trained as a whole, name it as `model`",
    )
    train_last_layers: int | None = setting(
        None,
        "train only this many decoder layers at the end, or put the adapter only there",
        ge=1,
        unless_default=True,
    )
    train_blocks: Literal["new"] | None = setting(
        None,
        "new: train only the decoder blocks that `expand_blocks` added, or put the adapter only there",
        unless_default=True,
    )
    trainable_tokens: Literal["untrained"] | int | None = setting(
        None,
        "embedding rows to train, together with the adapter or the chosen layers, or alone; untrained: the rows of "
        "special tokens in the data that were never trained, initialized to the mean of the other rows; a number: "
        "every row from this token id on, such as those that `extend_vocabulary` added",
        unless_default=True,
    )

    @model_validator(mode="after")
    def _check_init_from(self) -> Self:
        if self.init_from is not None and self.lora is None:
            raise ValueError(tr("init_from goes on training an adapter: set lora as it was for that one"))
        if self.init_from is not None and self.lora is not None and self.lora.init != "zero":
            raise ValueError(tr("lora.init is for a new adapter, init_from takes the weights of another: choose one"))
        return self

    @model_validator(mode="after")
    def _check_dora(self) -> Self:
        if self.lora is not None and self.lora.dora and self.lora.dropout:
            raise ValueError(tr("DoRA is not supported with dropout"))
        return self

    @property
    def trains_some_blocks(self) -> bool:
        """Whether some decoder blocks are trained, or get the adapter, and others do not."""
        return self.train_last_layers is not None or self.train_blocks is not None

    @model_validator(mode="after")
    def _check_blocks(self) -> Self:
        if self.train_last_layers is not None and self.train_blocks is not None:
            raise ValueError(tr("train_last_layers and train_blocks both say which blocks are trained: choose one"))
        return self

    @model_validator(mode="after")
    def _check_trainable_tokens(self) -> Self:
        if isinstance(self.trainable_tokens, int) and self.trainable_tokens < 0:
            raise ValueError(tr("trainable_tokens is a token id, 0 or more"))
        if (
            self.trainable_tokens is not None
            and self.lora
            and {"embed_tokens", "lm_head"} & set(self.lora.modules_to_save)
        ):
            raise ValueError(
                tr("trainable_tokens are rows of matrices that lora.modules_to_save trains in full: choose one")
            )
        return self


class OptimizerSettings(Settings):
    """Optimizer, learning-rate schedule and length of a run. The default learning rate depends on `lora`: an adapter
    takes one about ten times that of full training.
    """

    learning_rate: float | None = setting(
        None,
        "peak learning rate; none: the default of the kind, for an adapter or for full training",
        gt=0,
    )
    lr_scheduler: LrScheduler = setting("cosine", "learning-rate schedule after the warmup")
    warmup_ratio: float = setting(0.03, "fraction of the steps used for warmup", ge=0, le=1)
    min_lr_ratio: float = setting(
        0.0,
        "learning rate at the end, as a fraction of its peak",
        ge=0,
        le=1,
    )
    epochs: float = setting(1.0, "passes over the data; overridden by `steps`", gt=0)
    steps: int | None = setting(
        None,
        "number of optimizer steps, whatever share of the data that is",
        ge=1,
    )
    weight_decay: float = setting(0.0, "decoupled weight decay of the matrices", ge=0)
    optimizer: Literal["adamw", "adamw_8bit", "galore", "apollo"] = setting(
        "adamw",
        "adamw; adamw_8bit: its state in 8 bits, paged on a GPU, a quarter of the memory (Dettmers et al. 2022, "
        "arXiv:2110.02861; needs `pip install hanlin[qlora]`); or, for full matrices, AdamW with low-rank state: "
        "galore (Zhao et al. 2024, arXiv:2403.03507) or apollo (Zhu et al. 2024, arXiv:2412.05270)",
        unless_default=True,
    )
    galore_rank: int = setting(
        128,
        "rank of the gradient projection of `galore` and `apollo`",
        ge=1,
        unless_default=True,
    )
    galore_update_interval: int = setting(
        200,
        "steps between updates of the projection of `galore` and `apollo`",
        ge=1,
        unless_default=True,
    )
    betas: tuple[float, float] = setting((0.9, 0.95), "AdamW's beta1 and beta2")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", gt=0)
    gradient_checkpointing: bool = setting(
        False,
        "recompute activations in the backward pass: less memory, about a third more time",
        affects_key=False,
    )

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(tr("each of betas must be at least 0 and less than 1"))
        return self

    @model_validator(mode="after")
    def _check_unused(self) -> Self:
        if self.lr_scheduler == "constant" and self.min_lr_ratio:
            raise ValueError(tr("min_lr_ratio is for a schedule that falls; lr_scheduler is constant"))
        for name in ("galore_rank", "galore_update_interval"):
            is_set = getattr(self, name) != type(self).model_fields[name].default
            if is_set and self.optimizer not in ("galore", "apollo"):
                raise ValueError(
                    tr("{name} is for galore and apollo; optimizer is {optimizer}", name=name, optimizer=self.optimizer)
                )
        return self


class ValidationSettings(Settings):
    """What is measured while training runs, and when that ends it."""

    eval_steps: int | None = setting(
        None,
        "steps between measurements of the validation loss, on the data's `validation.jsonl` (`validation_fraction` of "
        "its stage); none: not measured",
        ge=1,
        unless_default=True,
    )
    early_stopping_patience: int | None = setting(
        None,
        "stop after this many measurements in a row without a lower validation loss; none: never",
        ge=1,
        unless_default=True,
    )
    save_best: bool = setting(
        False,
        "save the weights with the lowest validation loss instead of the last ones",
        unless_default=True,
    )
    probe_every: int | None = setting(
        None,
        "steps between measurements of the probes, English and arithmetic that the model could do before, which show "
        "forgetting while it happens; none: not measured",
        ge=1,
        unless_default=True,
    )
    probes: str | None = ref(
        "files",
        default=None,
        description="your own probes, JSON Lines of `topic` with `text`, or with `question` and `answer`; none: "
        "packaged ones",
    )
    probe_limit: float | None = setting(
        None,
        "stop when the loss per token on the probes of a topic has risen by more than this; none: never",
        gt=0,
        unless_default=True,
    )
    report_to: tuple[Literal["tensorboard", "wandb", "swanlab"], ...] = setting(
        (),
        "experiment trackers that get the metrics of every step; each needs its extra (`pip install hanlin[wandb]`)",
        affects_key=False,
    )

    @model_validator(mode="after")
    def _check_measured(self) -> Self:
        if self.eval_steps is None and (self.save_best or self.early_stopping_patience is not None):
            raise ValueError(tr("save_best and early_stopping_patience need eval_steps"))
        if self.probe_every is None and (self.probes is not None or self.probe_limit is not None):
            raise ValueError(tr("probes and probe_limit need probe_every"))
        return self


class CheckpointSettings(Settings):
    """Checkpoints that an interrupted run resumes from."""

    save_every_seconds: float = setting(
        60.0,
        "seconds between checkpoints, from which an interrupted run resumes",
        affects_key=False,
        gt=0,
    )
    save_total_limit: int = setting(
        2,
        "checkpoints to keep during a run; a damaged one is detected by its hash, and the one before it is used",
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
            self.lora is not None or (self.trainable_tokens is not None and not self.trains_some_blocks)
        ):
            raise ValueError(
                tr(
                    "{optimizer} is for full matrices; use adamw for an adapter or for single embedding rows",
                    optimizer=self.optimizer,
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
        ge=8,
    )
    neftune_noise_alpha: float = setting(
        0.0,
        "noise on the embeddings during training: NEFTune's alpha (Jain et al. 2023, arXiv:2310.05914); 5 is a good "
        "start",
        ge=0,
        unless_default=True,
    )


def _check_batch(settings: Pretrain | Sft) -> None:
    if settings.batch_tokens < settings.max_seq_length:
        raise ValueError(
            tr("batch_tokens is less than max_seq_length"),
        )


class Pretrain(TokenBatchSettings, Training):
    """Next-token training on plain text. Documents are cut into packed sequences without losing a token."""

    default_learning_rates = (2e-5, 2e-4)
    model: str = ref("model", description="the model to train")
    data: tuple[str, ...] = ref("documents", description="documents to train on", min_length=1)
    weight_decay: float = setting(0.1, "decoupled weight decay of the matrices", ge=0)

    @model_validator(mode="after")
    def _check_batch_tokens(self) -> Self:
        _check_batch(self)
        return self


class SamplingDefaults(Settings):
    """How answers are drawn where nobody says otherwise."""

    temperature: float | None = setting(
        None, "temperature; none or 0: greedy, the likeliest token each time", ge=0, le=2
    )
    top_p: float | None = setting(
        None, "sample from the likeliest tokens whose probabilities add up to this (nucleus sampling)", gt=0, le=1
    )
    top_k: int | None = setting(None, "sample from this many of the likeliest tokens; 0: all", ge=0)
    repetition_penalty: float | None = setting(
        None, "lowers the logits of tokens that occurred before; 1: off, 1.1 ends most loops", ge=0.5, le=2
    )

    @model_validator(mode="after")
    def _temperature_draws(self) -> Self:
        if not self.temperature and (self.top_p is not None or self.top_k is not None):
            raise ValueError(tr("top_p and top_k need a temperature above 0"))
        return self


class Sft(ChatSettings, TokenBatchSettings, Training):
    """Supervised fine-tuning: the loss is on the assistant's turns, including the token that ends a turn."""

    default_learning_rates = (1e-5, 1e-4)
    model: str = ref("model", description="the model to train")
    data: tuple[str, ...] = ref("conversations", description="conversations to train on", min_length=1)
    batch_tokens: int = setting(32_768, "tokens of one optimizer step, over all processes", ge=8)
    epochs: float = setting(2.0, "passes over the data; overridden by `steps`", gt=0)
    template: str | None = setting(
        None,
        "name of a packaged chat template, or a Jinja file; none: the one in the model's folder",
        resource="template",
    )
    overlong: Literal["truncate_turns", "drop", "error"] = setting(
        "truncate_turns",
        "conversations longer than `max_seq_length`: drop their last turns, drop them, or stop with an error",
    )
    train_on: Literal["all", "last"] = setting(
        "all",
        "the loss is on all answers of a conversation or on the last one; answers that the data itself marks (`train`) "
        "are learned or only read as it says",
        unless_default=True,
    )
    sampling: SamplingDefaults | None = setting(
        None,
        "how answers of the model are to be drawn by default, written to generation_config.json, from where chat, "
        "serving, GGUF files and packages take it; none: as the model that is trained has it",
        unless_default=True,
    )

    @model_validator(mode="after")
    def _check_batch_tokens(self) -> Self:
        _check_batch(self)
        return self
