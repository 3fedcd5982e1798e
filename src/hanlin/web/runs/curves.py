"""The curves of a training stage: read as they grow, and reduced for drawing without losing a spike.

A run of 100,000 steps has two files of 10 to 20 MB. What was read once is kept; a later request reads the new lines
alone. For a picture each curve is cut into as many parts as it has pixels, and of each part the least and the greatest
value are drawn where they were: a spike of one step stays as high as it was.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.core.files import file_state

METRICS_FILE, SPEED_FILE = "metrics.jsonl", "speed.jsonl"
"""What training writes: metrics by step in the artifact's folder, and what depends on the clock in its log folder."""
AT_START = "_at_start"
MAX_POINTS = 1_500
"""Points of a curve that a picture shows, two for each part."""
_CHUNK_BYTES = 4 << 20
_STEP = re.compile(r"(?:step|epoch|tokens|target_tokens|seconds)")
_PROBE = re.compile(r"probe_(?P<topic>.+)_(?P<measure>loss|accuracy)")


@dataclass(slots=True)
class Curve:
    """A metric by step: steps ascend and values are finite. `broken` are the steps at which it was not finite."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    broken: list[int] = field(default_factory=list)

    def extend(self, steps: Sequence[int], values: Sequence[Any]) -> None:
        """Append values, each at its step; what is no number is left out."""
        try:
            if math.isfinite(math.fsum(values)):
                self.values.extend(values)
                self.steps.extend(steps)
                return
        except (TypeError, ValueError, OverflowError):
            pass
        for step, value in zip(steps, values, strict=True):
            if not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                self.steps.append(step)
                self.values.append(float(value))
            else:
                self.broken.append(step)

    def cut(self, first: int | None, last: int | None) -> Curve:
        """The part of it from step `first` to `last`, and a point on each side so that lines reach the edges."""
        begin = 0 if first is None else max(0, bisect_left(self.steps, first) - 1)
        end = len(self.steps) if last is None else min(len(self.steps), bisect_right(self.steps, last) + 1)
        return Curve(self.steps[begin:end], self.values[begin:end], self.broken)


def reduce_curve(curve: Curve, max_points: int = MAX_POINTS) -> tuple[list[int], list[float]]:
    """The points of a curve that a picture needs.

        values   3 3 9 3 | 2 2 2 1 | 1 1 1 1      four steps a part, three parts
        points   3   9   | 2     1 | 1     1      the first least and first greatest of each, in their order

    Args:
        curve: The curve.
        max_points: How many points may be drawn.

    Returns:
        Steps and values, at most `max_points` of each; the first and the last point, the least and the greatest value
        are among them.
    """
    steps, values = curve.steps, curve.values
    count = len(steps)
    if count <= max_points:
        return steps.tolist(), values.tolist()
    parts = max(1, (max_points - 2) // 2)
    kept = {0, count - 1}
    for part in range(parts):
        begin, end = part * count // parts, (part + 1) * count // parts
        window = values[begin:end]
        kept.add(begin + window.index(min(window)))
        kept.add(begin + window.index(max(window)))
    indices = sorted(kept)
    return [steps[index] for index in indices], [values[index] for index in indices]


class GrowingLog:
    """The curves of a JSON Lines file that a run appends to, or writes anew when it goes on from a checkpoint.

    Args:
        path: The file; it need not exist yet.
        unread: Names of metrics that are not wanted.
    """

    def __init__(self, path: Path, unread: frozenset[str] = frozenset()) -> None:
        self.curves: dict[str, Curve] = {}
        self.last_row: dict[str, Any] = {}
        self.num_rows = 0
        self._path = path
        self._unread = unread | {"step"}
        self._position = 0
        self._inode = -1
        self._rest = b""
        self._lock = threading.Lock()

    def update(self) -> None:
        """Read the lines that are new; a last line without its end waits for the next time."""
        with self._lock:
            try:
                with self._path.open("rb") as file:
                    state = file_state(os.fstat(file.fileno()))
                    if state.inode != self._inode or state.size < self._position:
                        self._start_over(state.inode)
                    file.seek(self._position)
                    while data := file.read(_CHUNK_BYTES):
                        self._position += len(data)
                        self._add(data)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
                self._start_over(-1)

    def _start_over(self, inode: int) -> None:
        self.curves, self.last_row, self.num_rows = {}, {}, 0
        self._position, self._inode, self._rest = 0, inode, b""

    def _add(self, data: bytes) -> None:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        rows = [row for row in _parse_lines(lines) if isinstance(row, dict) and type(row.get("step")) is int]
        if not rows:
            return
        self.num_rows += len(rows)
        self.last_row = rows[-1]
        for name in {name: None for row in rows for name in row if name not in self._unread}:
            steps = [row["step"] for row in rows if name in row]
            values = [row[name] for row in rows if name in row]
            base = name.removesuffix(AT_START)
            if base != name:  # measured before its step
                steps = [step - 1 for step in steps]
            self.curves.setdefault(base, Curve()).extend(steps, values)


def _parse_lines(lines: Sequence[bytes]) -> list[Any]:
    """The values of lines of JSON; a line that is none, as a crash of the machine leaves it, is left out."""
    try:  # all at once is twice as fast as one by one
        rows: list[Any] = json.loads(b"[" + b",".join(lines) + b"]") if lines else []
        return rows
    except (ValueError, RecursionError):
        return [row for line in lines if (row := _parse_line(line)) is not None]


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn in one picture: the metrics on one axis."""

    name: str
    curves: tuple[str, ...]


