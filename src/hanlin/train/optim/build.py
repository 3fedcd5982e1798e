"""Which optimizer a run steps with: AdamW, or AdamW with its averages in 8 bits or of low rank.

Owns the choice. Which weights decay and which learn faster is said in `schedule`.
"""

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
    settings: Training, trained: Sequence[tuple[str, torch.nn.Parameter]], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) over what is trained.

    With `adamw_8bit` its averages are kept in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), and on a GPU in pages
    that leave it when memory is short. Tensors of fewer than 4096 numbers keep 32 bits, and so does the vocabulary,
    whose rare rows 8 bits serve badly (section 2.3 there). Raises UserError where bitsandbytes is not installed.

    `galore` and `apollo` keep averages of low rank for the matrices of the blocks, whole ones for all else.
    """
    groups = parameter_groups(trained, settings.weight_decay, settings.lora.loraplus_lr_ratio if settings.lora else 1.0)
    if settings.optimizer == "adamw":
        # fused: one pass over each weight; on a CPU 2.7 ms for 2.9 million numbers, against 9.8 tensor by tensor
        return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=True)
    if settings.optimizer in ("galore", "apollo"):
        names = {id(parameter): name for name, parameter in trained}
        for group in groups:  # the group that decays is that of the blocks' matrices, and of adapters
            inside = all("_proj." in names[id(parameter)] for parameter in group["params"])
            group["rank"] = settings.galore_rank if inside else None
        return LowRankAdamW(
            groups, settings.optimizer, lr=0.0, betas=settings.betas, refresh=settings.galore_update_interval
        )
    require_bitsandbytes("optimizer")
    library: Any = importlib.import_module("bitsandbytes").optim
    vocabulary = [parameter for name, parameter in trained if "embed_tokens" in name or "lm_head" in name]
    if vocabulary:
        library.GlobalOptimManager.get_instance().override_config(vocabulary, "optim_bits", 32)
    form = library.AdamW8bit if device.type == "cpu" else library.PagedAdamW8bit
    return cast(torch.optim.Optimizer, form(groups, lr=0.0, betas=settings.betas))
