"""The metrics of a training run: one line of JSON for each step, and TensorBoard events of it on demand.

`metrics.jsonl` holds nothing that depends on the clock, so that a resumed run leaves the same bytes as an unbroken one;
speeds are in `speed.jsonl` (`trackers`) and in the metrics of the stage.
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
from hanlin.core.files import open_atomic, parse_json
from hanlin.core.i18n import tr

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """The rows of a run so far, and the file that they are written to.

    Args:
        path: The file.
        step: Steps that the run goes on from; rows of later steps in the file are dropped.
        writes: Whether this process writes the file; one process of a group does.

    Raises:
        RuntimeError: The file lacks a row of the steps before.
    """

    def __init__(self, path: Path, step: int, writes: bool = True) -> None:
        self.rows = [row for row in read_metrics(path) if row["step"] <= step] if path.is_file() else []
        if [row["step"] for row in self.rows] != list(range(1, step + 1)):
            raise RuntimeError(f"{path} does not hold the {step} steps that its checkpoint has")
        self._totals: Counter[str] = Counter()
        for row in self.rows:
            self._count(row)
        self._path = path
        self._file: IO[str] | None = None
        self._writes = writes
        self._flushed_at = 0.0

    def __enter__(self) -> Self:
        if self._writes:
            with open_atomic(self._path) as file:
                file.writelines(_line(row) for row in self.rows)
            self._file = self._path.open("a", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, row: dict[str, Any]) -> None:
        """Append the row of a step; readers of the file see it within a second."""
        self.rows.append(row)
        self._count(row)
        if self._file is not None:
            self._file.write(_line(row))
            if time.monotonic() - self._flushed_at > 1:
                self._file.flush()
                self._flushed_at = time.monotonic()

    def sync(self) -> None:
        """Bring every line to the disk: a checkpoint relies on the lines up to its step."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def total(self, name: str) -> int:
        """The sum of a count over all steps."""
        return self._totals[name]

    def _count(self, row: Mapping[str, Any]) -> None:
        self._totals.update({name: value for name, value in row.items() if isinstance(value, int)})

    def recent_mean(self, name: str) -> float:
        """The mean over the last twenty steps."""
        return _mean([float(row[name]) for row in self.rows[-20:]])

    def last(self, name: str) -> float | None:
        """The last value of a metric that is not in every row, or None."""
        return next((float(row[name]) for row in reversed(self.rows) if name in row), None)

    def first_and_last(self, name: str) -> dict[str, float]:
        """The means over the first and over the last twentieth of the steps, as `first` and `last`."""
        values = [float(row[name]) for row in self.rows]
        count = max(1, len(values) // 20)
        return {"first": _mean(values[:count]), "last": _mean(values[-count:])}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`; a last line that was cut off by a kill is left out."""
    with path.open(encoding="utf-8") as file:
        return [parse_json(line) for line in file if line.endswith("\n")]


def write_tensorboard(metrics_file: Path, folder: Path) -> int:
    """Write TensorBoard events of a run's `metrics.jsonl`.

    Args:
        metrics_file: The file.
        folder: Where the events are written.

    Returns:
        How many steps they show.

    Raises:
        UserError: The file does not exist, or TensorBoard is not installed.
    """
    if not metrics_file.is_file():
        hint = tr("give the metrics.jsonl of a training stage")
        raise UserError(tr("there are no training metrics here"), metrics_file, hint, "not_found")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = tr("pip install 'hanlin[tensorboard]'")
        raise UserError(tr("TensorBoard is not installed"), None, hint) from error
    rows = read_metrics(metrics_file)
    with SummaryWriter(str(folder)) as writer:
        for row in rows:
            for name, value in row.items():
                if name != "step":
                    writer.add_scalar(f"train/{name}", value, row["step"])
    return len(rows)
