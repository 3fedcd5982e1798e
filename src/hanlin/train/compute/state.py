"""What a strategy hands to a checkpoint, and how saved weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

CopyTensor = Callable[[str, torch.Tensor], torch.Tensor | None]
"""Copies a tensor, given its name in the checkpoint; returns the copy, or None in a process that does not save."""


@torch.no_grad()
def load_weights(weights: dict[str, torch.Tensor], parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Copy saved weights into the parameters of the same names.

    Raises:
        RuntimeError: The names differ: the weights are another model's.
    """
    by_name = dict(parameters)
    if by_name.keys() != weights.keys():
        raise RuntimeError("the checkpoint is another model's")
    for name, value in weights.items():
        by_name[name].copy_(value)
