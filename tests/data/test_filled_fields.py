"""An empty field hides no filled one, a field whose name another one gets is named, rows of others are no records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences, UnpairedPreferences
from hanlin.core.errors import UserError
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
TEXT = "江南的春天来得很早，河边的柳树在二月里就已经发了芽。"
TURNS = [{"from": "human", "value": "图书馆几点闭馆？"}, {"from": "gpt", "value": "晚上九点。"}]


def run_rows(put: Put, run: Run, rows: list[dict[str, Any]], kind: Any = Conversations, **source: Any) -> Made:
    path = put("a.jsonl", rows)
    rules: dict[str, Any] = {} if kind in (Preferences, UnpairedPreferences) else {"rules": (), "dedup": "exact"}
    return run(kind, path, validation_fraction=0, max_dropped=1, **rules, **source)


@pytest.mark.parametrize("empty", ["", " \n", []])
def test_an_empty_text_hides_no_other_one(put: Put, run: Run, empty: Any) -> None:
    made = run_rows(put, run, [{"text": empty, "content": TEXT}, {"text": TEXT[:-1], "content": empty}], Corpus)
    assert made.texts == [TEXT, TEXT[:-1]]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [], "conversations": TURNS},
        {"prompt": "", "question": TURNS[0]["value"], "answer": "", "response": TURNS[1]["value"]},
        {"dialogue": [], "dialog": [turn["value"] for turn in TURNS]},
    ],
)
def test_an_empty_field_of_a_chat_hides_no_filled_one(put: Put, run: Run, row: dict[str, Any]) -> None:
    made = run_rows(put, run, [row])
    assert [turn["text"] for turn in made.kept[0]["messages"]] == [turn["value"] for turn in TURNS]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "", "question": "几点闭馆？", "chosen": "九点。", "rejected": "不知道。"},
        {"prompt": "几点闭馆？", "chosen": "", "chosen_response": "九点。", "rejected": "不知道。"},
    ],
)
def test_an_empty_field_of_a_pair_hides_no_filled_one(put: Put, run: Run, row: dict[str, Any]) -> None:
    (kept,) = run_rows(put, run, [row], Preferences).kept
    assert (kept["prompt"][0]["text"], kept["chosen"]["text"]) == ("几点闭馆？", "九点。")


def test_calls_of_nothing_but_empty_texts_are_none(put: Put, run: Run) -> None:
    empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    answer = {"role": "assistant", "content": "九点。"}
    rows = [
        {"messages": [{"role": "user", "content": f"{name}几点闭馆？"}, {**answer, name: value}]}
        for name, value in (("tool_calls", [empty]), ("function_call", empty["function"]))
    ]
    assert [row["messages"][1] for row in run_rows(put, run, rows).kept] == [
        {"role": "assistant", "text": "九点。"}
    ] * 2


@pytest.mark.parametrize("asked", ["text", "prompt"])
def test_code_with_its_tests_answers_the_task_beside_it(put: Put, run: Run, asked: str) -> None:
    task, code = "写一个求和的函数。", "def add(a, b):\n    return a + b"
    tests = {"test_list": ["assert add(1, 2) == 3 and add(-1, 1) == 0 and add(100, 1) == 101"], "test_setup_code": ""}
    made = run_rows(put, run, [{"task_id": 11, asked: task, "code": code, **tests}])
    assert [turn["text"] for turn in made.kept[0]["messages"]] == [task, code]
    assert made.ledger["unread_fields"] == {"test_list": 1}


# --- rows of others ---------------------------------------------------------------------------------------------------


def test_a_source_of_others_is_kept_and_one_of_a_record_said_anew(put: Put, run: Run) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "7", "text": TEXT, "source": "维基百科"},
        {"id": "b.jsonl#7", "text": TEXT[:-1], "source": "b.jsonl:9", "meta": {"note": "长" * 400, "ids": ["x"] * 30}},
        {"id": "8", "text": TEXT[:-2], "meta": {"note": "长" * 400}},
    ]
    made = run_rows(put, run, rows, Corpus)
    assert [row.get("meta") for row in made.kept] == [{"id": "7", "source": "维基百科"}, rows[1]["meta"], {"id": "8"}]
    assert [row["source"] for row in made.kept] == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]
    assert made.ledger["unread_fields"] == {"meta.note": 1}


@pytest.mark.parametrize("kind", [Conversations, Preferences])
def test_a_source_beside_turns_is_kept_too(put: Put, run: Run, kind: Any) -> None:
    asked, answer = {"role": "user", "text": "几点闭馆？"}, {"role": "assistant", "text": "九点。"}
    row = {"prompt": [asked], "chosen": answer, "rejected": {**answer, "text": "不知道。"}}
    row = {"messages": [asked, answer]} if kind is Conversations else row
    (kept,) = run_rows(put, run, [{"id": 1, **row, "source": "馆内问答"}], kind).kept
    assert kept["meta"] == {"id": 1, "source": "馆内问答"}
    (again,) = run_rows(put, run, [kept], kind).kept
    assert again == kept


# --- `fields` ---------------------------------------------------------------------------------------------------------


def test_a_field_whose_name_another_one_gets_is_named(put: Put, run: Run) -> None:
    fields = {"prompt": "ask", "response": "reply"}
    rows: list[dict[str, Any]] = [
        {"ask": "几点闭馆？", "reply": "九点。", "prompt": "你是图书馆的助手。"},
        {"ask": "", "reply": "九点。", "prompt": "你是图书馆的助手。", "no": 1},
    ]
    made = run_rows(put, run, rows, source={"fields": fields})
    assert made.ledger["unread_fields"] == {"prompt": 1}
    assert made.dropped[0]["row"] == rows[1], "the row as the file has it"
    turns = [{"who": "user", "role": "甲", "text": "几点闭馆？"}, {"who": "assistant", "role": "乙", "text": "九点。"}]
    rows = [{"messages": turns}]
    made = run_rows(put, run, rows, source={"fields": {"role": "who"}})
    assert made.ledger["unread_fields"] == {"turn.role": 1} and len(made.kept) == 1


def test_a_dropped_row_stands_in_the_ledger_as_the_file_has_it(put: Put, run: Run) -> None:
    row = {"messages": '[{"role": "护士", "content": "几点了？"}, {"role": "病人", "content": "九点。"}]', "ward": 3}
    assert run_rows(put, run, [row, {"messages": TURNS}]).dropped[0]["row"] == row


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_scores_written_as_text_rule_out_what_numbers_do(put: Put, run: Run) -> None:
    lines = ["prompt,chosen,rejected,score_chosen,score_rejected", "几点？,九点。,不知道。,4.5,1"]
    lines += ["几时？,九点。,不知道。,1,5", "何时？,九点。,不知道。,3,3.0", "啥时？,九点。,不知道。,nan,5"]
    made = run(Preferences, put("pairs.csv", "\n".join(lines)), max_dropped=1)
    assert made.ledger["dropped"] == {"chosen_scores_lower": 1, "tie": 1}
    assert made.kept[0]["meta"] == {"score_chosen": 4.5, "score_rejected": 1.0}
    assert made.kept[1]["meta"]["score_chosen"] == "nan"


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"masked": True}])
def test_an_answer_that_is_not_to_be_learned_is_no_chosen_one(put: Put, run: Run, flag: dict[str, Any]) -> None:
    asked, good, bad = ({"role": role, "content": role} for role in ("user", "assistant", "assistant"))
    pairs = [
        {"prompt": [asked], "chosen": [{**good, **flag}], "rejected": [{**bad, "content": "坏"}]},
        {"prompt": [asked], "chosen": [good], "rejected": [{**bad, "content": "坏", **flag}]},
    ]
    made = run_rows(put, run, pairs, Preferences)
    assert made.ledger["dropped"] == {"nothing_to_learn": 1} and made.kept[0]["id"] == "a.jsonl#2"
    labeled = [{"messages": [asked, {**good, **flag}], "label": label} for label in (True, False)]
    made = run_rows(put, run, labeled, UnpairedPreferences)
    assert made.ledger["dropped"] == {"nothing_to_learn": 1} and made.kept[0]["good"] is False


HUGE = 10**400
"""A whole number of JSON that no float holds."""
ASKED = {"role": "user", "content": "问"}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"conversation_id": "1", "turn": HUGE, **ASKED}, Conversations),
        ({"messages": [ASKED, {"role": "assistant", "content": "答", "loss": HUGE}]}, Conversations),
        ({"prompt": "问", "chosen": "答", "rejected": "坏", "score_chosen": HUGE, "score_rejected": 1}, Preferences),
        ({"prompt": "问", "response_a": "答", "response_b": "坏", "score_a": HUGE, "score_b": 1}, Preferences),
        ({"prompt": "问", "response_0": "答", "response_1": "坏", "overall_preference": HUGE}, Preferences),
        ({"prompt": "问", "answers": ["答", "坏"], "scores": [HUGE, 1]}, Preferences),
        (
            {"prompt": "问", "completions": [{"response": "答", "rank": HUGE}, {"response": "坏", "rank": 1}]},
            Preferences,
        ),
    ],
)
def test_a_number_that_no_float_holds_is_no_number(put: Put, row: dict[str, Any], kind: Any, run: Run) -> None:
    try:
        made = run_rows(put, run, [row], kind, on_error="drop")
    except UserError as error:  # of a file that then holds no pair at all
        assert "a.jsonl" in str(error)
    else:
        assert made.ledger["rows_in"] == made.ledger["rows_kept"] + sum(made.ledger["dropped"].values()) == 1
