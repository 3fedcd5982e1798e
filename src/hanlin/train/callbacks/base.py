"""What the trainer calls around its steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hanlin.train.callbacks.metrics_log import MetricsLog
from hanlin.train.compute.model import TrainModel
from hanlin.train.distributed.base import Strategy
from hanlin.train.distributed.context import DistContext


@dataclass
class TrainerState:
    """What a callback sees of a run.

    Attributes:
        model: The model that is trained.
        strategy: How it is divided among processes.
        dist: The processes.
        log: The metrics of all steps so far.
        total_steps: Steps of the whole run.
        micro_batch_tokens: The most tokens of a micro-batch, for measurements too.
        step: Steps done.
        seconds: Time of all tries of this run together.
        peak_memory_gb: The most memory that this process has held.
        requests: What some process asked for in this step (`Callback.requests`).
        shown_metrics: Metrics to show beside the loss while the run lasts.
    """

    model: TrainModel
    strategy: Strategy
    dist: DistContext
    log: MetricsLog
    total_steps: int
    micro_batch_tokens: int
    step: int = 0
    seconds: float = 0.0
    peak_memory_gb: float = 0.0
    requests: frozenset[str] = frozenset()
    shown_metrics: tuple[str, ...] = field(default=())


class Callback:
    """A callback of the trainer; every method does nothing unless a subclass overrides it.

    The trainer calls the same methods of the same callbacks in every process, in the order of its list, so they may
    communicate. A step calls `should_stop`, `on_step_begin`, `requests`, `evaluate` and `on_step_end`.
    """

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        """Names of the metrics of `evaluate` that are shown while the run lasts."""
        return ()

    def on_train_begin(self, state: TrainerState) -> None:
        """Called before the first step of this try."""

    def should_stop(self, state: TrainerState) -> bool:
        """Whether training ends before the next step."""
        return False

    def on_step_begin(self, state: TrainerState) -> dict[str, float]:
        """Called before a step; returns metrics for its row."""
        return {}

    def requests(self) -> dict[str, bool]:
        """What this process asks all processes to do at the end of the step, by name."""
        return {}

    def evaluate(self, state: TrainerState) -> dict[str, float]:
        """Called after the weights were updated; returns metrics for the step's row."""
        return {}

    def on_step_end(self, state: TrainerState) -> None:
        """Called when the step's row is in the log."""

    def on_train_end(self, error: BaseException | None) -> None:
        """Called when training has ended, with the error that ended it if there is one."""

    def summarize(self, log: MetricsLog) -> dict[str, Any]:
        """Metrics of the whole run."""
        return {}
