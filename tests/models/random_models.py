"""What the tests of models do with tiny random models: ask them, and move what is trainable away from its birth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

PROMPT = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79]])

MakeAdapter = Callable[..., Path]


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Of `PROMPT`, in evaluation mode and without gradients."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=PROMPT).logits.float()


def train_a_little(model: PeftModel) -> PeftModel:
    """Move everything trainable away from its birth, as training would: without a loop, but not to nothing."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model
