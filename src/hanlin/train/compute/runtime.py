"""What becomes of memory that tensors give back on a CPU.

Owns one wish to the C library. Does not own how much is needed (`estimate`).
"""

from __future__ import annotations

import ctypes
from typing import Literal

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
LARGEST = 1 << 27
"""Bytes of a tensor that is given back all the same. Kept as well, gradients of a whole vocabulary added 0.4 GB to the
peak of training all weights of 156 million, and such tensors are few."""


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, where its C library is glibc.

    Else large tensors are given back to the system each time that they are freed, and Linux clears every page of 4 kB
    when it is touched again: a third of the time of some operations, and ten times their time on some virtual machines.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; on Windows there is none by that name
        return
    mallopt(_MMAP_THRESHOLD, LARGEST)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def faster_dtype(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The number format that training is faster in: bfloat16 on a GPU that knows it and on a CPU with matrix units for
    it (AMX: products are 8 to 10 times as fast) or with AVX-512's products of bfloat16 (2 times), else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type != "cpu":
        return "float32"
    known = torch.cpu.get_capabilities()
    return "bfloat16" if known.get("amx_bf16") or known.get("avx512_bf16") else "float32"
