"""The weights to save after training a subset of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.models.adapters import get_trainable_tokens_layer


@torch.no_grad()
def merge_trained(state: Mapping[str, torch.Tensor], model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """Replace in a model's weights those that were trained; frozen ones stay as they are, bit for bit.

    Args:
        state: The state dict of the model that the run began with.
        model: The model after training.

    Returns:
        A state dict in the dtypes of `state`, on the CPU.
    """
    merged = dict(state)
    causal_lm = cast(LlamaForCausalLM, model.get_base_model() if isinstance(model, PeftModel) else model)
    for name, weight in causal_lm.named_parameters():
        if weight.requires_grad and name in merged:
            merged[name] = weight.detach().to("cpu", merged[name].dtype)
    matrices = (("model.embed_tokens.weight", causal_lm.model.embed_tokens), ("lm_head.weight", causal_lm.lm_head))
    for name, module in matrices:
        layer = get_trainable_tokens_layer(module)
        if layer is not None and name in merged:
            token_ids = torch.tensor(layer.token_indices["default"])
            rows = layer.trainable_tokens_delta["default"].detach().to("cpu", merged[name].dtype)
            merged[name] = merged[name].index_copy(0, token_ids, rows)
    return merged
