"""Helpers for tests with tiny random models: compute logits, and change the trainable weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

PROMPT = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79]])

MakeAdapter = Callable[..., Path]


def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Logits of `PROMPT`, in evaluation mode and without gradients."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=PROMPT).logits.float()


def perturb_trainable(model: PeftModel) -> PeftModel:
    """Add noise to everything trainable, as a stand-in for training."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model
