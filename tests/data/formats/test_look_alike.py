"""Data that is no record is named for what it is, with the way out, and hints list the formats of its kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.core.errors import UserError
from hanlin.data.formats.look_alike import RETRIEVAL, STEPS, describe_look_alike
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
QUESTION = "下列哪一种是水果？"
PASSAGE = "城南有一座三层的小图书馆，周一闭馆，其余的日子从早上九点开到晚上九点。"
EXAMS: list[dict[str, Any]] = [
    {"id": 0, "question": QUESTION, "A": "梨", "B": "石头", "C": "铁", "D": "纸", "answer": "A", "explanation": ""},
    {"id": 0, "question": QUESTION, "A": "梨", "B": "石头", "C": "铁", "D": "纸"},
    {"Question": QUESTION, "A": "梨", "B": "石头", "C": "铁", "D": "纸", "Answer": "A"},
    {"question": QUESTION, "choice0": "梨", "choice1": "石头", "choice2": "铁", "choice3": "纸", "answer": "0"},
    {"question": QUESTION, "choices": ["梨", "石头", "铁", "纸"], "answer": 0},
    {"question": QUESTION, "choices": ["梨", "石头", "铁", "纸"], "answer": "梨"},
    {"question": QUESTION, "options": {"A": "梨", "B": "石头", "C": "铁"}, "answer_idx": "A"},
    {"question": QUESTION, "option_a": "梨", "option_b": "石头", "option_c": "铁", "answer": "A"},
    {"question": QUESTION, "opa": "梨", "opb": "石头", "opc": "铁", "opd": "纸", "cop": 1},
    {"passage": PASSAGE, "question": "哪天闭馆？", "options": ["(A)周一", "(B)周二", "(C)周三"], "label": "A"},
    {"passage": PASSAGE, "question": "哪天开馆？", "options": ["(A)周一", "(B)周二", "(C)周三"], "label": ["B", "C"]},
    {"题干": QUESTION, "选项": ["梨", "石头", "铁"], "答案": "A"},
    {"question": QUESTION, "options": "梨\n石头\n铁\n纸", "answer": "梨", "labels": ["植物"]},
    {"input": QUESTION, "target_scores": {"梨": 1, "石头": 0}, "target": "梨"},
]
READING: list[dict[str, Any]] = [
    {"context": PASSAGE, "question": "哪天闭馆？", "answers": {"text": ["周一"], "answer_start": [16]}},
    {"context": PASSAGE, "question": "哪天闭馆？", "answers": [{"text": "周一", "answer_start": 16}]},
    {"paragraphs": [{"context": PASSAGE, "qas": [{"question": "哪天闭馆？", "answers": [{"text": "周一"}]}]}]},
    {"context_text": PASSAGE, "qas": [{"query_text": "哪天闭馆？", "answers": ["周一"]}]},
]


@pytest.mark.parametrize("row", EXAMS, ids=" ".join)
@pytest.mark.parametrize("kind", [Conversations, Corpus])
def test_an_exam_is_named_one_and_not_read(put: Put, run: Callable[..., Made], row: Any, kind: Any) -> None:
    path = put("a.jsonl", [row, row])
    with pytest.raises(UserError, match="questions of an exam") as refusal:
        run(kind, path)
    assert "`tasks`" in str(refusal.value.hint)
    (found,) = inspect([str(path)])
    assert "questions of an exam" in found["error"]


@pytest.mark.parametrize("row", READING, ids=" ".join)
def test_reading_comprehension_is_named_with_the_way_out(put: Put, row: Any) -> None:
    (found,) = inspect([str(put("a.jsonl", [row]))])
    assert "as in SQuAD" in found["error"] and "evaluate --questions" in found["error"]


def test_questions_without_answers_are_no_dialogue(put: Put) -> None:
    rows = [{"question_id": 81, "category": "写作", "turns": ["写一首关于雨的诗。", "再改写成五言的。"]}]
    (found,) = inspect([str(put("a.jsonl", rows))])
    assert "to ask one after another" in found["error"]


def test_a_question_beside_the_instruction_is_part_of_the_prompt(put: Put, run: Callable[..., Made]) -> None:
    row = {"instruction": "回答下面的问题。", "question": "图书馆哪天闭馆？", "answer": "周一闭馆。"}
    made = run(Conversations, put("a.jsonl", [row]), validation_fraction=0)
    assert made.kept[0]["messages"][0]["text"] == "回答下面的问题。\n图书馆哪天闭馆？"


def test_rows_of_one_shape_are_still_told_by_their_own_fields(put: Put, run: Callable[..., Made]) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"第{n}问？", "response": f"第{n}答。"} for n in range(3)]
    rows += [{"instruction": "翻译", "input": "梨", "output": "pear"}, *rows]
    made = run(Conversations, put("a.jsonl", rows), validation_fraction=0)
    assert made.kept[3]["messages"][0]["text"] == "翻译\n梨" and made.ledger["dropped"] == {"duplicate": 3}


def test_fields_named_by_the_recipe_are_read_as_they_say(put: Put, run: Callable[..., Made]) -> None:
    source = {"fields": {"prompt": "question", "response": "explanation"}}
    row = {**EXAMS[0], "explanation": "梨长在树上，是水果。"}
    made = run(Conversations, put("a.jsonl", [row]), source=source, validation_fraction=0)
    assert made.kept[0]["messages"][1]["text"] == "梨长在树上，是水果。"


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "选一个水果。", "input": "", "output": "梨", "options": ["梨", "石头"]},
        {"question": "为什么梨是水果？", "answer": "因为它是植物结的果实。", "options": ["甲", "乙"]},
        {"question": "什么是 A/B 测试？", "answer": "比较两个方案。"},
    ],
)
def test_chats_that_only_resemble_an_exam_are_chats(put: Put, row: dict[str, Any]) -> None:
    (found,) = inspect([str(put("a.jsonl", [row]))])
    assert found["stage"] == "conversations" and found["kept"] == 1


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"dialogue": [{"who": "甲", "say": "你好"}]}, "sharegpt"),
        ({"question": "你好", "reply_text": "你好呀"}, "prompt_response"),
        ({"chosen": "你好呀"}, "paired_answers"),
        ({"label": 1, "messages": [{"who": "甲"}]}, "unpaired_messages"),
        ({"标号": 3, "摘要": "无"}, "prompt_response"),
        ({"问题": "你好", "较好的回复": "你好呀", "较差的回复": "嗯"}, "paired_answers"),
        ({"问题": "你好", "better_reply": "你好呀", "worse_reply": "嗯"}, "paired_answers"),
    ],
)
def test_hints_list_the_formats_of_the_kind_that_the_data_looks_like(put: Put, row: Any, name: str) -> None:
    (found,) = inspect([str(put("a.jsonl", [row]))])
    assert "unknown format" in found["error"] and name in found["error"], found


STEP_LABELS: list[dict[str, Any]] = [
    {"question": {"problem": "1+1？"}, "label": {"steps": [{"completions": [{"text": "得2。", "rating": 1}]}]}},
    {"input": "1+1？ Step 1: 得2 ки\nStep 2: 答2 ки", "label": "1+1？ Step 1: 得2 +\nStep 2: 答2 -", "task": "GSM8K"},
    {"prompt": "1+1？", "completions": ["得2。", "答2。"], "labels": [True, False]},
    {"problem": "1+1？", "steps": ["得2。", "答2。"], "label": -1, "final_answer_correct": True},
    {"question": "1+1？", "process": "得2。答2。", "label": ["+", "-"]},
    {"problem": "1+1？", "steps": [{"text": "得2。", "label": 1}, {"text": "答2。", "label": -1}]},
    {"problem": "1+1？", "steps": ["得2。", "答2。"], "ratings": [1, 0.5]},
]
RETRIEVED: list[dict[str, Any]] = [
    {"query": "桥长", "positive": "桥长百米。", "negative": "江长千里。"},
    {"query": "桥长", "pos": ["桥长百米。"], "neg": ["江长千里。", "山高。"], "prompt": "找出短文。"},
    {"anchor": "桥长", "positive": "桥有多长"},
    {"query": "桥长", "positive": "桥长百米。", "negative_1": "江长千里。", "negative_2": "山高。"},
    {"query": "桥长", "positive_passages": [{"text": "桥长百米。"}], "negative_passages": [{"text": "江长千里。"}]},
    {"question": "桥长", "answers": ["百米"], "positive_ctxs": [{"text": "桥。"}], "hard_negative_ctxs": []},
]


@pytest.mark.parametrize(
    ("row", "what"),
    [*((row, STEPS) for row in STEP_LABELS), *((row, RETRIEVAL) for row in RETRIEVED)],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_labels_of_steps_and_passages_to_find_are_named(row: dict[str, Any], what: str) -> None:
    assert (describe_look_alike(row) or ("",))[0] == what
    assert what != RETRIEVAL or not any(candidate.recognize(row) for candidate in PREFERENCE_FORMATS)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "桥多长？", "positive": "百米。", "negative": "不知道。"},
        {"question": "桥多长？", "positive": "百米。", "negative": "不知道。"},
        {"query": "桥多长？", "pos_resp": "百米。", "neg_resp": "不知道。"},
        {"query": "二楼呢？", "history": [["一楼？", "大厅。"]], "positive": "书库。", "negative": "不知道。"},
    ],
)
def test_two_answers_under_the_names_of_passages_are_pairs(row: dict[str, Any]) -> None:
    assert describe_look_alike(row) is None
    assert any(candidate.recognize(row) for candidate in PREFERENCE_FORMATS)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "步骤？", "output": "先做一。", "steps": ["一", "二"], "label": 1},
        {"prompt": "几点？", "completions": ["九点。", "不知道。"], "scores": [1, 0]},
        {"input": "江上 -\n桥下 -", "label": "写景"},
    ],
)
def test_what_has_no_labels_of_steps_is_not_named_so(row: dict[str, Any]) -> None:
    assert describe_look_alike(row) is None


def test_the_way_out_of_lists_in_objects_is_a_path_that_jq_takes(put: Put) -> None:
    rows = [{"question": "几点？", "answer": "九点。"}]
    value = {"25": {"指南": "甲", "qa list": rows}, "b": {"qa": rows}}
    (found,) = inspect([str(put("a.json", json.dumps(value, ensure_ascii=False)))])
    assert """jq '."25"."qa list"' in.json""" in found["error"], found


# ------------------------------------------------------------------------------------------- lists inside of cells

TURNS = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好呀"}]


@pytest.mark.parametrize(
    "cell",
    [
        json.dumps(TURNS, ensure_ascii=False),
        json.dumps(TURNS),
        str(TURNS),
        {"role": ["user", "assistant"], "content": ["你好", "你好呀"]},
    ],
)
def test_turns_in_a_cell_are_turns(put: Put, run: Callable[..., Made], cell: Any) -> None:
    made = run(Conversations, put("a.json", json.dumps([{"messages": cell, "topic": "问候"}])), validation_fraction=0)
    assert [turn["text"] for turn in made.kept[0]["messages"]] == ["你好", "你好呀"]
    assert made.kept[0]["meta"] == {"topic": "问候"}


def test_a_question_in_brackets_stays_a_text(put: Put, run: Callable[..., Made]) -> None:
    row = {"prompt": '["红", "黄"] 里有几个字？', "response": "两个。"}
    asked = {"prompt": '[{"红": 1}]', "response": "一个。"}
    made = run(Conversations, put("a.jsonl", [row, asked]), validation_fraction=0)
    assert [kept["messages"][0]["text"] for kept in made.kept] == [row["prompt"], asked["prompt"]]


def test_turns_under_a_name_of_a_part_are_named_with_the_way_to_read_them(put: Put, run: Callable[..., Made]) -> None:
    turns = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    path = put("a.jsonl", [{"environment": "x", "trajectory": [{"action": "ls"}], "history": turns}])
    with pytest.raises(UserError, match="under `history`") as error:
        run(Conversations, path)
    assert "{messages: history}" in str(error.value)
    (found,) = inspect([str(path)], {"fields": {"messages": "history"}})
    assert found["kept"] == 1
