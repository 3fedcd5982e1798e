"""The line that shows how far training is."""

from __future__ import annotations

from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.train.callbacks.base import Callback, TrainerState


class ProgressLine(Callback):
    """Shows step, loss, measured metrics, speed and memory in the main process."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, state: TrainerState) -> None:
        if not state.dist.is_main:
            return
        log = state.log
        measured = {name: value for name in state.shown_metrics if (value := log.last(name)) is not None}
        figures = {
            "loss": log.recent_mean("loss"),
            **measured,
            "tokens_per_second": log.total("tokens") / max(state.seconds, 1e-9),
            "memory_gb": state.peak_memory_gb,
        }
        self._progress.update(state.step, state.total_steps, tr("steps"), force=False, **figures)
