"""What a training stage computes and writes: floating-point operations and bytes on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hanlin.config.settings.preference import Dpo, Kto
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.estimate.memory import TrainingSetup


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured floating-point operations per second: of a plain matrix product, and of a small training step."""

    products: float
    training: float

    @property
    def share(self) -> float:
        return self.training / self.products


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Bytes that a stage writes: the artifact, checkpoints while it runs, and encoded records."""

    artifact: float
    checkpoints: float
    rows: float

    @property
    def peak(self) -> float:
        return self.artifact + self.checkpoints + self.rows


def step_operations(setup: TrainingSetup) -> float:
    """Floating-point operations of one optimizer step over all processes.

    Two for each weight that a token goes through forward, two more to carry the gradient back, and two where the weight
    itself is trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1); the head works where something is learned.
    """
    shape, settings, trained = setup.shape, setup.settings, setup.trained
    step, learned = setup.batch.step_tokens, setup.batch.learned
    skipped = shape.block_parameters - sum(
        math.prod(shape.projections[name]) for name in ("q_proj", "k_proj", "v_proj")
    )
    # behind its attention the last block computes target positions alone
    body_weights = shape.layers * shape.block_parameters - (1 - learned) * skipped
    span = setup.batch.attended_tokens or min(settings.max_seq_length, 1024)
    attention = 2.0 * shape.layers * shape.heads * shape.head_dim * span  # causal: half of all pairs
    lora = settings.lora
    trained_weights = body_weights if lora is not None and lora.dora else trained.matrices + trained.adapter
    forward_weights = body_weights + trained.adapter
    forward = 2.0 * forward_weights + attention
    backward_fraction = setup.backward_layers() / shape.layers
    recomputed_fraction = backward_fraction if settings.gradient_checkpointing else 0.0
    operations = step * (
        (1 + recomputed_fraction) * forward
        + 2 * backward_fraction * (forward_weights + attention)
        + 2.0 * trained_weights
    )
    pairs = not isinstance(settings, Pretrain | Sft)
    # of a trained head the log-probabilities of answers are computed twice (`train.compute.lm_head_loss`)
    head = 2.0 * shape.embedding_parameters * (2 + (1 + pairs) * bool(setup.head_gradient()))
    operations += step * learned * head
    if isinstance(settings, Kto):  # the reference point
        operations += step * (forward + learned * 2.0 * shape.embedding_parameters)
    return operations


def reference_operations(setup: TrainingSetup, tokens: float) -> float:
    """Those of the reference pass over data of so many tokens, where the stage makes one itself."""
    if not isinstance(setup.settings, Dpo | Kto) or setup.settings.reference is not None:
        return 0.0
    shape, learned = setup.shape, setup.batch.learned
    forward = 2.0 * shape.layers * shape.block_parameters + learned * 2.0 * shape.embedding_parameters
    return tokens * forward * (2 if isinstance(setup.settings, Kto) else 1)


def disk_usage(setup: TrainingSetup, tokens: float | None) -> DiskUsage:
    """What the stage writes; `tokens` are those of its data, where they are known."""
    settings, trained = setup.settings, setup.trained
    artifact = float(setup.shape.file_bytes)
    if settings.lora is not None:
        pissa = 2 if settings.lora.init != "zero" else 1
        artifact = 4.0 * (trained.total + (pissa - 1) * trained.adapter)
    num_checkpoints = settings.save_total_limit + 1  # the newest is written before the oldest goes
    best_weights = 4.0 * trained.total * (2 if settings.save_best else 0)
    return DiskUsage(
        artifact, num_checkpoints * setup.checkpoint() + best_weights, 0.0 if tokens is None else 5.0 * tokens
    )
