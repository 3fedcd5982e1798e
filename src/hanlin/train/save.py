"""Saving what was trained."""

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
    """The weights `state` of the model that a run began with, and in their place what was trained of `model`, in their
    number format: what was frozen is what it was, bit for bit."""
    whole = dict(state)
    causal = cast(LlamaForCausalLM, model.get_base_model() if isinstance(model, PeftModel) else model)
    for name, weight in causal.named_parameters():
        if weight.requires_grad and name in whole:
            whole[name] = weight.detach().to("cpu", whole[name].dtype)
    for name, module in (("model.embed_tokens.weight", causal.model.embed_tokens), ("lm_head.weight", causal.lm_head)):
        layer = get_trainable_tokens_layer(module)
        if layer is not None and name in whole:
            ids = torch.tensor(layer.token_indices["default"])
            rows = layer.trainable_tokens_delta["default"].detach().to("cpu", whole[name].dtype)
            whole[name] = whole[name].index_copy(0, ids, rows)
    return whole
