"""Products in bfloat16 around a model in float32: faster where the processor has them, and rounded.

Weights and inputs of the decoder's linear layers are rounded to bfloat16, products are summed in float32 by the
processor. What decides a score stays in float32: embeddings, norms, rotary positions, the attention's softmax, the sums
of the residual stream, and the output head with its softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hanlin.core.errors import UserError
from hanlin.core.hardware.devices import is_cpu, multiplies_faster_in_bfloat16
from hanlin.core.i18n import tr


class Bfloat16Linear(nn.Module):
    """A linear layer in float32 that multiplies in bfloat16: [..., in] to [..., out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = nn.Parameter(linear.weight.detach().to(torch.bfloat16), requires_grad=False)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        product = nn.functional.linear(hidden_states.to(torch.bfloat16), self.weight).to(hidden_states.dtype)
        return product if self.bias is None else product + self.bias


def gains_by_bfloat16(model: Any, device: torch.device) -> bool:
    """Whether `multiply_in_bfloat16` can be done and is faster: weights in float32, not quantized, on a CPU with AMX or
    AVX-512's bfloat16 products (perplexity 1.5 to 1.6 times as fast with the latter).
    """
    return is_cpu(device) and _is_float32(model) and multiplies_faster_in_bfloat16(device)


def _is_float32(model: Any) -> bool:
    return model.dtype == torch.float32 and not getattr(model.config, "quantization_config", None)


def multiply_in_bfloat16(model: Any) -> None:
    """Replace the linear layers of a model's decoder blocks, in place. Those of an adapter stay as they are.

    Args:
        model: A causal model of transformers in float32, perhaps with adapters of PEFT around it.

    Raises:
        UserError: The model is not in float32, or its linear layers are quantized.
    """
    if not _is_float32(model):
        what = tr("products in bfloat16 are for weights in float32")
        raise UserError(what, "precision", tr("set `dtype: float32`, or leave `precision` out"))
    decoder = model.get_decoder()
    layers = [
        (parent, name, child)
        for path, parent in decoder.named_modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and "lora_" not in f"{path}.{name}"
    ]
    for parent, name, linear in layers:
        setattr(parent, name, Bfloat16Linear(linear))
