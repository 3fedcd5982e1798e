"""Runs beside each other: the settings and results in which they differ, and their curves on one axis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.pipeline.report import format_number
from hanlin.web.runs.stages import RunView

MAX_RUNS = 8
"""Runs that are compared; the colors of more curves are not told apart."""
_SHOWN_CHARACTERS = 120
MISSING = "–"


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting or a metric in which runs differ: the stage, its dotted name, and the value in each run as text."""

    stage: str
    name: str
    values: tuple[str, ...]


def stages_in_common(runs: Sequence[RunView]) -> list[str]:
    """The names of the stages that two of the runs have, in order."""
    names = dict.fromkeys(stage.name for run in runs for stage in run.stages)
    return [name for name in names if sum(run.stage(name) is not None for run in runs) > 1]


def differing_settings(runs: Sequence[RunView]) -> list[Difference]:
    """The settings in which runs differ, in stages that two of them have; and which have a stage that others lack."""
    differences = []
    for name in dict.fromkeys(stage.name for run in runs for stage in run.stages):
        stages = [run.stage(name) for run in runs]
        kinds = tuple(MISSING if stage is None else stage.kind for stage in stages)
        if len(set(kinds)) > 1:
            differences.append(Difference(name, "kind", kinds))
        rows = [{} if stage is None else dict(flatten(stage.settings)) for stage in stages]
        present = [row for row, stage in zip(rows, stages, strict=True) if stage is not None]
        if len(present) < 2:
            continue
        for setting in dict.fromkeys(setting for row in present for setting in row):
            values = tuple(_show(row.get(setting, MISSING)) for row in rows)
            if len({_show(row.get(setting, MISSING)) for row in present}) > 1:
                differences.append(Difference(name, setting, values))
    return differences


def differing_metrics(runs: Sequence[RunView]) -> list[Difference]:
    """The figures of finished stages in which runs differ; what depends on the clock is left out."""
    differences = []
    for name in stages_in_common(runs):
        stages = [run.stage(name) for run in runs]
        rows = [{} if stage is None else dict(flatten(stage.metrics)) for stage in stages]
        for metric in dict.fromkeys(metric for row in rows for metric in row):
            values = [row.get(metric) for row in rows]
            numbers = [value for value in values if _is_number(value)]
            is_clock = any(part in metric.split(".") for part in ("seconds", "tokens_per_second", "peak_memory_gb"))
            if len(numbers) > 1 and len(set(numbers)) > 1 and not is_clock:
                shown = tuple(format_number(value) if _is_number(value) else MISSING for value in values)
                differences.append(Difference(name, metric, shown))
    return differences


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by their dotted names; lists stay whole."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flatten(inner, f"{prefix}.{name}" if prefix else str(name))
    elif prefix:
        yield prefix, value


def _show(value: Any) -> str:
    if value == MISSING:
        return MISSING
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
