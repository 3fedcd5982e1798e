"""Waiting and limits that hold on any machine, however slow or busy: none of them measures speed.

A test that something is fast says so by what does not depend on the machine: how often something is called, how much
memory it takes, whether it comes before something else that the test holds back. Seconds belong to `bench/`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType

HANG_SECONDS = 300.0
"""Nothing that a test waits for takes so long, unless it never comes."""


def wait_until(condition: Callable[[], object], what: str = "the condition never held") -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: It does not hold after `HANG_SECONDS`; `what` says what was waited for.
    """
    end = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def count_bytes(folder: Path, pattern: str) -> int:
    """Bytes of the files below a folder whose names match, while another process makes and removes files there."""
    total = 0
    for parent, _, names in os.walk(folder):  # a folder that is gone meanwhile is left out
        for name in names:
            if fnmatchcase(name, pattern):
                with suppress(FileNotFoundError):
                    total += (Path(parent) / name).stat().st_size
    return total


@contextmanager
def hang_limit(seconds: float = HANG_SECONDS) -> Iterator[None]:
    """End work that would take minutes or never end; also as a decorator. Does nothing on Windows.

    Raises:
        TimeoutError: The work took longer, in whatever call of Python it was.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def count_calls(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, are called by Python code while `work` runs in this thread."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count
