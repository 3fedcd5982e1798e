"""The order of the rows of queries and keys: transformers turns element i of a head together with i + half, Meta's code
and llama.cpp 2i with 2i + 1.

Of a head of 6 rows:
    transformers   0 1 2 3 4 5
    interleaved    0 3 1 4 2 5
"""

from __future__ import annotations

import torch


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the rows of `heads` heads in the order of Meta and llama.cpp."""
    shape = weight.shape
    return weight.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape).contiguous()


def undo_interleaving(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the rows of `heads` heads back in the order of transformers."""
    shape = weight.shape
    return weight.reshape(heads, shape[0] // heads // 2, 2, *shape[1:]).swapaxes(1, 2).reshape(shape).contiguous()
