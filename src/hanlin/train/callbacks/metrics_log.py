"""The curve of a training run: one line of JSON for each step, and TensorBoard's form of it on demand.

Owns `metrics.jsonl`. It holds nothing that depends on the clock, so that a run which was resumed leaves the same bytes
as one that was not; speeds are in the stage's metrics.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from hanlin.core.errors import UserError
from hanlin.core.i18n import say

FILE = "metrics.jsonl"


class Curve:
    """The rows of a run so far. Opened at a step, it keeps only what was written for earlier ones; with `writes` it
    appends to the file (one process of a group does)."""

    def __init__(self, path: Path, step: int, writes: bool = True) -> None:
        self.rows = [row for row in read_curve(path) if row["step"] <= step] if path.is_file() else []
        if [row["step"] for row in self.rows] != list(range(1, step + 1)):
            raise RuntimeError(f"{path} does not hold the {step} steps that its checkpoint has")
        self._totals: Counter[str] = Counter()
        for row in self.rows:
            self._count(row)
        self._path = path
        self._file: IO[str] | None = None
        self._writes = writes
        self._shown = 0.0

    def __enter__(self) -> Self:
        if self._writes:
            aside = self._path.with_name(self._path.name + ".writing")
            with aside.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(_line(row) for row in self.rows)
            os.replace(aside, self._path)
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: dict[str, Any]) -> None:
        """Append a step; readers of the file see it within a second."""
        self.rows.append(row)
        self._count(row)
        if self._file is not None:
            self._file.write(_line(row))
            if time.monotonic() - self._shown > 1:
                self._file.flush()
                self._shown = time.monotonic()

    def settle(self) -> None:
        """Bring every line to the disk: a checkpoint promises the lines up to its step."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def total(self, name: str) -> int:
        return self._totals[name]

    def _count(self, row: Mapping[str, Any]) -> None:
        self._totals.update({name: value for name, value in row.items() if isinstance(value, int)})

    def recent(self, name: str) -> float:
        """The mean over the last twenty steps."""
        return _mean([float(row[name]) for row in self.rows[-20:]])

    def last(self, name: str) -> float | None:
        """The last value that was measured under a name."""
        return next((float(row[name]) for row in reversed(self.rows) if name in row), None)

    def ends(self, name: str) -> dict[str, float]:
        """The mean over the first and over the last twentieth of the steps."""
        values = [float(row[name]) for row in self.rows]
        share = max(1, len(values) // 20)
        return {"first": _mean(values[:share]), "last": _mean(values[-share:])}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut off by a kill is left out."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def tensorboard(metrics_file: Path, folder: Path) -> int:
    """Write TensorBoard events of a run's `metrics.jsonl` into `folder`; return how many steps they show.

    Raises UserError when the file is not there or TensorBoard is not installed.
    """
    if not metrics_file.is_file():
        hint = say("name the metrics.jsonl of a training stage", "请指定训练阶段产物中的 metrics.jsonl")
        raise UserError(say("there is no curve here", "这里没有训练曲线"), metrics_file, hint)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = say("pip install 'hanlin[tensorboard]'", "请安装：pip install 'hanlin[tensorboard]'")
        raise UserError(say("TensorBoard is not installed", "未安装 TensorBoard"), None, hint) from error
    rows = read_curve(metrics_file)
    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(f"train/{name}", value, row["step"])
    return len(rows)
