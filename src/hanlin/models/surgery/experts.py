"""The stage `upcycle_experts`: a model of experts in Mixtral's shape from a dense one (sparse upcycling).

Each expert is a copy of the feed-forward layer. The router's weights for the chosen experts are normalized to one, so
that whichever are chosen, their weighted sum is what the dense layer computes, within rounding.
Source: Komatsuzaki et al. 2023, arXiv:2212.05055; Jiang et al. 2024 (Mixtral), arXiv:2401.04088, section 2.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import check_free_space
from hanlin.core.i18n import tr
from hanlin.models.dtypes import exact_dtype, torch_dtype
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.config import read_number
from hanlin.models.folder.layout import CONFIG, MOE_ARCHITECTURES, ModelFiles
from hanlin.models.folder.rope import read_rope, write_rope
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.load import load_model
from hanlin.models.merge import LogitAgreement, compare_logits, compute_logits, render_prompts
from hanlin.models.save import StoredWeights, check_finite, read_tensor, save_stored, verify_stored
from hanlin.tokenizer.tokenizer import Tokenizer

MAX_LOGIT_ERROR = 1e-5
"""Largest difference of logits in float32, relative to the largest (or to 1), that sums of equal values cause."""
MAX_MEAN_KL = 1e-3
"""Largest mean KL divergence in nats that they cause in bfloat16."""
EXPERT_MATRICES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
"""Mixtral's names of an expert's matrices, and those of a dense feed-forward layer."""
_ABSENT = ("attention_bias", "mlp_bias", "pretraining_tp")
"""Entries of a Llama configuration that Mixtral's does not have."""


