"""Compares models task by task: paired intervals, subjects gained and lost, forgetting, clean questions.

The first model is the one that the others are compared with, usually the one that training began with.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, tr
from hanlin.evaluate.bootstrap import Average, average_of, percentile_interval, resample
from hanlin.evaluate.comparison.format_effect import MIN_CHANGED
from hanlin.evaluate.comparison.results import Results, ScoredQuestion, ScoredTask
from hanlin.evaluate.contamination import Contamination
from hanlin.evaluate.scoring import wilson_interval

SHOWN_QUESTIONS = 12
"""Questions won and lost of each task that are shown with their answers; all are in `questions.jsonl`."""


@dataclass(frozen=True, slots=True)
class TaskComparison:
    """One task: its `figures` as JSON data, and every question with the answers of all models."""

    figures: dict[str, Any]
    questions: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Column:
    """One task of one model, its questions by id."""

    model: str
    task: ScoredTask
    questions: Mapping[str, ScoredQuestion]


def name_models(results: Sequence[Results], names: Sequence[str] = ()) -> list[str]:
    """The name of the model of each result: equal names mean the same model.

    Args:
        results: The results.
        names: What the user calls them, one for each, or none.

    Returns:
        The names; models of one name that are not the same get the beginning of their digest.

    Raises:
        UserError: There are names for some results only.
    """
    if names:
        if len(names) != len(results):
            what = tr("{results} results have {names} names", results=len(results), names=len(names))
            raise UserError(what, "names", tr("name the model of each result, in order"))
        return list(names)
    digests: dict[str, set[str]] = {}
    for item in results:
        digests.setdefault(item.model, set()).add(item.digest)
    return [f"{item.model} ({item.digest[:6]})" if len(digests[item.model]) > 1 else item.model for item in results]


def compare(
    results: Sequence[Results],
    names: Sequence[str],
    *,
    seed: int,
    resamples: int,
    contamination: Contamination | None = None,
    common: bool = False,
) -> list[TaskComparison]:
    """Every task with the scores of all models that were asked it.

    Args:
        results: Results of any number of models; of one model alone the scores are given without differences.
        names: The model of each.
        seed: Seed of the bootstrap.
        resamples: Draws of the bootstrap.
        contamination: Which questions the training data holds.
        common: Compare the questions that all models were asked, instead of refusing different ones.

    Returns:
        One for each task and way of asking, in the order of the results. The figures of a task hold `scores` of the
        models (with the `difference` to the first), `subjects`, and the questions that `changed`.

    Raises:
        UserError: One model has a task twice, no task is that of two models, or their questions differ.
    """
    models = list(dict.fromkeys(names))
    tasks: dict[tuple[str, str], list[_Column]] = {}
    for item, name in zip(results, names, strict=True):
        for task in item.tasks:
            key = (task.name, repr(sorted(task.setup.items())))
            columns = tasks.setdefault(key, [])
            if any(column.model == name for column in columns):
                what = tr("there are two results of {model} for {task}", model=name, task=task.name)
                raise UserError(what, item.folder, tr("name the models with `names`, or leave one out"))
            columns.append(_Column(name, task, _by_id(task, item)))
    if len(models) > 1 and tasks and all(len(columns) < 2 for columns in tasks.values()):
        of_models = [
            f"{model}: {join_list([task for (task, _), columns in tasks.items() if columns[0].model == model])}"
            for model in models
        ]
        what = tr("no task was given to two of the models ({tasks})", tasks="; ".join(of_models))
        raise UserError(what, None, tr("compare results of the same tasks, asked in the same way"))
    return [
        _compare_task(sorted(columns, key=lambda column: models.index(column.model)), models[0], seed, resamples,
                      contamination, common)
        for columns in tasks.values()
    ]  # fmt: skip


def _by_id(task: ScoredTask, item: Results) -> dict[str, ScoredQuestion]:
    questions = {question.id: question for question in task.questions}
    if len(questions) != len(task.questions):
        raise UserError(tr("two questions of {task} have the same id", task=task.name), item.folder)
    return questions


def _compare_task(
    columns: Sequence[_Column],
    baseline: str,
    seed: int,
    resamples: int,
    contamination: Contamination | None,
    common: bool,
) -> TaskComparison:
    task = columns[0].task
    ids = _shared_ids(columns, common)
    table = _Table(columns, ids)
    reference = next((index for index, column in enumerate(columns) if column.model == baseline), None)
    rows = _score(table, reference, task.average, resamples, seed_of(seed, task))
    for row, column in zip(rows, columns, strict=True):
        if column.task.notes:
            row["notes"] = dict(column.task.notes)
    result: dict[str, Any] = {
        "name": task.name,
        "description": task.description,
        "setup": dict(task.setup),
        "metric": task.metric,
        "unit": task.unit,
        "higher_is_better": task.higher_is_better,
        "average": task.average,
        "questions": len(ids),
        "scores": rows,
        "subjects": _subjects(table, reference, seed, resamples),
        "changed": [table.describe(index) for index in table.changed(reference)],
        "asked": dict(task.asked),
    }
    if contamination is not None and task.unit == "share":
        result["contamination"] = _split(table, reference, seed, resamples, contamination)
    return TaskComparison(result, [table.describe(index) for index in range(len(ids))])


def seed_of(seed: int, task: ScoredTask) -> int:
    """The seed of a task's draws, the same wherever the task is in the list."""
    return zlib.crc32(f"{seed} {task.name} {sorted(task.setup.items())}".encode())


