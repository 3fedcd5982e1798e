"""A file of one's own questions is read in the shapes that people have, and what is not read is refused by its line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.evaluate.tasks.definition import find_tasks
from hanlin.evaluate.tasks.exam_files import ExamFolder
from hanlin.evaluate.tasks.items import Item, Items, read_items
from hanlin.evaluate.tasks.prompts import PromptBuilder, TaskRun
from hanlin.evaluate.tasks.question_files import read_questions
from hanlin.inference.chat_server import to_chat_message

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


# ------------------------------------------------------------------------------------- nothing is passed over unsaid


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        ({"question": "水？", "answer": "H2O", "id": "a", "topic": "化学", "match": "exact", "empty": ""}, []),
        ({"question": "水？", "answer": "H2O", "topik": "化学", "difficulty": 3}, ["topik", "difficulty"]),
        ({"question": "水？", "answers": ["H2O"], "answer": "水"}, ["answer"]),
        ({"id": 1, "idx": 2, "question": "水？", "answer": "H2O", "explanation": "x"}, ["idx", "explanation"]),
        (
            {"messages": [{"role": "user", "content": "?", "score": 1}], "answer": "a", "lang": "zh"},
            ["lang", "turn.score"],
        ),
        ({"id": "a", "messages": [{"role": "user", "text": "?"}], "answers": ["a"], "weight": 2}, ["weight"]),
        ({"instruction": "?", "output": "a", "score": 3, "id": "a"}, ["score"]),
        ({**WATER, "choices": ["火", "水"], "explanation": "x"}, ["explanation"]),
        ({**WATER, "A": "火", "B": "水", "Source": "卷一"}, ["Source"]),
        ({"question": "写一首诗", "match": "judge", "level": 2}, ["level"]),
    ],
    ids=str,
)
def test_fields_that_are_no_part_of_the_question_are_counted(
    row: dict[str, Any], unread: list[str], tmp_path: Path
) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for _ in range(2))
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8")
    ((name, task),) = find_tasks(["mine.jsonl"], tmp_path).items()
    assert read_items(name, task, tmp_path).unread == dict.fromkeys(unread, 2)


def test_a_question_after_other_turns_keeps_them_as_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "简短回答。"},
        {"role": "user", "content": "我叫小明。"},
        {"role": "assistant", "content": "你好，小明。"},
        {"role": "user", "content": "我叫什么？"},
    ]
    item = read_row(tmp_path, {"messages": turns, "answer": "小明"})
    assert [(turn.role, turn.text) for turn in item.messages] == [(turn["role"], turn["content"]) for turn in turns]
    task = find_tasks(["mine.jsonl"], tmp_path)["mine"]
    name, profile = task.profile("", "mine")
    task_run = TaskRun("mine", task, name, profile, "generate", True, None, 0, 8)
    prompt = PromptBuilder(task_run, None, None, 1 << 20).build(item, Items([item], {}))
    assert [turn.role for turn in prompt.messages] == [turn["role"] for turn in turns]
    assert prompt.messages[:-1] == item.messages[:-1] and "我叫什么？" in prompt.messages[-1].text
    assert "小明" not in prompt.messages[-1].text


def test_a_server_is_sent_the_calls_and_results_of_earlier_turns() -> None:
    turns = [
        Message("assistant", "", (ToolCall("查", {"城": "杭州"}, "c1"),)),
        Message("tool", "晴", tool_call_id="c1"),
    ]
    function = {"name": "查", "arguments": '{"城": "杭州"}'}
    assert [to_chat_message(turn) for turn in turns] == [
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "content": "晴", "tool_call_id": "c1"},
    ]
    assert to_chat_message(Message("user", "?")) == {"role": "user", "content": "?"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": []}, "it has no answer"),
        ({"answers": [""]}, "it has no answer"),
        ({"answers": [{"text": "a"}]}, "it has no answer"),
        ({"messages": [{"role": "user", "text": "?"}, {"role": "assistant", "text": "!"}]}, "not a question"),
        ({"messages": [{"role": "user", "text": " "}]}, "not a question"),
    ],
    ids=str,
)
def test_a_question_in_our_own_form_is_checked_like_any_other(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    whole = {"id": "a", "messages": [{"role": "user", "text": "?"}], "answers": ["a"], **row}
    (tmp_path / "rows.jsonl").write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path / "rows.jsonl")


def test_numbers_are_answers_in_our_own_form_and_the_language_is_that_of_the_question(tmp_path: Path) -> None:
    row = {"id": 7, "messages": [{"role": "user", "text": "How much is six times seven?"}], "answers": [42]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (question,) = read_questions(tmp_path / "rows.jsonl")
    assert (question.id, question.answers, question.language) == ("7", ("42",), "en")


def test_a_file_is_the_one_that_was_named_and_no_other_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for folder, question in ((tmp_path / "old", "旧"), (tmp_path, "新")):
        text = json.dumps({"question": question, "answer": "a"}, ensure_ascii=False)
        (folder / "我的 题.jsonl").write_text(text, encoding="utf-8")
    ((name, task),) = find_tasks(["我的 题.jsonl"], tmp_path).items()
    assert [item.fields["question"] for item in read_items(name, task, tmp_path).questions] == ["新"]
    with pytest.raises(UserError, match="outside the data folder"):
        find_tasks(["../我的 题.jsonl"], tmp_path / "old")


def test_two_files_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    for name in ("v1.a.jsonl", "v1.b.jsonl"):
        (tmp_path / name).write_text(json.dumps(WATER), encoding="utf-8")
    with pytest.raises(UserError, match="two tasks are called 'v1'"):
        find_tasks(["v1.a.jsonl", "v1.b.jsonl"], tmp_path)
    assert list(find_tasks(["v1.a.jsonl,", "v1.a.jsonl"], tmp_path)) == ["v1"]
