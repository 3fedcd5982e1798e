"""What becomes of memory that tensors give back on a CPU.

Owns one wish to the C library. Does not own how much is needed (`forecast`).
"""

from __future__ import annotations

import ctypes

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
