"""Ctrl-C in a training run: the first lets the step end, so that it can be saved; another ends the run at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.signals import announce_safe_points
from hanlin.train.callbacks.base import Callback, TrainerState

INTERRUPT = "interrupt"
"""The request to save and end the run."""
SECOND_SIGNAL_SECONDS = 1.0
"""Seconds after which another signal ends the run at once: a terminal and a launcher may both pass on the first."""


class Interrupt(Callback):
    """Asks for a checkpoint at the first Ctrl-C and then ends the run with KeyboardInterrupt.

    Elsewhere than in the main thread, where Python delivers no signals, it does nothing. It comes after the
    checkpointer in the trainer's list.

    Args:
        progress: Where the user is told.
    """

    def __init__(self, progress: Progress) -> None:
        self.requested = False
        self._progress = progress
        self._received_at = 0.0
        self._handler_before: Any = None

    def on_train_begin(self, state: TrainerState) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGINT, self._on_signal)
            announce_safe_points(True)

    def on_train_end(self, error: BaseException | None) -> None:
        if self._handler_before is not None:
            announce_safe_points(False)
            signal.signal(signal.SIGINT, self._handler_before)

    def requests(self) -> dict[str, bool]:
        return {INTERRUPT: self.requested}

    def on_step_end(self, state: TrainerState) -> None:
        if INTERRUPT not in state.requests:
            return
        state.dist.barrier()  # a launcher ends all processes when one has ended
        if state.dist.is_main:
            self._progress.log(tr("saved after step {step}; run again to go on", step=state.step))
        raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._received_at > SECOND_SIGNAL_SECONDS:
            raise KeyboardInterrupt
        self.requested, self._received_at = True, now
