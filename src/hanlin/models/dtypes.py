"""Dtypes of weights: names, lookup, and the one to measure a model in."""

from __future__ import annotations

import math
from typing import Literal

import torch

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.models.folder.layout import ModelFiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Quantization = Literal["nf4", "int8"]
"""How `load_model` can quantize the projections of the blocks with bitsandbytes."""
_LARGE_MODEL = 3_000_000_000
"""Parameters from which on a model is measured in bfloat16."""


def torch_dtype(name: str) -> torch.dtype:
    """Return the dtype of that name. Raises UserError if it is not in `DTYPES`."""
    if name not in DTYPES:
        raise UserError(tr("unknown dtype '{name}'", name=name), "dtype", did_you_mean(name, DTYPES))
    return DTYPES[name]


def exact_dtype(files: ModelFiles) -> str:
    """Return the dtype to measure a model in: float32 below 3 billion parameters, else bfloat16 to save memory."""
    weights = sum(math.prod(entry.shape) for entry in files.tensors.values())
    return "float32" if weights < _LARGE_MODEL else "bfloat16"
