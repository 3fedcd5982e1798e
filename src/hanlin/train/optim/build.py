"""Which optimizer a run steps with: AdamW, AdamW with 8-bit state, or AdamW with low-rank state."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, cast

import torch

from hanlin.config.settings.train import Training
from hanlin.models.load import require_bitsandbytes
from hanlin.train.optim.low_rank import LowRankAdamW
from hanlin.train.optim.schedule import parameter_groups


def build_optimizer(
    settings: Training, named_parameters: Sequence[tuple[str, torch.nn.Parameter]], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over the trained parameters, in the form that the settings ask
    for.

    With `adamw_8bit` its state has 8 bits (Dettmers et al. 2022, arXiv:2110.02861), and on a GPU it is in pages that
    leave it when memory is short. Tensors of fewer than 4096 elements keep 32 bits, and so does the vocabulary, whose
    rare rows 8 bits serve badly (section 2.3 there). `galore` and `apollo` keep low-rank state for the matrices of the
    blocks, full state for all else.

    Args:
        settings: The optimizer, its betas, weight decay and rank.
        named_parameters: The trained parameters by name.
        device: Where they are.

    Raises:
        UserError: bitsandbytes is asked for and not installed.
    """
    ratio = settings.lora.loraplus_lr_ratio if settings.lora else 1.0
    step_tokens = getattr(settings, "batch_tokens", None)  # of preferences, a step's tokens are not known before
    groups = parameter_groups(named_parameters, settings.weight_decay, ratio, step_tokens)
    if settings.optimizer == "adamw":
        # fused: one pass over each weight; on a CPU 2.7 ms for 2.9 million weights, against 9.8 tensor by tensor
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=True)
    if settings.optimizer in ("galore", "apollo"):
        names = {id(parameter): name for name, parameter in named_parameters}
        for group in groups:  # the group that decays is that of the blocks' matrices, and of adapters
            in_blocks = all("_proj." in names[id(parameter)] for parameter in group["params"])
            group["rank"] = settings.galore_rank if in_blocks else None
        return LowRankAdamW(
            groups,
            settings.optimizer,
            lr=0.0,
            betas=settings.betas,
            update_interval=settings.galore_update_interval,
        )
    require_bitsandbytes("optimizer")
    library: Any = importlib.import_module("bitsandbytes").optim
    vocabulary = [parameter for name, parameter in named_parameters if "embed_tokens" in name or "lm_head" in name]
    if vocabulary:
        library.GlobalOptimManager.get_instance().override_config(vocabulary, "optim_bits", 32)
    optimizer_class = library.AdamW8bit if device.type == "cpu" else library.PagedAdamW8bit
    return cast(torch.optim.Optimizer, optimizer_class(groups, lr=0.0, betas=settings.betas))