def group_curves(names: Sequence[str]) -> list[Picture]:
    """The pictures of a training stage, the most telling first: losses, probes, rate, gradient, speed, memory, others.

    Args:
        names: The metrics that there are.
    """
    probe_names = [name for name in names if _PROBE.fullmatch(name)]
    losses = [name for name in names if name in ("loss", "validation_loss", "preference_loss")]
    pictures = [
        Picture("loss", tuple(losses)),
        Picture("probe_loss", tuple(name for name in probe_names if name.endswith("loss"))),
        Picture("probe_accuracy", tuple(name for name in probe_names if name.endswith("accuracy"))),
        *(
            Picture(name, (name,))
            for name in ("learning_rate", "grad_norm", "tokens_per_second", "memory_gb")
            if name in names
        ),
    ]
    shown = {name for picture in pictures for name in picture.curves}
    pictures += [Picture(name, (name,)) for name in names if name not in shown and not _STEP.fullmatch(name)]
    return [picture for picture in pictures if picture.curves]


class StageCurves:
    """The curves of one training stage, from both of its files.

    Args:
        metrics: `metrics.jsonl`.
        speed: `speed.jsonl`, whose metrics count where the other has none of the name.
    """

    def __init__(self, metrics: Path, speed: Path) -> None:
        self._metrics = GrowingLog(metrics)
        self._speed = GrowingLog(speed, frozenset({"loss", "learning_rate", "grad_norm"}))

    def update(self) -> None:
        """Read what is new."""
        self._metrics.update()
        self._speed.update()

    @property
    def curves(self) -> Mapping[str, Curve]:
        return {**self._speed.curves, **self._metrics.curves}

    @property
    def last_step(self) -> int:
        return int(self._metrics.last_row.get("step", 0))

    @property
    def last_rows(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The last row of the metrics, and that of the speeds."""
        return self._metrics.last_row, self._speed.last_row

    def drawn(self, first: int | None = None, last: int | None = None, max_points: int = MAX_POINTS) -> dict[str, Any]:
        """All pictures as JSON data, from step `first` to `last`.

        Returns:
            `step`, the last one; `pictures`, of each its `name` and `curves`, of each of these `name`, `steps`,
            `values`, `last` and `broken`, the first steps at which it was not a finite number.
        """
        curves = self.curves
        return {
            "step": self.last_step,
            "pictures": [
                {
                    "name": picture.name,
                    "curves": [_drawn(name, curves[name], first, last, max_points) for name in picture.curves],
                }
                for picture in group_curves(list(curves))
            ],
        }


def _drawn(name: str, curve: Curve, first: int | None, last: int | None, max_points: int) -> dict[str, Any]:
    steps, values = reduce_curve(curve.cut(first, last), max_points)
    return {
        "name": name,
        "steps": steps,
        "values": [float(f"{value:.6g}") for value in values],
        "last": curve.values[-1] if curve.values else None,
        "broken": curve.broken[:5],
    }


@dataclass(frozen=True, slots=True)
class Forgetting:
    """A probe of what the model could do before: its first and last value."""

    topic: str
    measure: str
    before: float
    now: float

    @property
    def is_worse(self) -> bool:
        return self.now > self.before if self.measure == "loss" else self.now < self.before


def list_forgetting(curves: Mapping[str, Curve]) -> Iterator[Forgetting]:
    """The probes of a stage, each with what it was at the start and what it is now."""
    for name, curve in curves.items():
        if (match := _PROBE.fullmatch(name)) and curve.values:
            yield Forgetting(match["topic"], match["measure"], curve.values[0], curve.values[-1])