def _shared_ids(columns: Sequence[_Column], common: bool) -> list[str]:
    first = columns[0]
    shared = [name for name in first.questions if all(name in column.questions for column in columns[1:])]
    for column in columns[1:]:
        if not common and (len(shared) < len(first.questions) or len(shared) < len(column.questions)):
            what = tr(
                "{first} and {other} were asked different questions of {task}: {first_count} and {other_count}, "
                "{shared} of them the same",
                first=first.model, other=column.model, task=first.task.name, first_count=len(first.questions),
                other_count=len(column.questions), shared=len(shared),
            )  # fmt: skip
            raise UserError(what, None, tr("ask both the same, or compare what is common with `common: true`"))
    if not shared:
        models = join_list([column.model for column in columns])
        raise UserError(tr("{models} have no question of {task} in common", models=models, task=first.task.name))
    for column in columns[1:]:
        for name in shared:
            old, new = first.questions[name], column.questions[name]
            if (old.question, old.target) != (new.question, new.target):
                what = tr("question {id} of {task} is not the same in both results", id=name, task=first.task.name)
                raise UserError(what, None, tr("its text or its answer was changed: evaluate again"))
    return shared


class _Table:
    """The values of all models for the same questions, [models, questions]."""

    def __init__(self, columns: Sequence[_Column], ids: Sequence[str]) -> None:
        self.columns, self.ids = columns, ids
        rows = [[column.questions[name] for name in ids] for column in columns]
        self.values = np.array([[question.value for question in row] for row in rows], dtype=np.float64)
        self.weights = np.array([[question.weight for question in row] for row in rows], dtype=np.float64)
        self.subjects = [question.subject for question in rows[0]]
        names = list(dict.fromkeys(self.subjects))
        self.groups = np.array([names.index(subject) for subject in self.subjects], dtype=np.intp)

    def select(self, indices: npt.NDArray[np.intp]) -> _Table:
        """The table of some questions."""
        return _Table(self.columns, [self.ids[index] for index in indices])

    @property
    def task(self) -> ScoredTask:
        return self.columns[0].task

    def gains(self, index: int, reference: int) -> npt.NDArray[np.float64]:
        """By how much a model is better than the baseline on each question, [questions]; worse is negative."""
        per_unit = self.values / self.weights
        gain = per_unit[index] - per_unit[reference]
        return np.asarray(gain if self.task.higher_is_better else -gain)

    def changed(self, reference: int | None) -> list[int]:
        """The questions that changed most against the baseline, lost ones first; without one, those missed."""
        if reference is None or len(self.columns) == 1:
            order = np.argsort(self.values[0] / self.weights[0], kind="stable")
            order = order if self.task.higher_is_better else order[::-1]
            return [int(index) for index in order[:SHOWN_QUESTIONS]]
        shown: dict[int, None] = {}
        for index in range(len(self.columns)):
            if index == reference:
                continue
            gain = self.gains(index, reference)
            order = np.argsort(gain, kind="stable")
            lost = [int(question) for question in order if gain[question] < 0][:SHOWN_QUESTIONS]
            won = [int(question) for question in order[::-1] if gain[question] > 0][: SHOWN_QUESTIONS // 2]
            shown |= dict.fromkeys([*lost, *won])
        return list(shown)

    def describe(self, index: int) -> dict[str, Any]:
        """A question as JSON data: its texts, and the value and the answer of every model."""
        questions = [column.questions[self.ids[index]] for column in self.columns]
        return {
            "id": self.ids[index],
            "subject": questions[0].subject,
            "question": questions[0].question,
            "target": questions[0].target,
            "answers": {
                column.model: {"value": question.value / question.weight, "answer": question.answer}
                for column, question in zip(self.columns, questions, strict=True)
            },
        }


def _interval(point: float, draws: npt.NDArray[np.float64]) -> dict[str, float]:
    interval = percentile_interval(draws)
    return {"value": float(point), "low": interval.low, "high": interval.high}


def _difference(
    table: _Table, points: npt.NDArray[np.float64], draws: npt.NDArray[np.float64], index: int, reference: int
) -> dict[str, Any]:
    """The difference to the baseline with its paired interval, and the questions won and lost.

    The verdict is `loss` if it is worse beyond the interval, `gain` if better beyond it, else `same`.
    """
    gain = table.gains(index, reference)
    row: dict[str, Any] = _interval(points[index] - points[reference], draws[:, index] - draws[:, reference])
    row |= {"won": int((gain > 0).sum()), "lost": int((gain < 0).sum())}
    low, high = (row["low"], row["high"]) if table.task.higher_is_better else (-row["high"], -row["low"])
    is_shown = row["won"] + row["lost"] >= MIN_CHANGED
    row["verdict"] = "gain" if is_shown and low > 0 else "loss" if is_shown and high < 0 else "same"
    return row


def _score(table: _Table, reference: int | None, average: Average, resamples: int, seed: int) -> list[dict[str, Any]]:
    """The scores of all models over the questions of a table, each with its interval and difference."""
    points = average_of(table.values, table.weights, table.groups, average)
    draws = resample(table.values, table.weights, table.groups, average, resamples=resamples, seed=seed)
    rows = []
    for index, column in enumerate(table.columns):
        row: dict[str, Any] = {"model": column.model, **_interval(points[index], draws[:, index])}
        if table.task.unit == "share" and row["low"] == row["high"] and row["value"] in (0, 1):
            # all questions alike: drawing them again tells nothing, and one question of one is no certainty
            wilson = wilson_interval(row["value"] * len(table.ids), len(table.ids))
            row |= {"low": wilson.low, "high": wilson.high}
        if reference is not None and index != reference:
            row["difference"] = _difference(table, points, draws, index, reference)
        rows.append(row)
    return rows


def _subjects(table: _Table, reference: int | None, seed: int, resamples: int) -> list[dict[str, Any]]:
    """The scores by subject, from the greatest loss of any model to the greatest gain; none if there is one subject."""
    names = list(dict.fromkeys(table.subjects))
    if len(names) < 2:
        return []
    rows = []
    for group, name in enumerate(names):
        part = table.select(np.flatnonzero(table.groups == group))
        scores = _score(part, reference, "micro", resamples, seed_of(seed, table.task) + group + 1)
        rows.append({"name": name, "questions": len(part.ids), "scores": scores})
    sign = 1 if table.task.higher_is_better else -1

    def worst(row: Mapping[str, Any]) -> float:
        return min((sign * score["difference"]["value"] for score in row["scores"] if "difference" in score), default=0)

    return sorted(rows, key=worst)


def _split(
    table: _Table, reference: int | None, seed: int, resamples: int, contamination: Contamination
) -> dict[str, Any]:
    """The scores over the questions that the training data does not hold, and over those that it holds."""
    contaminated, clean = contamination.split(table.ids, table.task.name)
    split: dict[str, Any] = {}
    for name, ids in (("clean", clean), ("contaminated", contaminated)):
        part = table.select(np.array([index for index, item in enumerate(table.ids) if item in ids], dtype=np.intp))
        scores = _score(part, reference, table.task.average, resamples, seed_of(seed, table.task)) if ids else []
        split[name] = {"questions": len(ids), "scores": scores}
    return split


def count_verdicts(tasks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """For each model but the baseline, on how many tasks it gained, lost, and showed no difference."""
    counts: dict[str, dict[str, int]] = {}
    for task in tasks:
        for score in task["scores"]:
            if "difference" in score:
                row = counts.setdefault(score["model"], {"gain": 0, "loss": 0, "same": 0})
                row[score["difference"]["verdict"]] += 1
    return counts
