"""Processes and what the machine offers them: ending children, ending with the parent, cores and memory.

What only some systems offer is asked here, so that callers work the same on all of them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from typing import Any


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, so that a killed command leaves no child that writes.

    Linux only (prctl(2), `PR_SET_PDEATHSIG`); elsewhere it does nothing, and a child ends when its pipe closes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


def end_process(process: subprocess.Popen[Any], seconds: float, *, group: bool = False, terminate: bool = True) -> None:
    """End a child process: ask it to, wait up to `seconds`, then kill it; returns when it has ended.

    Args:
        process: The child.
        seconds: How long it may take to end by itself.
        group: End its whole process group, with all that it started and leaves behind (POSIX; elsewhere the child
            alone).
        terminate: Ask it with SIGTERM; False if it has been told otherwise, for instance by closing its input.
    """
    if terminate:
        _send_signal(process, "SIGTERM", group)
    ended = True
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        ended = False
    if group or not ended:
        _send_signal(process, "SIGKILL", group)
    process.wait()


def _send_signal(process: subprocess.Popen[Any], name: str, group: bool) -> None:
    if group and hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, getattr(signal, name))
        except ProcessLookupError:  # all of it has ended
            pass
    elif name == "SIGTERM":
        process.terminate()
    else:
        process.kill()


def available_cores() -> int:
    """The processor cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int | None:
    """Bytes of this machine's main memory, or None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def peak_host_memory() -> int | None:
    """The most bytes of main memory that this process has held, or None if the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def quiet_libraries() -> None:
    """Silence what libraries log when they are imported: bitsandbytes tells of kernels that it could download."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
