"""How much a training stage computes and writes: floating-point operations, time, bytes on disk.

Owns those counts. How fast a machine is comes from a probe (`probe`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hanlin.config.settings.preference import Dpo, Kto
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.estimate.memory import Account


@dataclass(frozen=True, slots=True)
class Speed:
    """What a machine was seen to do, in floating-point operations a second: in a plain product of matrices, and in a
    small training step of the same kind."""

    products: float
    training: float

    @property
    def share(self) -> float:
        return self.training / self.products


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a stage writes: the artifact, the checkpoints while it runs, and the encoded rows."""

    artifact: float
    checkpoints: float
    rows: float

    @property
    def peak(self) -> float:
        return self.artifact + self.checkpoints + self.rows


def step_operations(account: Account) -> float:
    """Floating-point operations of one optimizer step over all processes.

    Two for each weight that a token goes through forward, two more to carry the gradient back, and two where the weight
    itself is trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1); the head works where something is learned.
    """
    shape, settings, trained = account.shape, account.settings, account.trained
    step, learned = account.portions.step, account.portions.learned
    unseen = shape.matrices - sum(math.prod(shape.projections[name]) for name in ("q_proj", "k_proj", "v_proj"))
    body = (
        shape.layers * shape.matrices - (1 - learned) * unseen
    )  # behind its attention the last block sees what is learned
    span = min(settings.max_seq_length, 1024)
    attention = 2.0 * shape.layers * shape.heads * shape.head * span  # causal: half of all pairs
    lora = settings.lora
    own = body if lora is not None and lora.dora else trained.matrices + trained.adapter
    through = body + trained.adapter
    forward = 2.0 * through + attention
    back = account.layers_back() / shape.layers
    again = back if settings.gradient_checkpointing else 0.0
    operations = step * ((1 + again) * forward + 2 * back * (through + attention) + 2.0 * own)
    pairs = not isinstance(settings, Pretrain | Sft)
    head = 2.0 * shape.table * (2 + pairs + bool(account.head_gradient()))
    operations += step * learned * head
    if isinstance(settings, Kto):  # the reference point
        operations += step * (forward + learned * 2.0 * shape.table)
    return operations


def reference_operations(account: Account, tokens: float) -> float:
    """Those of the reference pass over data of so many tokens, where the stage makes one itself."""
    if not isinstance(account.settings, Dpo | Kto) or account.settings.reference is not None:
        return 0.0
    shape, learned = account.shape, account.portions.learned
    forward = 2.0 * shape.layers * shape.matrices + learned * 2.0 * shape.table
    return tokens * forward * (2 if isinstance(account.settings, Kto) else 1)


def disk(account: Account, tokens: float | None) -> Disk:
    """What the stage writes; `tokens` are those of its data, where they are known."""
    settings, trained = account.settings, account.trained
    artifact = float(account.shape.files)
    if settings.lora is not None:
        pissa = 2 if settings.lora.init != "zero" else 1
        artifact = 4.0 * (trained.total + (pissa - 1) * trained.adapter)
    kept = settings.save_total_limit + 1  # the newest is written before the oldest goes
    best = 4.0 * trained.total * (2 if settings.save_best else 0)
    return Disk(artifact, kept * account.checkpoint() + best, 0.0 if tokens is None else 5.0 * tokens)
