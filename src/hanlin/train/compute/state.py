"""Copying weights and optimizer state."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

Named = Iterable[tuple[str, nn.Parameter]]


CopyTensor = Callable[[str, torch.Tensor], torch.Tensor | None]


@torch.no_grad()
def load_weights(weights: dict[str, torch.Tensor], trained: Named) -> None:
    """Put saved weights into the parameters. Raises RuntimeError when they are another model's."""
    parameters = dict(trained)
    if parameters.keys() != weights.keys():
        raise RuntimeError("the checkpoint is another model's")
    for name, value in weights.items():
        parameters[name].copy_(value)
