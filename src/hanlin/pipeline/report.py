"""The report of a run: figures from the manifests of its artifacts, compared with the recipe's targets.

Nothing is measured here: every measured_bound was measured by a stage and is in its manifest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.config.reasons import name_count
from hanlin.config.recipe import Recipe, Target
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.core.version import __version__
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import Manifest
from hanlin.pipeline.metric_names import name_metric
from hanlin.pipeline.step import Step

_SHOWN_METRICS = 6
_SHOWN_COUNTS = 4


@dataclass(frozen=True, slots=True)
class TargetResult:
    """A target and what was measured; `value` is None if the figure is missing, `bound` if it is one that is."""

    figure: str
    value: float | None
    sign: str
    bound: float | None
    reached: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a run, the results of its targets, seconds by stage, and all of it as JSON data.

    `data` is what `report.json` holds.
    """

    figures: Mapping[str, Any]
    results: tuple[TargetResult, ...]
    seconds: Mapping[str, float]
    data: Mapping[str, Any]

    @property
    def reached(self) -> bool:
        """Whether all targets are reached."""
        return all(result.reached for result in self.results)


def done_steps(steps: Sequence[Step]) -> list[Step]:
    """The steps that are done. A stale one has a manifest too, of what was made from other inputs: none of its figures
    is one of this recipe.
    """
    return [step for step in steps if step.state == "done"]


def build_report(recipe: Recipe, steps: Sequence[Step]) -> Report:
    """The report of a run, from the manifests of the steps that are done."""
    manifests = {step.stage.name: step.manifest for step in done_steps(steps) if step.manifest is not None}
    figures: dict[str, Any] = {}
    for name, source in recipe.report.figures.items():
        if isinstance(source, dict):
            figures[name] = {part: _metric(text, manifests) for part, text in source.items()}
        else:
            figures[name] = _metric(source, manifests)
    results = tuple(_check_target(target, figures) for target in recipe.report.targets)
    seconds = {name: manifest.seconds for name, manifest in manifests.items()}
    data = {
        "recipe": recipe.name,
        "hanlin": __version__,
        **figures,
        "targets": [
            {"figure": v.figure, "value": v.value, "sign": v.sign, "bound": v.bound, "reached": v.reached}
            for v in results
        ],
        "all_targets_reached": all(v.reached for v in results),
        "seconds": seconds,
        "seconds_total": round(sum(seconds.values()), 3),
        "stages": {
            name: {"kind": m.kind, "key": m.key, "digest": m.digest, "metrics": m.metrics}
            for name, m in manifests.items()
        },
    }
    return Report(figures, results, seconds, data)


def _metric(text: str, manifests: Mapping[str, Manifest]) -> float | None:
    stage, _, path = text.partition(".")
    value: Any = manifests[stage].metrics if stage in manifests else None
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _check_target(target: Target, figures: Mapping[str, Any]) -> TargetResult:
    def read(name: str) -> float | None:
        head, _, part = name.partition(".")
        value = figures[head]
        if part:
            value = value[part]
        return value if isinstance(value, float) else None

    value = read(target.figure)
    sign, bound = ("≥", target.at_least) if target.at_least is not None else ("≤", target.at_most)
    measured_bound = read(bound) if isinstance(bound, str) else bound
    if value is None or measured_bound is None or math.isnan(value):
        return TargetResult(target.figure, value, sign, measured_bound, False)
    limit = measured_bound - target.tolerance if sign == "≥" else measured_bound + target.tolerance
    reached = value >= limit - 1e-12 if sign == "≥" else value <= limit + 1e-12
    return TargetResult(target.figure, value, sign, limit, reached)


def format_number(value: Any) -> str:
    """A measured value for people: four digits, large numbers without decimals, `–` if it is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value and abs(value) < 0.001:
            return f"{value:.2e}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def summarize_metrics(step: Step) -> str:
    """The metrics of one stage in a line: those that its kind shows, else the first six.

    Of training also how many records were refused or changed, for being over-long above all.
    """
    metrics = step.manifest.metrics if step.manifest else {}
    kind = step.stage.kind
    names = kind.shows or tuple(metrics)
    if kind.group:
        names += tuple(name for name in ("refused", "changed") if name not in names)
    parts = []
    for name in names:
        value, label = _read_metric(metrics, name.split(".")), name_metric(name)
        if isinstance(value, Mapping) and set(value) == {"before", "after"}:
            parts.append(f"{label} {format_number(value['before'])} → {format_number(value['after'])}")
        elif isinstance(value, Mapping) and value and all(isinstance(v, int | float) for v in value.values()):
            parts.append(_summarize_counts(name, label, value))
        elif isinstance(value, int | float | str):
            parts.append(f"{label} {format_number(value)}")
    return " · ".join(parts if kind.shows else parts[:_SHOWN_METRICS])


def _read_metric(value: Any, path: Sequence[str]) -> Any:
    """The metric of a path; `*` stands for each part that has the rest of it: a file of an export, a source."""
    for index, part in enumerate(path):
        if not isinstance(value, Mapping):
            return None
        if part == "*":
            found = {name: _read_metric(row, path[index + 1 :]) for name, row in value.items()}
            return {name: number for name, number in found.items() if number is not None}
        value = value.get(part)
    return value


def _summarize_counts(metric: str, label: str, counts: Mapping[str, float]) -> str:
    """The largest four of some counts, and how many more there are: `unread fields: score 3, lang 3, … (+2)`.

    Of reasons the words are told too: `dropped: too_short (it is too short) 3`.
    """
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown = [f"{name_count(metric, name)} {format_number(count)}" for name, count in ranked[:_SHOWN_COUNTS]]
    rest = [f"… (+{len(ranked) - _SHOWN_COUNTS})"] if len(ranked) > _SHOWN_COUNTS else []
    return f"{label}: {', '.join([*shown, *rest])}"


def sample_answers(recipe: Recipe, steps: Sequence[Step], store: Store, count: int = 24) -> list[dict[str, Any]]:
    """Up to `count` answers of the evaluation that the recipe shows, spread over its topics."""
    evaluation = recipe.report.conversation
    for step in steps:
        if step.stage.name == evaluation and step.manifest is not None:
            file = store.folder(step.stage.kind.name, step.key) / "answers.jsonl"
            try:
                rows = [parse_json(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
            except OSError as error:
                raise UserError(tr("the answers cannot be read"), file) from error
            by_topic: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                by_topic.setdefault(str(row.get("topic", "")), []).append(row)
            columns = list(by_topic.values())
            return [column[depth] for depth in range(2) for column in columns if depth < len(column)][:count]
    return []
