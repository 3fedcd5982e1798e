"""How much of a score is the format alone: the same questions without examples, and with examples that teach only it.

Few-shot examples teach two things: what an answer looks like, and what is right. Min et al. 2022 (arXiv:2202.12837)
tell them apart by random labels: examples whose answers are drawn at random keep the form, the set of possible answers
and the kind of questions, and say nothing of which answer is right. So a question is asked three times:

    without examples                             A
    with examples of random answers              B      B − A: the format alone
    with the task's own examples, if it has any  C      C − B: what the right answers of the examples add

Random, not chosen to be wrong: answers that are always wrong would teach which answer to avoid. Not another subject's
examples with right answers: most tasks have one subject, and a neighboring one teaches content. Large models partly
follow wrong labels against what they know (Wei et al. 2023, arXiv:2303.03846; Yoo et al. 2022, arXiv:2205.12685), so
B − A is rather too small than too large.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.evaluate.bootstrap import average_of, percentile_interval, resample
from hanlin.evaluate.results import Average, Control, Sample
from hanlin.evaluate.tasks.items import Item, Items
from hanlin.evaluate.tasks.prompts import TaskRun

SHOTS = 5
"""Examples of random answers for a task that is asked without examples."""
_DRAWS = 4
"""Sets of random answers: a question gets one by its id, so that a score does not hang on one lucky draw while most
questions of a subject still share their examples, which are computed once."""
_RESAMPLES = 5000


@dataclass(frozen=True, slots=True)
class FormatOnlyItems(Items):
    """The questions of a task whose worked examples have random answers."""

    seed: int = 0

    def examples_of(self, item: Item, count: int) -> list[Item]:
        """The same examples in the same order as `Items` gives, their answers drawn at random."""
        examples = Items.examples_of(self, item, count)
        draw = zlib.crc32(item.id.encode("utf-8", "surrogatepass")) % _DRAWS
        asked = item.asked
        pool = [example.answers[0] for example in self.pool_of(item) if example.answers and example.asked != asked]
        return draw_answers(examples, pool, f"{self.seed}/{draw}/{item.subject}")


def draw_answers(examples: Sequence[Item], pool: Sequence[str], seed: str) -> list[Item]:
    """Worked examples with random answers.

    Of choices every position is drawn equally often (among k choices, each k examples in a row): one that is right
    oftener than the others would be learned instead. Open answers are drawn from `pool`.

        examples' answers  A A C B D        seed 1:  C A D B · B

    Args:
        examples: The examples.
        pool: Open answers of the task.
        seed: Seed of the draw; nothing else changes it.
    """
    rng = random.Random(seed)
    positions: dict[int, list[int]] = {}
    drawn = []
    for example in examples:
        if example.choices:
            left = positions.setdefault(len(example.choices), [])
            if not left:
                left += rng.sample(range(len(example.choices)), len(example.choices))
            drawn.append(replace(example, gold=(left.pop(),)))
        elif example.answers:
            old, new = example.answers[0], rng.choice(pool)
            fields = {name: new if text == old else text for name, text in example.fields.items()}
            drawn.append(replace(example, fields=fields, answers=(new,)))
        else:
            drawn.append(example)
    return drawn


def add_controls(task_run: TaskRun, items: Items) -> list[TaskRun]:
    """A task with its controls: as it is asked, with examples of random answers, and without examples.

    Raises:
        UserError: The task has no worked examples whose answers could be drawn.
    """
    first = items.questions[0]
    if first.choices and not first.gold:
        what = tr("the answers of {task} are secret: nothing tells what its format is worth", task=task_run.name)
        raise UserError(what, "format_control", tr("ask another `split`"))
    pool = [example for example in items.pool_of(first) if example.asked != first.asked]
    is_reasoned = task_run.profile.method == "generate" and "{thought}" in task_run.profile.answer
    answers = {example.answers[0] for example in pool if example.answers}
    if is_reasoned or not pool or not (all(example.choices for example in pool) or len(answers) > 1):
        what = tr("the task {task} has no worked examples whose answers could be drawn at random", task=task_run.name)
        raise UserError(what, "format_control", tr("ask it in a run of its own without it"))
    shots = min(task_run.shots or SHOTS, len(pool))
    controls = [replace(task_run, control="format_only", shots=shots)]
    if task_run.shots:
        controls.append(replace(task_run, control="no_examples", shots=0))
    return [task_run, *controls]


def measure_format(
    samples: Mapping[Control, Sequence[Sample]], metric: str, average: Average, shots: Mapping[Control, int], seed: int
) -> dict[str, Any]:
    """The scores of a task and of its controls, and their paired differences.

    Args:
        samples: The same questions in the same order: as the task asks ("") and under each control.
        metric: The metric.
        average: Over questions or over subjects.
        shots: Worked examples of each.
        seed: Seed of the bootstrap.

    Returns:
        `no_examples`, `format_only` and, if the task has examples, `examples`: `value` and `shots`. `format_effect`
        (format_only − no_examples) and `examples_effect` (examples − format_only): `value` with its paired 95 %
        interval `low` to `high`, and questions `won` and `lost`. Empty if the answers are secret.
    """
    if not all(metric in row["scores"] for rows in samples.values() for row in rows):
        return {}
    names = {"": "examples", "format_only": "format_only", "no_examples": "no_examples"}
    if "no_examples" not in samples:
        names[""] = "no_examples"
    order = {names[control]: index for index, control in enumerate(samples)}
    values = np.array([[row["scores"][metric] for row in rows] for rows in samples.values()], dtype=np.float64)
    first = next(iter(samples.values()))
    subjects = list(dict.fromkeys(row["subject"] for row in first))
    groups = np.array([subjects.index(row["subject"]) for row in first], dtype=np.intp)
    weights = np.ones_like(values)
    points = average_of(values, weights, groups, average)
    draws = resample(values, weights, groups, average, resamples=_RESAMPLES, seed=seed)
    counts = {names[control]: count for control, count in shots.items()}
    figures: dict[str, Any] = {
        name: {"value": float(points[index]), "shots": counts[name]} for name, index in sorted(order.items())
    }

    def effect(after: str, before: str) -> dict[str, Any]:
        new, old = order[after], order[before]
        interval = percentile_interval(draws[:, new] - draws[:, old])
        gain = values[new] - values[old]
        return {
            "value": float(points[new] - points[old]),
            "low": interval.low,
            "high": interval.high,
            "won": int((gain > 0).sum()),
            "lost": int((gain < 0).sum()),
        }

    figures["format_effect"] = effect("format_only", "no_examples")
    if "examples" in order:
        figures["examples_effect"] = effect("examples", "format_only")
    return figures
