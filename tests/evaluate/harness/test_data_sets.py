"""Data sets of the hub are found in a local folder in whatever form they were copied there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.evaluate.harness.columns import HUB_DATA, find_local_task
from hanlin.evaluate.harness.data_sets import LocalData, find_data_set, resolve_split
from hanlin.evaluate.tasks.definition import packaged_tasks

ROW = {"question": "2+2?", "answer": 4}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def splits_of(path: str, name: str, data: Path) -> dict[str, int]:
    found = find_data_set(path, name, data)
    assert found is not None
    return {split: len(rows) for split, rows in found.splits.items()}


@pytest.mark.parametrize("folder", ["me/sums", "me--sums", "datasets--me--sums/snapshots/0a1b", "sums"])
def test_a_data_set_may_lie_in_any_of_the_usual_folders(folder: str, tmp_path: Path) -> None:
    write_rows(tmp_path / folder / "data" / "train-00000-of-00001.jsonl", ROW, ROW)
    write_rows(tmp_path / folder / "data" / "test-00000-of-00001.jsonl", ROW)
    assert splits_of("me/sums", "", tmp_path) == {"train": 2, "test": 1}


def test_the_data_folder_may_be_the_snapshot_of_the_data_set_itself(tmp_path: Path) -> None:
    snapshot = tmp_path / "datasets--me--sums" / "snapshots" / "0a1b"
    write_rows(snapshot / "test.jsonl", ROW)
    assert splits_of("me/sums", "", snapshot) == {"test": 1}
    assert find_data_set("me/others", "", snapshot) is None


def test_a_configuration_is_a_folder_or_part_of_a_file_name(tmp_path: Path) -> None:
    for name, count in (("easy", 1), ("hard", 2)):
        write_rows(tmp_path / "me" / "sums" / name / "test.jsonl", *[ROW] * count)
        write_rows(tmp_path / "me" / "flat" / f"{name}_test.jsonl", *[ROW] * count)
    assert splits_of("me/sums", "hard", tmp_path) == splits_of("me/flat", "hard", tmp_path) == {"test": 2}
    assert find_data_set("me/sums", "odd", tmp_path) is None


def test_a_configuration_is_no_part_of_a_longer_word(tmp_path: Path) -> None:
    """Of C-Eval `logic` is a subject, and a part of the name of another."""
    names = ("logic", "formal_logic", "ideological_and_moral_cultivation", "历史")
    for count, name in enumerate(names, start=1):
        write_rows(tmp_path / "me" / "exam" / "test" / f"{name}_test.jsonl", *[ROW] * count)
    assert splits_of("me/exam", "logic", tmp_path) == {"test": 1}
    assert splits_of("me/exam", "历史", tmp_path) == {"test": 4}
    assert splits_of("me/exam", "formal", tmp_path) == {"test": 2}
    assert find_data_set("me/exam", "moral_logic", tmp_path) is None


def test_a_card_with_a_pattern_that_is_none_has_no_files(tmp_path: Path) -> None:
    card = "---\nconfigs:\n- config_name: easy\n  data_files:\n  - split: test\n    path: ''\n---\n"
    write_rows(tmp_path / "me" / "sums" / "test.jsonl", ROW)
    (tmp_path / "me" / "sums" / "README.md").write_text(card, encoding="utf-8")
    assert find_data_set("me/sums", "easy", tmp_path) is None


def test_the_card_of_a_data_set_says_which_files_are_which_split(tmp_path: Path) -> None:
    folder = tmp_path / "me" / "sums"
    write_rows(folder / "first.jsonl", ROW)
    write_rows(folder / "second.jsonl", ROW, ROW)
    card = """---
configs:
- config_name: easy
  data_files:
  - {split: test, path: first.jsonl}
  - {split: dev, path: "sec*.jsonl"}
---
# Sums
"""
    (folder / "README.md").write_text(card, encoding="utf-8")
    assert splits_of("me/sums", "easy", tmp_path) == {"test": 1, "dev": 2}
    with pytest.raises(UserError, match=r"no configuration 'hard' .*it has easy"):
        find_data_set("me/sums", "hard", tmp_path)


def test_columns_of_whole_numbers_in_a_table_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "me" / "sums" / "test.csv"
    path.parent.mkdir(parents=True)
    path.write_text("question,answer,zip\n2+2?,4,012\n1+1?,-2,a\n", encoding="utf-8")
    found = find_data_set("me/sums", "", tmp_path)
    assert found is not None
    rows = found.splits["test"]
    assert [(row["question"], row["answer"], row["zip"]) for row in rows] == [("2+2?", 4, "012"), ("1+1?", -2, "a")]


def test_a_split_is_found_by_what_other_copies_call_it() -> None:
    data = LocalData({"val": [ROW], "train": [ROW, ROW]})
    assert resolve_split(data, "validation") == resolve_split(data, "dev") == [ROW]
    assert resolve_split(data, "test") is None


def test_files_that_a_task_file_names_are_read_from_the_data_folder_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_rows(data / "rows.jsonl", ROW)
    found = find_data_set("json", "", data, data_files={"test": "rows.jsonl"})
    assert found is not None and found.splits == {"test": [ROW]}
    write_rows(tmp_path / "secret.jsonl", ROW)
    with pytest.raises(UserError, match="outside the data folder"):
        find_data_set("json", "", data, data_files={"test": "../secret.jsonl"})
    with pytest.raises(UserError, match="no such file"):
        find_data_set("json", "", data, data_files={"test": "typo.jsonl"})


def test_an_exam_in_its_own_layout_stands_for_the_data_set_of_the_hub(tmp_path: Path) -> None:
    for split, rows in (("dev", 2), ("test", 3)):
        folder = tmp_path / "mmlu" / split
        folder.mkdir(parents=True)
        lines = [f"Is {split} {row}?,a,b,c,d,{'ABC'[row]}\n" for row in range(rows)]
        (folder / f"anatomy_{split}.csv").write_text("".join(lines), encoding="utf-8")
    found = find_data_set("cais/mmlu", "anatomy", tmp_path)
    assert found is not None and found.is_converted
    assert found.splits["test"][1] == {"question": "Is test 1?", "choices": ["a", "b", "c", "d"], "answer": 1}
    assert len(found.splits["train"]) == 2
    assert find_data_set("cais/mmlu", "virology", tmp_path) is None


def test_a_damaged_file_is_named_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "mmlu" / "test").mkdir(parents=True)
    (tmp_path / "mmlu" / "test" / "anatomy_test.csv").write_text("Is it?,a,b,c,d,E\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"anatomy_test.csv:1.*not one of A, B, C, D"):
        find_data_set("cais/mmlu", "anatomy", tmp_path)
    write_rows(tmp_path / "me" / "sums" / "test.jsonl", ROW).write_text('["no", "row"]\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"test.jsonl:1"):
        find_data_set("me/sums", "", tmp_path)


def test_every_data_set_that_is_converted_belongs_to_a_task_of_ours() -> None:
    assert {task for task, _ in HUB_DATA.values()} <= packaged_tasks().keys()
    found = find_local_task("cais/mmlu", "anatomy")
    assert found is not None and found[:2] == ("mmlu", "anatomy")
    assert find_local_task("cais/mmlu", "") is find_local_task("allenai/ai2_arc", "Other") is None
