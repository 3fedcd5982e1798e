"""How torch runs on this machine: memory that the C library keeps on a CPU, denormal numbers, the faster precision."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from hanlin.core.hardware.devices import multiplies_faster_in_bfloat16

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
MAX_KEPT_BYTES = 1 << 27
"""A larger tensor is given back to the system when it is freed. If these were kept too, gradients of a whole vocabulary
would add 0.4 GB to the peak of training all weights of 156 million; and such tensors are few."""


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, if its C library is glibc.

    Otherwise large tensors are given back to the system each time that they are freed, and Linux clears every page of
    4 kB when it is touched again: a third of the time of some operations, and ten times their time on some virtual
    machines.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; on Windows there is none by that name
        return
    mallopt(_MMAP_THRESHOLD, MAX_KEPT_BYTES)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Take numbers below 1.2e-38 for zero in this thread and in those that it starts for the first time meanwhile.

    A CPU computes with such (denormal) numbers in microcode. Gradients of a model that has nearly learned its data are
    full of them: its steps took 1.4 to 1.7 times as long, with the same losses to the last digit. The old state is set
    again at the end, since NumPy warns where it is on.
    """
    before = float(torch.tensor(1e-40) * 1) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def faster_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision that training is faster in, see `multiplies_faster_in_bfloat16`."""
    return "bfloat16" if multiplies_faster_in_bfloat16(device) else "float32"
