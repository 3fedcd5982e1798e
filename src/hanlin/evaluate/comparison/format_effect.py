"""How much of a gain is the format of the answer alone: two models with and without examples that teach it.

A tuned model that learned the form of an answer gains on a base model that has to guess it. Examples with random
answers (`tasks.format_control`) tell both models the form and nothing else. What is left of the gain then is not the
form:

    gain without examples     tuned − base, neither is told the form
    gain when told the form   tuned − base, both see examples of random answers
    from the form             the first minus the second, over the same questions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.core.i18n import mark
from hanlin.evaluate.bootstrap import average_of, percentile_interval, resample
from hanlin.evaluate.comparison.results import Results, ScoredTask

MIN_CHANGED = 6
"""Questions that must have changed before a difference is called one: of five that all changed for the worse, chance
makes as many go one way in 2 · ½⁵ = 6 % of cases, though every draw of a bootstrap agrees."""
_VERDICTS = {
    "beyond": mark("a gain beyond the format"),
    "format": mark("may be the format alone"),
    "none": mark("no gain is shown"),
}


def compare_format(
    results: Sequence[Results], names: Sequence[str], *, seed: int, resamples: int
) -> list[dict[str, Any]]:
    """The effect of the format alone, for each task that was asked with its controls.

    Args:
        results: Results of any number of models.
        names: The model of each.
        seed: Seed of the bootstrap.
        resamples: Draws of the bootstrap.

    Returns:
        Of each task its `name`, `setup` and `metric`, and `rows`: for each model what `measure_format` found of it, and
        if the first model was asked the same, `gain`: `no_examples`, `format_only` and `from_format` with their paired
        intervals, and `verdict`: `beyond` (a gain is shown when both are told the form), `format` (one is shown only
        while they are not) or `none`, with its `description`, a message of the catalog.
    """
    tasks: dict[tuple[str, str], list[tuple[str, ScoredTask]]] = {}
    for item, name in zip(results, names, strict=True):
        for task in item.tasks:
            if task.format_effect:
                tasks.setdefault((task.name, repr(sorted(task.setup.items()))), []).append((name, task))
    compared = []
    for columns in tasks.values():
        first = columns[0][1]
        baseline = next((task for name, task in columns if name == names[0]), None)
        rows: list[dict[str, Any]] = []
        for name, task in columns:
            row: dict[str, Any] = {"model": name, **task.format_effect}
            if baseline is not None and task is not baseline:
                row["gain"] = _gain(baseline, task, seed, resamples)
            rows.append(row)
        compared.append({"name": first.name, "setup": dict(first.setup), "metric": first.metric, "rows": rows})
    return compared


def _gain(baseline: ScoredTask, task: ScoredTask, seed: int, resamples: int) -> dict[str, Any]:
    """The gain of a task over the baseline without examples and when both are told the form, and their difference."""
    columns = [
        {question.id: question for question in (one.controls.get(control) or one).questions}
        for control in ("no_examples", "format_only")
        for one in (task, baseline)
    ]
    ids = [name for name in columns[0] if all(name in column for column in columns)]
    values = np.array([[column[name].value for name in ids] for column in columns], dtype=np.float64)
    weights = np.ones_like(values)
    subjects = [columns[0][name].subject for name in ids]
    groups = np.unique(np.array(subjects), return_inverse=True)[1].astype(np.intp)
    points = average_of(values, weights, groups, task.average)
    draws = resample(values, weights, groups, task.average, resamples=resamples, seed=seed)
    plain = _interval(points[0] - points[1], draws[:, 0] - draws[:, 1], values[0] - values[1])
    told = _interval(points[2] - points[3], draws[:, 2] - draws[:, 3], values[2] - values[3])
    rest = draws[:, 0] - draws[:, 1] - draws[:, 2] + draws[:, 3]
    change = values[0] - values[1] - values[2] + values[3]
    verdict = "beyond" if _is_shown(told) else "format" if _is_shown(plain) else "none"
    from_format = _interval(points[0] - points[1] - points[2] + points[3], rest, change)
    return {"no_examples": plain, "format_only": told, "from_format": from_format, "verdict": verdict,
            "description": _VERDICTS[verdict]}  # fmt: skip


def _interval(point: float, draws: npt.NDArray[np.float64], change: npt.NDArray[np.float64]) -> dict[str, Any]:
    interval = percentile_interval(draws)
    changed = int((change != 0).sum())
    return {"value": float(point), "low": interval.low, "high": interval.high, "changed": changed}


def _is_shown(difference: Mapping[str, Any]) -> bool:
    """Whether a difference is a gain beyond its interval."""
    return bool(difference["changed"] >= MIN_CHANGED and difference["low"] > 0)
