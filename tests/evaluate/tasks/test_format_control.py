"""The format of an answer alone: what a model gains that learned nothing but the form is told from what it knows."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from hanlin.config.settings.evaluate import Evaluate
from hanlin.config.settings.probe import Compare
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate.comparison import stage as comparison_stage
from hanlin.evaluate.results import TaskResult, read_results
from hanlin.evaluate.tasks import stage
from hanlin.evaluate.tasks.definition import packaged_tasks
from hanlin.evaluate.tasks.format_control import FormatOnlyItems, add_controls, draw_answers
from hanlin.evaluate.tasks.items import Item, Items
from hanlin.evaluate.tasks.respond import EngineRespondent
from hanlin.web.pages.comparison import render_comparison
from scripted_engine import ScriptedEngine

QUESTIONS = 120
CHOICES = ("red", "green", "blue", "pink")


def make_items() -> Items:
    """Questions of two subjects whose right letter only one who knows it can tell, with five examples each."""
    rng = random.Random(5)
    questions = [
        Item(f"{subject}/test/{row}", subject, {"question": f"Which of {subject} {row}?", "subject": subject},
             CHOICES, (rng.randrange(4),))
        for subject in ("law", "art") for row in range(QUESTIONS // 2)
    ]  # fmt: skip
    examples = {
        subject: [
            Item(f"{subject}/{row}", subject, {"question": f"Example {row}?", "subject": subject}, CHOICES, (row % 4,))
            for row in range(5)
        ]
        for subject in ("law", "art")
    }  # fmt: skip
    return Items(questions, examples)


class Student:
    """Knows the answers to a share of the questions, and says what it knows only in a form that it was told.

    Without the form it prefers the first choice; it guesses what it does not know. `copies`: of questions it does not
    know it learns the answers from examples that are right.
    """

    def __init__(self, items: Items, share: float, has_form: bool, copies: bool = False) -> None:
        rng = random.Random(1)
        self._gold = {item.fields["question"]: "ABCD"[item.gold[0]] for item in items.questions}
        self._known = {item.fields["question"]: rng.random() < share for item in items.questions}
        self._has_form, self._copies = has_form, copies

    def likes(self, before: str, after: str) -> float:
        question = next(line for line in reversed(before.split("\n")) if line.startswith("Which of"))
        if not self._has_form and "Example" not in before:
            return 0.0 if after.strip() == "A" else -9.0
        right = (
            before.count("Example 0?\n") and "Answer: A\n\nExample 1?" in before and "Answer: B\n\nExample 2?" in before
        )
        if self._known[question] or (self._copies and right):
            return 0.0 if after.strip() == self._gold[question] else -9.0
        return -random.Random(f"{question}{after}").random() - 1


def evaluate(items: Items, student: Student, out: Path, shots: int | None = None) -> TaskResult:
    out.mkdir(exist_ok=True)
    settings = Evaluate(model="m", tasks=("mmlu",), data="d", shots=shots, format_control=True)
    (asked,) = stage._task_runs(settings, "mmlu", packaged_tasks()["mmlu"])
    loaded = ScriptedEngine(student.likes).loaded()
    runs = add_controls(asked, items)
    stage.run_tasks(EngineRespondent(loaded, ()), loaded, runs, {"mmlu": items}, settings, out, StageContext())
    row = read_results(out).find("mmlu")
    assert row is not None
    return row


def test_a_model_that_learned_only_the_form_gains_without_examples_and_nothing_when_told_the_form(
    tmp_path: Path,
) -> None:
    items = make_items()
    evaluate(items, Student(items, 0.6, has_form=False), tmp_path / "base")
    evaluate(items, Student(items, 0.6, has_form=True), tmp_path / "form")
    evaluate(items, Student(items, 0.95, has_form=True), tmp_path / "knows")
    folders = tuple(tmp_path / name for name in ("base", "form", "knows"))
    (tmp_path / "out").mkdir()
    inputs = Inputs({"results": folders, "contamination": ()})
    metrics = comparison_stage.run(Compare(results=("r",)), inputs, tmp_path / "out", StageContext())
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    (task,) = comparison["format"]
    base, form, knows = task["rows"]
    assert base["format_effect"]["low"] > 0.2 and "gain" not in base
    assert form["format_effect"]["value"] == 0
    assert form["gain"]["no_examples"]["low"] > 0.2 and form["gain"]["format_only"]["value"] == 0
    assert form["gain"]["from_format"]["value"] == form["gain"]["no_examples"]["value"]
    assert (form["gain"]["verdict"], knows["gain"]["verdict"]) == ("format", "beyond")
    assert knows["gain"]["format_only"]["low"] > 0.1
    assert list(metrics["format"].values()) == [{"form": "format", "knows": "beyond"}]
    assert [row["name"] for row in comparison["tasks"]] == ["mmlu"]  # a control is no task of its own
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "may be the format alone · " in markdown and "may be the format alone" in render_comparison(comparison)


def test_a_score_opens_down_to_the_questions_of_its_controls(tmp_path: Path) -> None:
    items = make_items()
    row = evaluate(items, Student(items, 0.5, has_form=False, copies=True), tmp_path / "out")
    results = read_results(tmp_path / "out")
    assert [result.label for result in results.tasks] == [
        "mmlu@lm_eval", "mmlu@lm_eval+format_only", "mmlu@lm_eval+no_examples"
    ]  # fmt: skip
    for result, name in zip(results.tasks, ("examples", "format_only", "no_examples"), strict=True):
        scores = [sample["scores"]["acc"] for sample in results.read_samples(result)]
        assert sum(scores) / len(scores) == row.format_effect[name]["value"]
    effect = row.format_effect
    assert effect["examples"]["value"] == 1 and effect["examples_effect"]["low"] > 0.2
    assert [effect[name]["shots"] for name in ("examples", "format_only", "no_examples")] == [5, 5, 0]
    figures = stage.describe(results)
    assert (figures["questions"], list(figures["scores"])) == (QUESTIONS, ["mmlu@lm_eval"])
    assert figures["tasks"]["mmlu@lm_eval"]["format_effect"] == effect


def test_a_task_without_examples_is_controlled_by_five_with_random_answers(tmp_path: Path) -> None:
    items = make_items()
    effect = evaluate(items, Student(items, 0.7, has_form=False), tmp_path / "out", shots=0).format_effect
    assert set(effect) == {"no_examples", "format_only", "format_effect"}
    assert (effect["format_only"]["shots"], effect["no_examples"]["shots"]) == (5, 0)


def test_random_answers_say_nothing_of_the_right_ones_and_move_nothing_else() -> None:
    items = make_items()
    drawn = FormatOnlyItems(items.questions, items.examples, seed=42)
    seen: Counter[tuple[int, int]] = Counter()
    for seed in range(400):
        for own, other in zip(items.examples["law"], draw_answers(items.examples["law"], (), str(seed)), strict=True):
            assert (own.id, own.fields, own.choices) == (other.id, other.fields, other.choices)
            seen[own.gold[0], other.gold[0]] += 1
        positions = [item.gold[0] for item in draw_answers(items.examples["law"], (), str(seed))][:4]
        assert sorted(positions) == [0, 1, 2, 3]
    for right in range(4):
        total = sum(seen[right, position] for position in range(4))
        assert all(0.18 < seen[right, position] / total < 0.32 for position in range(4))
    sets = {tuple(item.gold[0] for item in drawn.examples_of(question, 5)) for question in items.questions[:60]}
    assert 2 <= len(sets) <= 4  # most questions of a subject share their examples
    assert drawn.examples_of(items.questions[0], 5) == drawn.examples_of(items.questions[0], 5)


def test_random_open_answers_are_those_of_other_questions_also_where_a_field_holds_the_answer() -> None:
    examples = [
        Item(str(row), "", {"passage": f"p{row}", "word": f"w{row}"}, answers=(f"w{row}",)) for row in range(50)
    ]
    drawn = draw_answers(examples, [item.answers[0] for item in examples], "1")
    assert all(item.answers == (item.fields["word"],) for item in drawn)
    assert sum(item.answers[0] == f"w{row}" for row, item in enumerate(drawn)) < 8


@pytest.mark.parametrize(
    ("items", "told"),
    [
        (Items([Item("1", "", {"question": "Do it."})], {"": [Item("2", "", {"question": "Do."})]}), "has no worked"),
        (Items([Item("1", "", {}, answers=("x",))], {"": [Item("2", "", {}, answers=("y",))]}), "has no"),
        (Items([Item("1", "", {"question": "?"}, CHOICES)], {"": [Item("2", "", {}, CHOICES, (1,))]}), "are secret"),
    ],
    ids=["nothing", "one", "secret"],
)  # fmt: skip
def test_what_has_no_format_control_is_one_sentence(items: Items, told: str) -> None:
    settings = Evaluate(model="m", tasks=("mmlu",), data="d", format_control=True)
    (asked,) = stage._task_runs(settings, "mmlu", packaged_tasks()["mmlu"])
    with pytest.raises(UserError, match=told):
        add_controls(asked, items)