def run(settings: UpcycleExperts, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the model of experts into `out`, in the dtypes of the dense one, and verify it.

    Args:
        settings: How many experts, and how many of them compute a token.
        inputs: `model`, the folder of the dense model.
        out: An empty folder.
        context: Reports progress; its seed decides the router's weights.

    Returns:
        Parameters before, after and of those that compute a token, and how closely the logits agree.

    Raises:
        UserError: The model has experts already, or biases; a weight is not finite; the disk is too small.
        RuntimeError: A saved weight differs, or the saved model has other logits.
    """
    folder = inputs.path("model")
    refuse_adapter(folder)
    base = check_model_folder(folder, experts=True)
    _check_dense(base)
    check_finite(base)
    config = expert_config(settings, base.config)
    tokenizer = Tokenizer.load(folder)
    template = find_template(tokenizer)
    prompts = render_prompts(tokenizer, template)
    parameters = count_weights(config)
    check_free_space(out, parameters["after"] * torch_dtype(base.dtype).itemsize)

    context.progress.update(0, 3, tr("steps"), force=True)
    weights = upcycle_weights(settings, base, context.seed)
    written = save_stored(config, weights, out, dtype=base.dtype, tokenizer=tokenizer, template=template)
    context.progress.update(1, 3, tr("steps"), force=True)
    num_tensors = verify_stored(written, weights)
    context.progress.update(2, 3, tr("steps"), force=True)
    agreement = verify_logits(base, written, prompts)
    context.progress.update(3, 3, tr("steps"), force=True)
    return {
        "experts": settings.experts,
        "experts_per_token": settings.experts_per_token,
        "parameters": parameters,
        "tensors_verified": num_tensors,
        "max_abs_difference": agreement.max_abs_difference,
        "greedy_agreement": agreement.greedy_agreement,
        "mean_kl": agreement.mean_kl,
        "positions_compared": sum(map(len, prompts)),
    }


def _check_dense(base: ModelFiles) -> None:
    if base.config.get("num_local_experts"):
        raise UserError(tr("the model has {count} experts already", count=base.config["num_local_experts"]),
                        base.folder / CONFIG)  # fmt: skip
    biased = [name for name in ("attention_bias", "mlp_bias") if base.config.get(name)]
    if biased:
        raise UserError(
            tr("the model has {name}, and models in Mixtral's shape have no biases", name=biased[0]),
            base.folder / CONFIG,
        )


def expert_config(settings: UpcycleExperts, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the model of experts; dimensions and rotary settings stay."""
    kept = {name: value for name, value in config.items() if name not in _ABSENT}
    kept = write_rope(kept, read_rope(config))  # what is left out means other numbers in a Mixtral
    kept["rms_norm_eps"] = read_number(config, "rms_norm_eps")
    kept["num_key_value_heads"] = config.get("num_key_value_heads") or config["num_attention_heads"]
    ((model_type, architecture),) = MOE_ARCHITECTURES.items()
    return {
        **kept,
        "architectures": [architecture],
        "model_type": model_type,
        "num_local_experts": settings.experts,
        "num_experts_per_tok": settings.experts_per_token,
        "router_aux_loss_coef": settings.router_aux_loss_coef,
        "output_router_logits": False,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
    }


def count_weights(config: Mapping[str, Any]) -> dict[str, int]:
    """Parameters of the dense model, of that of experts, and of those that compute one token."""
    experts = int(config["num_local_experts"])

    def total(shapes: Mapping[str, tuple[int, ...]]) -> int:
        return sum(torch.Size(shape).numel() for shape in shapes.values())

    shapes = llama_shapes(config)
    of_experts = total({name: shape for name, shape in shapes.items() if ".experts." in name})
    active = of_experts * int(config["num_experts_per_tok"]) // experts
    return {
        "before": total(llama_shapes({**config, "num_local_experts": 0})),
        "after": total(shapes),
        "active": total(shapes) - of_experts + active,
    }


def upcycle_weights(settings: UpcycleExperts, base: ModelFiles, seed: int) -> StoredWeights:
    """Every weight of the model of experts by name; each is read or drawn when it is asked for."""
    readers: dict[str, Callable[[], torch.Tensor]] = {
        name: partial(read_tensor, base, name) for name in base.tensors if ".mlp." not in name
    }
    dtype = torch_dtype(base.dtype)
    for layer in range(int(base.config["num_hidden_layers"])):
        dense, sparse = f"model.layers.{layer}.mlp", f"model.layers.{layer}.block_sparse_moe"
        readers[f"{sparse}.gate.weight"] = partial(
            draw_router, settings, int(base.config["hidden_size"]), dtype, seed, layer
        )
        for expert in range(settings.experts):
            for name, source in EXPERT_MATRICES.items():
                readers[f"{sparse}.experts.{expert}.{name}.weight"] = partial(
                    read_tensor, base, f"{dense}.{source}.weight"
                )
    return StoredWeights(readers)


def draw_router(settings: UpcycleExperts, hidden_size: int, dtype: torch.dtype, seed: int, layer: int) -> torch.Tensor:
    """The router's weights [experts, hidden_size] of a block, normal, from the seed and the number of the block."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + layer) % (1 << 63))
    weights = torch.empty(settings.experts, hidden_size).normal_(0.0, settings.router_range, generator=generator)
    return weights.to(dtype)


def verify_logits(base: ModelFiles, written: ModelFiles, prompts: list[list[int]]) -> LogitAgreement:
    """Load both models and compare their logits.

    Raises:
        RuntimeError: They differ by more than rounding can cause.
    """
    dtype = exact_dtype(written)
    expected = compute_logits(load_model(base.folder, dtype=dtype), prompts)
    agreement = compare_logits(expected, compute_logits(load_model(written.folder, dtype=dtype), prompts))
    if dtype == "float32":
        matches = agreement.max_abs_difference <= MAX_LOGIT_ERROR * max(1.0, agreement.largest_logit)
    else:
        matches = agreement.mean_kl <= MAX_MEAN_KL
    if not matches:
        raise RuntimeError(f"the model of experts gives other logits than the dense one: {agreement}")
    return agreement
