"""Speed and memory of each step, and experiment trackers: what depends on the clock.

`speed.jsonl` and the trackers' sessions are in the log folder, not in the result: two tries of one run differ in them,
and in nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Protocol

from hanlin.config.settings.train import Training
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import write_text
from hanlin.core.i18n import tr
from hanlin.train.callbacks.base import Callback, TrainerState
from hanlin.train.callbacks.metrics_log import read_metrics

SPEED_FILE = "speed.jsonl"
PROJECT = "hanlin"


class Tracker(Protocol):
    """A program that shows metrics by step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers(Callback):
    """Writes `speed.jsonl` and reports to the trackers of `report_to`, in the main process.

    Args:
        context: Has the log folder and the name of the stage.
        out: The stage's folder.
        settings: `report_to`, and what the trackers show of the settings.
        step: Steps that the run goes on from.
        writes: Whether this process writes.
    """

    def __init__(self, context: StageContext, out: Path, settings: Training, step: int, writes: bool) -> None:
        self._folder = context.log_folder(out)
        self._name = context.progress.name or out.name
        self._settings, self._step, self._writes = settings, step, writes
        self._seconds_before = 0.0
        self._file: IO[str] | None = None
        self._trackers: list[Tracker] = []
        self._resources = ExitStack()

    def on_train_begin(self, state: TrainerState) -> None:
        """Open the file and the trackers. Raises UserError if a tracker does not start."""
        self.open()

    def on_step_end(self, state: TrainerState) -> None:
        self.add(state.log.rows[-1], state.seconds, state.peak_memory_gb)

    def on_train_end(self, error: BaseException | None) -> None:
        self.close()

    def open(self) -> None:
        if not self._writes:
            return
        file = self._folder / SPEED_FILE
        rows = [row for row in read_metrics(file) if row["step"] <= self._step] if file.is_file() else []
        self._seconds_before = float(rows[-1]["seconds"]) if rows else 0.0
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        with ExitStack() as opened:  # which closes what is open if a tracker does not start
            self._file = opened.enter_context(file.open("a", encoding="utf-8", newline="\n"))
            for name in self._settings.report_to:
                tracker = TRACKERS[name](self._folder, self._name, self._step, self._settings)
                opened.callback(tracker.close)
                self._trackers.append(tracker)
            self._resources = opened.pop_all()

    def close(self) -> None:
        self._resources.close()

    def add(self, row: Mapping[str, Any], seconds: float, memory_gb: float) -> None:
        """Report a step.

        Args:
            row: Its metrics.
            seconds: When it was done, counted from the begin of the run.
            memory_gb: The most memory that was held so far.
        """
        if self._file is None:
            return
        step_seconds, self._seconds_before = seconds - self._seconds_before, seconds
        speed = {"tokens_per_second": row["tokens"] / max(step_seconds, 1e-9), "memory_gb": memory_gb}
        shown = {name: row[name] for name in ("loss", "learning_rate", "grad_norm")}
        self._file.write(json.dumps({"step": row["step"], "seconds": round(seconds, 3), **shown, **speed}) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(int(row["step"]), {**{name: row[name] for name in row if name != "step"}, **speed})


class _TensorBoard:
    def __init__(self, folder: Path, name: str, step: int, settings: Training) -> None:
        board = _import("torch.utils.tensorboard", "tensorboard")
        self._writer = board.SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class _RunTracker:
    """Weights & Biases or SwanLab, whose APIs are alike: each has one run in a process."""

    def __init__(self, module: str, settings: Training, **options: Any) -> None:
        """Raises UserError with the program's own message if it does not start: no account, no network."""
        self._library = _import(module, module)
        try:
            self._library.init(project=PROJECT, config=settings.model_dump(mode="json"), **options)
        except Exception as error:  # each has exceptions of its own
            offline = f"{module.upper()}_MODE=offline"
            hint = tr("log in, or set {offline}", offline=offline)
            raise UserError(
                tr("{module} does not start: {error}", module=module, error=error), "report_to", hint
            ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._library.log(dict(metrics), step=step)

    def close(self) -> None:
        self._library.finish()


def _wandb(folder: Path, name: str, step: int, settings: Training) -> Tracker:
    """`WANDB_MODE=offline` keeps everything on this machine."""
    return _RunTracker("wandb", settings, name=name, dir=str(folder), id=folder.name, resume="allow")


def _swanlab(folder: Path, name: str, step: int, settings: Training) -> Tracker:
    """`SWANLAB_MODE=local` or `offline` keeps everything on this machine."""
    mode = os.environ.get("SWANLAB_MODE")
    options = {"mode": mode} if mode else {}
    return _RunTracker("swanlab", settings, experiment_name=name, logdir=str(folder / "swanlab"), **options)


TRACKERS: dict[str, Callable[[Path, str, int, Training], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _wandb,
    "swanlab": _swanlab,
}


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = tr("pip install 'hanlin[{extra}]'", extra=extra)
        raise UserError(tr("{extra} is not installed", extra=extra), "report_to", hint) from error
