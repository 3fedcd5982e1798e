"""How fast each weight learns: the learning rate over the steps, and which weights decay.

Owns nothing that changes during training: the rate is a function of the step, so there is no state to save.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from hanlin.config.settings.train import Training


def learning_rate_at(step: int, steps: int, settings: Training) -> float:
    """The learning rate of step `step` of `steps`, key_settings from 0.

    It rises linearly to `peak_rate` over the warm-up, whose first step is not zero, then falls towards `min_lr_ratio` of
    it along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5), a line, or not at all.
    """
    peak = settings.peak_rate
    warmup = round(settings.warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if settings.lr_scheduler == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    height = 0.5 * (1 + math.cos(math.pi * done)) if settings.lr_scheduler == "cosine" else 1 - done
    return peak * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * height)


def parameter_groups(
    named: Iterable[tuple[str, torch.nn.Parameter]], weight_decay: float, lr_ratio: float = 1.0
) -> list[dict[str, Any]]:
    """Two groups for AdamW: the matrices, which decay, and the rest, which does not. Where `lr_ratio` is not 1, B of
    adapters is a third, whose rate is so many times the others' (LoRA+, Hayou et al. 2024, arXiv:2402.12354, section
    4); each group tells its `lr_ratio`.

    Scales of norms and biases do not decay: pulled to zero they shrink the signal and regularise nothing. Embeddings,
    and with them the output head, do not either: rows of rare tokens get no gradient that would hold them, so decay
    would forget them. Order is the model's own, so that an optimizer's state fits when it is loaded again.
    """
    decaying: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    hurried: list[torch.nn.Parameter] = []
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        embedding = "embed_tokens" in name or "lm_head" in name
        if lr_ratio != 1 and ".lora_B." in name:
            hurried.append(parameter)
        else:
            (kept if parameter.ndim < 2 or embedding else decaying).append(parameter)
    groups = (
        {"params": decaying, "weight_decay": weight_decay, "lr_ratio": 1.0},
        {"params": kept, "weight_decay": 0.0, "lr_ratio": 1.0},
        {"params": hurried, "weight_decay": weight_decay, "lr_ratio": lr_ratio},
    )
    return [group for group in groups if group["params"]]
