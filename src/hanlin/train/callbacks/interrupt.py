"""Ctrl-C in a training run: the first lets the step end, so that it can be saved; another ends at once.

Owns the signal while a loop runs. Does not own what is saved (`checkpoint`).
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

AGAIN = 1.0
"""Seconds after which another signal is another wish: a terminal and a launcher may both pass on the first."""


class Interrupt:
    """`wished` becomes true at the first Ctrl-C while the context is open. Elsewhere than in the main thread, where
    Python delivers no signals, it stays false."""

    def __init__(self) -> None:
        self.wished = False
        self._at = 0.0
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.wished and now - self._at > AGAIN:
            raise KeyboardInterrupt
        self.wished, self._at = True, now
