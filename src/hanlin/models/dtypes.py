"""Number formats of weights."""

from __future__ import annotations

import math
from typing import Literal

import torch

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.models.folder.layout import ModelFiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


Packed = Literal["nf4", "int8"]


_LARGE_MODEL = 3_000_000_000


def torch_dtype(name: str) -> torch.dtype:
    """The number format of that name. Raises UserError when there is none."""
    if name not in DTYPES:
        raise UserError(say(f"no number format '{name}'", f"没有数值格式“{name}”"), "dtype", did_you_mean(name, DTYPES))
    return DTYPES[name]


def exact_dtype(files: ModelFiles) -> str:
    """The number format to measure a model in: float32 where it is small enough to be held so, else bfloat16."""
    weights = sum(math.prod(entry.shape) for entry in files.tensors.values())
    return "float32" if weights < _LARGE_MODEL else "bfloat16"
