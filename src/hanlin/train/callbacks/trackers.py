"""What is told of a run while it lasts and depends on the clock: speed and memory of each step, and trackers.

Owns `speed.jsonl` and the trackers' sessions. They lie beside the result, not in it: two tries of one run differ here,
and in nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from hanlin.config.settings.train import Training
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.callbacks.metrics_log import read_curve

FILE = "speed.jsonl"
PROJECT = "hanlin"


class Tracker(Protocol):
    """A program that shows figures by step."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Watch:
    """Speed, memory and trackers of a run that has `done` steps behind it. One process of a group `writes`."""

    def __init__(self, context: StageContext, out: Path, settings: Training, done: int, writes: bool) -> None:
        self._folder = context.log_folder(out)
        self._name = context.progress.name or out.name
        self._settings, self._done, self._writes = settings, done, writes
        self._before = 0.0
        self._file: IO[str] | None = None
        self._trackers: list[Tracker] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if not self._writes:
            return self
        file = self._folder / FILE
        kept = [row for row in read_curve(file) if row["step"] <= self._done] if file.is_file() else []
        self._before = float(kept[-1]["seconds"]) if kept else 0.0
        aside = file.with_name(FILE + ".writing")
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(aside, file)
        with ExitStack() as opened:  # which closes what is open when a tracker does not start
            self._file = opened.enter_context(file.open("a", encoding="utf-8", newline="\n"))
            for name in self._settings.report_to:
                tracker = TRACKERS[name](self._folder, self._name, self._done, self._settings)
                opened.callback(tracker.close)
                self._trackers.append(tracker)
            self._open = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    def add(self, row: Mapping[str, Any], seconds: float, memory: float) -> None:
        """A step that was done `seconds` after the run's begin; `memory` is the most that was held so far, in GB."""
        if self._file is None:
            return
        took, self._before = seconds - self._before, seconds
        clocked = {"tokens_per_second": row["tokens"] / max(took, 1e-9), "memory_gb": memory}
        told = {name: row[name] for name in ("loss", "learning_rate", "grad_norm")}
        self._file.write(json.dumps({"step": row["step"], "seconds": round(seconds, 3), **told, **clocked}) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(int(row["step"]), {**{name: row[name] for name in row if name != "step"}, **clocked})


class _TensorBoard:
    def __init__(self, folder: Path, name: str, done: int, settings: Training) -> None:
        board = _library("torch.utils.tensorboard", "tensorboard")
        self._writer = board.SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class _Session:
    """Weights & Biases or SwanLab, which are called alike: each holds one session in a process."""

    def __init__(self, module: str, settings: Training, **more: Any) -> None:
        """Raises UserError in the program's own words when it does not start: no account, no network."""
        self._library = _library(module, module)
        try:
            self._library.init(project=PROJECT, config=settings.model_dump(mode="json"), **more)
        except Exception as error:  # each of them has its own kinds
            offline = f"{module.upper()}_MODE=offline"
            hint = say(f"log in, or set {offline}", f"请先登录，或设置 {offline}")
            raise UserError(
                say(f"{module} does not start: {error}", f"{module} 无法启动：{error}"), "report_to", hint
            ) from error

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._library.log(dict(figures), step=step)

    def close(self) -> None:
        self._library.finish()


def _wandb(folder: Path, name: str, done: int, settings: Training) -> Tracker:
    """`WANDB_MODE=offline` is its own way to keep everything on this machine."""
    return _Session("wandb", settings, name=name, dir=str(folder), id=folder.name, resume="allow")


def _swanlab(folder: Path, name: str, done: int, settings: Training) -> Tracker:
    """`SWANLAB_MODE=local` or `offline` keeps everything on this machine."""
    mode = os.environ.get("SWANLAB_MODE")
    more = {"mode": mode} if mode else {}
    return _Session("swanlab", settings, experiment_name=name, logdir=str(folder / "swanlab"), **more)


TRACKERS: dict[str, Callable[[Path, str, int, Training], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _wandb,
    "swanlab": _swanlab,
}


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = say(f"pip install 'hanlin[{extra}]'", f"请安装：pip install 'hanlin[{extra}]'")
        raise UserError(say(f"{extra} is not installed", f"未安装 {extra}"), "report_to", hint) from error
