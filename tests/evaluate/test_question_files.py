"""Questions are read from the usual files: each form gives the same prompt and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.core.records import Message, Question, write_jsonl
from hanlin.data.dedup.question_sets import read_questions as read_evaluation_set
from hanlin.evaluate.tasks.question_files import read_questions

USER, ANSWER = {"role": "user", "content": "一加一等于几？"}, {"role": "assistant", "content": "二"}
SHAREGPT = [{"from": "human", "value": "一加一等于几？"}, {"from": "gpt", "value": "二"}]


def put(folder: Path, rows: list[Any], name: str = "q.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"question": "一加一等于几？", "answer": "二"},
        {"question": "一加一等于几？", "answers": ["二"]},
        {"question": "一加一等于几？", "answer": "一加一，先数一，再数二。\n#### 二"},
        {"question": "一加一等于几？", "answers": {"text": ["二"], "answer_start": [0]}, "context": ""},
        {"problem": "一加一等于几？", "answer": "二"},
        {"question": "一加一等于几？", "golden_answers": ["二"]},
        {"question": "一加一等于几？", "reference_answer": "二"},
        {"prompt": "一加一等于几？", "response": "三", "ground_truth": "二"},
        {"input": "一加一等于几？", "ideal": "二"},
        {"题目": "一加一等于几？", "参考答案": "二"},
        {"messages": [USER], "expected": "二"},
        {"version": 1, "questions": [{"question": "一加一等于几？", "answer": "二"}]},
        {"input": "一加一等于几？", "target": "二"},
        {"问题": "一加一等于几？", "答案": "二"},
        {"问": "一加一等于几？", "答": "二"},
        {"prompt": "一加一等于几？", "response": "二"},
        {"prompt": [USER], "completion": [ANSWER]},
        {"instruction": "一加一等于几？", "input": "", "output": "二"},
        {"messages": [USER, ANSWER]},
        {"messages": [USER], "answers": ["二"]},
        {"messages": [USER], "answer": "二"},
        {"messages": json.dumps([USER, ANSWER])},
        {"conversations": SHAREGPT},
    ],
)
def test_every_usual_form_is_the_same_question(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read_questions(put(tmp_path, [row])) == [Question((Message("user", "一加一等于几？"),), ("二",), "q#1")]


@pytest.mark.parametrize("field", ["history", "chat_history", "对话历史"])
def test_the_turns_before_a_question_are_part_of_its_prompt(tmp_path: Path, field: str) -> None:
    row = {"question": "再加一呢？", field: [["一加一等于几？", "二"]], "answer": "三"}
    (question,) = read_questions(put(tmp_path, [row]))
    assert [(turn.role, turn.text) for turn in question.messages] == [
        ("user", "一加一等于几？"),
        ("assistant", "二"),
        ("user", "再加一呢？"),
    ]


def test_what_hanlin_writes_is_read_as_it_is(tmp_path: Path) -> None:
    questions = [
        Question((Message("system", "只答数字。"), Message("user", "<think>一加一？")), ("2", "二"), "a", "zh", "加法"),
        Question((Message("user", "One and one?"),), ("2",), "b", "en"),
    ]
    write_jsonl(tmp_path / "q.jsonl", questions)
    assert read_questions(tmp_path / "q.jsonl") == questions
    assert read_questions(tmp_path / "q.jsonl", 1) == questions[:1]


def test_turns_before_the_question_are_asked_with_it(tmp_path: Path) -> None:
    system = {"role": "system", "content": "只答数字。"}
    (question,) = read_questions(put(tmp_path, [{"messages": [system, USER, ANSWER, USER, ANSWER]}]))
    assert [turn.role for turn in question.messages] == ["system", "user", "assistant", "user"]
    row = {"instruction": "再加一呢？", "output": "三", "history": [["一加一等于几？", "二"]]}
    (question,) = read_questions(put(tmp_path, [row]))
    assert [turn.text for turn in question.messages] == ["一加一等于几？", "二", "再加一呢？"]


def test_ids_topics_and_languages_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = [
        {"id": 7, "question": "What is one and one?", "answer": 2, "category": "sums"},
        {"question": "一加二等于几？", "answers": ["三", 3], "language": "zh"},
    ]
    first, second = read_questions(put(tmp_path, rows))
    assert (first.id, first.topic, first.language, first.answers) == ("7", "sums", "en", ("2",))
    assert (second.id, second.language, second.answers) == ("q#2", "zh", ("三", "3"))


def test_questions_about_passages_come_with_them(tmp_path: Path) -> None:
    passage = "图书馆周一闭馆。"
    questions = [{"id": "a", "question": "哪天闭馆？", "answers": [{"text": "周一", "answer_start": 3}]}]
    squad = {"version": "1.0", "data": [{"title": "馆", "paragraphs": [{"context": passage, "qas": questions}]}]}
    asked = {"query_id": "a", "query_text": "哪天闭馆？", "answers": ["周一"]}
    cmrc = [{"context_id": "0", "context_text": passage, "qas": [asked]}]
    for value in (squad, cmrc):
        path = tmp_path / "q.json"
        path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        (question,) = read_questions(path)
        assert (question.id, question.answers) == ("a", ("周一",))
        assert question.messages == (Message("user", f"{passage}\n哪天闭馆？"),)


def test_tables_of_questions_are_read(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("question;answer\n一加一等于几？;二\n", encoding="utf-8")
    assert read_questions(tmp_path / "q.csv")[0].answers == ("二",)


def test_ids_are_those_of_decontamination(tmp_path: Path) -> None:
    rows = [{"question": "一加一等于几？", "answer": "二"}, {"qid": "b", "question": "一加二等于几？", "answer": "三"}]
    path = put(tmp_path, rows)
    assert [row.id for row in read_questions(path)] == [row.id for row in read_evaluation_set(path, "q")]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "一加一等于几？"}, "not a question with its answers"),
        ({"question": "一加一等于几？", "answer": ""}, "not a question with its answers"),
        ({"question": "", "answer": "二"}, "it has no question"),
        ({"messages": [USER]}, "it has no answer"),
        ({"text": "一加一等于二。"}, "the fields|text"),
        ({"question": "哪个？", "A": "甲", "B": "乙", "C": "丙", "D": "丁", "answer": "A"}, "questions of an exam"),
    ],
)
def test_a_row_that_is_no_question_is_named_with_its_line(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as refusal:
        read_questions(put(tmp_path, [{"question": "问？", "answer": "答"}, row]))
    assert "q.jsonl:2" in str(refusal.value) and refusal.value.hint


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "问？", "answer": "答"}\n{"question"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"q\.jsonl:2"):
        read_questions(tmp_path / "q.jsonl")


def test_questions_to_ask_one_after_another_are_no_question_with_its_answer(tmp_path: Path) -> None:
    row = {"question_id": 81, "turns": ["一加一等于几？", "再加一呢？"], "reference": ["二", "三"]}
    with pytest.raises(UserError, match="one after another") as error:
        read_questions(put(tmp_path, [row]))
    assert error.value.hint and "generate" in error.value.hint
