"""Which number format a device multiplies matrices in fastest, told by what its processor can do.

Owns the choice of `precision: auto`. Does not own what runs in it (`network`). The choice is not measured with a clock:
two tries of one run must compute alike, and a clock near its threshold tells one thing now and another later.
"""

from __future__ import annotations

from typing import Literal

import torch


def faster_format(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The number format that training is faster in: bfloat16 on a GPU that knows it and on a CPU with matrix units for
    it (AMX: products are 8 to 10 times as fast) or with AVX-512's products of bfloat16 (2 times), else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type != "cpu":
        return "float32"
    known = torch.cpu.get_capabilities()
    return "bfloat16" if known.get("amx_bf16") or known.get("avx512_bf16") else "float32"
