"""A column named as a label that holds classes of the text is no verdict; in every case of doubt it is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, UnpairedPreferences
from hanlin.core.errors import UserError
from hanlin.data.formats.detect import SAMPLE_ROWS
from hanlin.data.formats.trees.label_classes import find_classes
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]


def ask(index: int) -> str:
    return f"第{index}座桥在哪里？"


def label_with(*labels: Any, count: int = 24) -> list[dict[str, Any]]:
    """Rows of a question and an answer of its own, with these labels in turn."""
    return [
        {"prompt": ask(index), "response": f"在第{index}条河上。", "label": labels[index % len(labels)]}
        for index in range(count)
    ]


@pytest.mark.parametrize(
    "labels",
    [
        range(10),
        (0, 1, 2),
        ("0", "1", "2", "3"),
        ("正常", "警告", "错误"),
        ("体育", "财经", "好"),
        ("entailment", "contradiction", "yes"),
    ],
)
def test_numbers_and_names_of_classes_are_no_verdicts(put: Put, run: Run, labels: Any) -> None:
    path = put("a.jsonl", label_with(*labels))
    made = run(Conversations, path, validation_fraction=0)
    assert len(made.kept) == 24 and made.metrics["unread_fields"] == {"label": 24}
    assert [record["meta"]["label"] for record in made.kept[: len(labels)]] == list(labels)
    (shown,) = inspect([str(path)])
    assert shown["stage"] == "conversations" and shown["kept"] == 24


@pytest.mark.parametrize(
    "labels",
    [
        (0, 1),
        ("0", "1"),
        (True, False),
        ("true", "false"),
        ("好", "坏"),
        (1, -1, 0),
        ("好", "坏", "一般"),
        ("正确", "错误", "部分正确"),
        ("错误", "部分正确"),
        ("good", "bad", "neutral"),
        ("pass", "fail", "skip"),
        (1, 0, 0.5),
        *((first, 1) for first in (0, "差")),
    ],
)
def test_verdicts_stay_verdicts(put: Put, run: Run, labels: Any) -> None:
    path = put("a.jsonl", label_with(*labels))
    with pytest.raises(UserError, match="labeled good or bad"):
        run(Conversations, path)
    (shown,) = inspect([str(path)])
    assert shown["stage"] == "unpaired_preferences"


def test_one_odd_label_makes_no_classes_of_verdicts(put: Put, run: Run) -> None:
    rows = label_with(1, 0)
    rows[5]["label"] = 3
    with pytest.raises(UserError, match="labeled good or bad"):
        run(Conversations, put("a.jsonl", rows))


def test_a_scale_is_not_read_as_good_and_bad(put: Put, run: Run) -> None:
    with pytest.raises(UserError, match="conversations"):
        run(UnpairedPreferences, put("a.jsonl", label_with(1, 2, 3, 4, 5)))


def test_a_file_sorted_by_its_classes_is_read_further_than_its_first_rows(put: Put, run: Run) -> None:
    rows = [{**row, "label": index // (2 * SAMPLE_ROWS)} for index, row in enumerate(label_with(0, count=400))]
    assert len(run(Conversations, put("a.jsonl", rows), validation_fraction=0).kept) == 400
    verdicts = [{**row, "label": min(1, row["label"])} for row in rows]
    with pytest.raises(UserError, match="labeled good or bad"):
        run(Conversations, put("b.jsonl", verdicts))


@pytest.mark.parametrize(
    ("answers", "beside"),
    [
        (("正面", "负面"), {}),
        (("The review is positive.", "The review is negative."), {}),
        (("民歌", "戏曲"), {"instruction": "这段是民歌还是戏曲？"}),
    ],
)
def test_a_label_that_numbers_the_class_in_the_answer_is_no_verdict(answers: tuple[str, str], beside: Any) -> None:
    rows = [{"input": ask(i), "output": answers[i % 2], "label": i % 2, **beside} for i in range(12)]
    assert find_classes(rows) == {"label"}
    rows[3]["label"] = 0  # the same answer, good and bad
    assert not find_classes(rows)


def test_answers_that_come_again_are_no_classes_by_that_alone() -> None:
    rows = [{"prompt": ask(i), "response": ("不知道。", "在东门。")[i % 2], "label": i % 2} for i in range(20)]
    assert not find_classes(rows)


@pytest.mark.parametrize(("names", "found"), [(("neg", "pos"), {"label"}), (("bad", "good"), set())])
def test_names_of_classes_beside_numbers_are_looked_at(names: tuple[str, str], found: set[str]) -> None:
    rows = [{**row, "label": i % 2, "label_text": names[i % 2]} for i, row in enumerate(label_with(0))]
    assert find_classes(rows) == found
