"""A file of one's own questions is read in the shapes that people have, and what is not read is refused by its line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.evaluate.tasks.definition import find_tasks
from hanlin.evaluate.tasks.exam_files import ExamFolder
from hanlin.evaluate.tasks.items import Item, read_items
from hanlin.evaluate.tasks.question_files import read_questions

WATER = {"question": "水？", "answer": "B"}


def read_own(folder: Path, text: str, name: str = "mine.jsonl") -> Sequence[Item]:
    (folder / name).write_text(text, encoding="utf-8")
    ((task_name, task),) = find_tasks([name], folder).items()
    return read_items(task_name, task, folder).questions


def read_row(folder: Path, row: Mapping[str, Any]) -> Item:
    (item,) = read_own(folder, json.dumps(row, ensure_ascii=False))
    return item


@pytest.mark.parametrize(
    "row",
    [
        {**WATER, "choices": ["火", "水"]},
        {**WATER, "choices": {"A": "火", "B": "水"}},
        {**WATER, "choices": {"text": ["火", "水"], "label": ["A", "B"]}},
        {"question": "水？", "answerKey": "2", "choices": {"text": ["火", "水"], "label": ["1", "2"]}},
        {"question": "水？", "answer": "2", "options": [{"label": "1", "text": "火"}, {"label": "2", "text": "水"}]},
        {**WATER, "choices": '["火", "水"]'},
        {**WATER, "options": "火\n水"},
        {**WATER, "A": "火", "B": "水", "C": "", "D": None},
        {**WATER, "option_a": "火", "option_b": "水"},
        {"题目": "水？", "选项": ["火", "水"], "答案": "Ｂ", "reference": "第 3 页"},
        {"题目": "水？", "选项A": "火", "选项B": "水", "正确答案": "（B）"},
        {"question": "水？", "answer": " b. ", "choices": ["火", "水"]},
        {"question": "水？", "answer": ["水"], "choices": ["火", "水"]},
    ],
    ids=str,
)
def test_a_question_with_choices_is_read_in_every_usual_shape(row: dict[str, Any], tmp_path: Path) -> None:
    item = read_row(tmp_path, row)
    assert (item.fields["question"], item.choices, item.gold, item.match) == ("水？", ("火", "水"), (1,), "choice")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError, match=r"questions of an exam, with choices.*`tasks` instead"):
        read_questions(tmp_path / "rows.jsonl")


def test_the_table_of_an_exam_is_a_file_of_own_questions(tmp_path: Path) -> None:
    table = "id,question,A,B,C,D,answer\n7,水的化学式,H2O,CO2,O2,N2,A\n8,首都,上海,北京,广州,深圳,Ｂ\n"
    items = read_own(tmp_path, table, "mine.csv")
    assert [(item.id, item.target, len(item.choices)) for item in items] == [("7", "A", 4), ("8", "B", 4)]


def test_the_passage_of_a_question_with_choices_is_asked_too(tmp_path: Path) -> None:
    row = {"passage": "甲比乙大。", "question": "谁大？", "choices": ["甲", "乙"], "answer": "甲", "topic": "阅读"}
    item = read_row(tmp_path, row)
    assert (item.fields["question"], item.subject) == ("甲比乙大。\n谁大？", "阅读")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "x", "choices": ["a1", "b1"], "answer": "E"}, "'E', not one of its choices (hint: write the"),
        (
            {"question": "x", "choices": ["a1", "b1"], "answer": 0},
            "'0', not one of its choices (hint: write the",
        ),
        ({"question": "x", "choices": ["a1", "b1"], "answer": ""}, "needs `question` and `answer`"),
        ({"question": "x", "choices": ["a1"], "answer": "A"}, "2 to 26 choices, this one has 1"),
        ({**WATER, "choices": ["a1", "b1"], "match": "contains"}, "scored by its letter, and `match` is 'contains'"),
        ({"input": "x", "target_scores": {"a": 1, "b": 0}}, "the choices of this question are not read"),
        ({"prompt": "x", "instruction_id_list": [], "kwargs": []}, "a row of IFEval (hint: ask the task `ifeval`)"),
        ({"question": "x"}, "it has no answer"),
        ({"question": "x", "answer": None}, "it has no answer"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_with_its_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        read_row(tmp_path, row)
    assert message in str(refusal.value) and "mine.jsonl:1" in str(refusal.value)


def test_a_match_that_questions_do_not_have_is_not_ignored(tmp_path: Path) -> None:
    row = {"question": "x", "answer": 3, "match": "number"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UserError, match=r"`match` is 'number'.*`tasks` instead of `questions`"):
        read_questions(tmp_path / "rows.jsonl")


def test_letters_of_full_width_are_letters_in_the_files_of_exams(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "law.csv").write_text("Q,A,B,C,D,Ans\nx,1,2,3,4,Ｃ\n", encoding="utf-8")
    (question,) = ExamFolder(("Q", "A", "B", "C", "D", "Ans"), tmp_path).read("test", "law")
    assert question.answer == "C"


def test_a_letter_that_is_none_says_so_and_not_that_answers_are_secret(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for answer, hint in (("E", None), ("", "choose a split that has answers")):
        (tmp_path / "test" / "law.csv").write_text(f"Q,A,B,C,D,Ans\nx,1,2,3,4,{answer}\n", encoding="utf-8")
        with pytest.raises(UserError) as refusal:
            ExamFolder(("Q", "A", "B", "C", "D", "Ans"), tmp_path).read("test", "law")
        assert refusal.value.hint == hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_coma"]}, "no instruction 'punctuation:no_coma' in IFEval"),
        ({"kwargs": []}, "are lists of one length"),
        ({"instruction_id_list": ["length_constraints:number_words"]}, "needs num_words, relation"),
    ],
)
def test_an_instruction_that_no_program_tells_is_not_counted_as_broken(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    row = {"key": 1, "prompt": "x", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}], **change}
    (tmp_path / "ifeval_input_data.jsonl").write_text(json.dumps(row), encoding="utf-8")
    ((name, task),) = find_tasks(["ifeval"], tmp_path).items()
    with pytest.raises(UserError) as refusal:
        read_items(name, task, tmp_path)
    assert message in str(refusal.value)
