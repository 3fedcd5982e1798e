"""What rows of public sets hold besides texts: numbers, ids, several wordings, parts of a batch; nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences, UnpairedPreferences
from hanlin.core.errors import UserError
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
QUESTION, ANSWER = "桥有多长？", "一百二十米。"
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
SHORT = "写一个函数，去掉一个文本里第一个和最后一个给定的字，再把剩下的部分按原来的次序交回来。"


def look(put: Put, rows: Any, name: str = "a.jsonl") -> dict[str, Any]:
    (found,) = inspect([str(put(name, rows))])
    return found


def read(put: Put, run: Run, rows: Any, kind: Any = Conversations, name: str = "a.jsonl") -> Made:
    return run(kind, put(name, rows), validation_fraction=0)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [120, 0, 1.5, -3, 10**400])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: {"question": QUESTION, "answer": value},
        lambda value: {"problem": QUESTION, "answer": value},
        lambda value: {"instruction": QUESTION, "input": "", "output": value},
        lambda value: {"messages": [TURNS[0], {"role": "assistant", "content": value}]},
        lambda value: {"conversation": [{"human": QUESTION, "assistant": value}]},
        lambda value: {"instruction": QUESTION, "instances": [{"input": "", "output": value}]},
    ],
)
def test_an_answer_that_is_a_number_is_read_as_a_table_would_hold_it(
    put: Put, run: Run, make: Callable[[Any], Any], value: Any
) -> None:
    (kept,) = read(put, run, [make(value)]).kept
    assert [turn["text"] for turn in kept["messages"]] == [QUESTION, str(value)]


@pytest.mark.parametrize(
    "make",
    [
        lambda value: {"question": QUESTION, "answer": value},
        lambda value: {"instruction": QUESTION, "output": value},
        lambda value: {"conversation": [{"human": QUESTION, "assistant": value}]},
    ],
)
def test_an_answer_that_is_neither_text_nor_number_is_named_and_an_empty_one_is_none(
    put: Put, run: Run, make: Callable[[Any], Any]
) -> None:
    texts = [f"{ANSWER}{n}" for n in range(3)]
    made = read(put, run, [*map(make, texts), make(True), make(None), make("")], Conversations)
    assert made.ledger["rows_kept"] == 3 and made.ledger["dropped"]["not_text"] == 1
    assert sum(made.ledger["dropped"].values()) == 3
    assert any(row["detail"].endswith(": true") for row in made.dropped if row["reason"] == "not_text")


def test_counts_of_tokens_are_no_answer(put: Put) -> None:
    assert "error" in look(put, [{"prompt": QUESTION, "input": 12, "output": 30}])


def test_answers_of_a_pair_may_be_numbers(put: Put, run: Run) -> None:
    (kept,) = read(put, run, [{"prompt": "一加一？", "chosen": 2, "rejected": 3}], Preferences).kept
    assert (kept["chosen"]["text"], kept["rejected"]["text"]) == ("2", "3")


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Conversations, {"messages": TURNS}),
        (Conversations, {"conversation": [{"human": QUESTION, "assistant": ANSWER}]}),
        (Conversations, {"instruction": QUESTION, "output": ANSWER}),
        (Conversations, {"dialogue": [QUESTION, ANSWER]}),
        (Conversations, {"text": f"<s>Human: {QUESTION}</s><s>Assistant: {ANSWER}</s>"}),
        (Conversations, {"segments": [{"label": False, "text": QUESTION}, {"label": True, "text": ANSWER}]}),
        (Preferences, {"prompt": QUESTION, "chosen": ANSWER, "rejected": "不知道。"}),
        (UnpairedPreferences, {"prompt": TURNS[:1], "answer": TURNS[1], "good": True}),
        (UnpairedPreferences, {"messages": TURNS, "label": True}),
        (Corpus, {"text": SHORT}),
    ],
)
def test_the_id_of_a_row_goes_to_meta_and_one_of_hanlin_is_given_anew(put: Put, run: Run, kind: Any, row: Any) -> None:
    first = read(put, run, [{"id": "zh-7", **row}], kind)
    assert first.kept[0]["meta"]["id"] == "zh-7" and first.ledger["unread_fields"] == {}
    again = run(kind, first.out, validation_fraction=0)
    assert again.kept[0]["meta"] == first.kept[0]["meta"] and again.kept[0]["id"] != "zh-7"


def test_a_value_of_meta_that_another_one_hides_is_named(put: Put, run: Run) -> None:
    made = read(put, run, [{"messages": TURNS, "id": "a", "lang": "zh", "meta": {"id": "b", "lang": "zh", "n": 1}}])
    assert made.kept[0]["meta"] == {"id": "a", "lang": "zh", "n": 1}
    assert made.ledger["unread_fields"] == {"meta.id": 1}


# --- what answers a document ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["code", "answer", "response", "output", "答案"])
def test_an_answer_beside_the_text_of_a_document_is_named(put: Put, run: Run, field: str) -> None:
    held = "江南的春天来得很早，河边的柳树在二月里就已经发了芽，孩子们放了学都爱到桥上去看船。"
    rows = [{"text": SHORT, field: "def f(s): ..."}, {"text": held, field: held[-8:]}]
    made = read(put, run, rows, Corpus)
    assert made.ledger["rows_kept"] == 2 and made.ledger["unread_fields"] == {field: 1}


def test_a_text_with_its_answer_is_a_chat_unless_the_text_holds_the_answer(put: Put) -> None:
    assert look(put, [{"question_id": 1, "text": QUESTION, "answer": ANSWER}])["stage"] == "conversations"
    assert look(put, [{"text": f"{SHORT}{ANSWER}", "answer": ANSWER}])["stage"] == "corpus"


# --- other shapes of chats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "answer_a": ANSWER, "answer_b": SHORT, "log_of_it": TURNS},
        {"question": QUESTION, "chosen_by": SHORT, "session": TURNS},
        {"score_trace": TURNS, "id": 1},
        {"评语": TURNS, "id": 1},
    ],
)
def test_a_chat_about_a_row_is_not_the_row(put: Put, row: Any) -> None:
    assert look(put, [row, row]).get("format") != "jsonl: messages"


def test_a_list_of_a_whole_chat_is_found_by_any_name_if_it_is_the_only_one(put: Put, run: Run) -> None:
    (kept,) = read(put, run, [{"message": TURNS, "model": "m"}]).kept
    assert [turn["text"] for turn in kept["messages"]] == [QUESTION, ANSWER] and kept["meta"] == {"model": "m"}
    for row in ({"left": TURNS, "right": TURNS}, {"few_shot": TURNS}, {"spans": TURNS[:1]}):
        assert "error" in look(put, [row]), row


@pytest.mark.parametrize("asked", ["patterns", "examples", "text"])
def test_the_intents_of_a_chatbot_are_one_row_each_of_the_first_wordings(put: Put, run: Run, asked: str) -> None:
    intents = [
        {"tag": "长度", asked: [QUESTION, "多长？"], "responses": [ANSWER, "不短。"]},
        {"tag": "再见", asked: ["再见"], "responses": ["再见！"], "context": [""]},
    ]
    made = read(put, run, json.dumps({"intents": intents}, ensure_ascii=False, indent=1), name="intents.json")
    assert [[turn["text"] for turn in row["messages"]] for row in made.kept] == [[QUESTION, ANSWER], ["再见", "再见！"]]
    assert made.ledger["unread_fields"] == {asked: 1, "responses": 1}


def test_a_task_of_natural_instructions_is_a_chat_for_each_instance(put: Put, run: Run) -> None:
    instances = [
        {"id": "t-1", "input": "再见", "output": ["Goodbye", "Bye"]},
        {"id": "t-2", "input": "好", "output": [1]},
    ]
    task = {"Definition": ["译成英文。", "只写译文。"], "Positive Examples": [{"input": "a"}], "Instances": instances}
    made = read(put, run, json.dumps(task, ensure_ascii=False), name="task.json")
    texts = [[turn["text"] for turn in row["messages"]] for row in made.kept]
    assert texts == [["译成英文。\n只写译文。\n再见", "Goodbye"], ["译成英文。\n只写译文。\n好", "1"]]
    assert made.ledger["unread_fields"] == {"Positive Examples": 2, "output": 1}


# --- named for what it is ---------------------------------------------------------------------------------------------

REQUEST = {"custom_id": "r-1", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": QUESTION}}
REPLY = {"status_code": 200, "body": {"choices": [{"message": TURNS[1]}]}}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (REQUEST, "requests of a batch"),
        ({**REQUEST, "url": "/v1/chat/completions", "body": {"messages": TURNS[:1]}}, "requests of a batch"),
        ({"custom_id": "r-1", "params": {"max_tokens": 9, "messages": TURNS[:1]}}, "requests of a batch"),
        ({"id": "b", "custom_id": "r-1", "response": REPLY, "error": None}, "answers of a batch"),
        ({"custom_id": "r-1", "result": {"type": "succeeded", "message": TURNS[1]}}, "answers of a batch"),
        ({"id": 1, "data": {"text": SHORT}, "annotations": [{"result": []}]}, "Label Studio"),
        ({"type": "user", "sessionId": "s", "message": TURNS[0], "uuid": "u"}, "log of an agent's session"),
        ({"type": "response_item", "payload": {"type": "message", **TURNS[0]}}, "log of an agent's session"),
    ],
)
def test_parts_of_chats_are_named_with_the_way_out(put: Put, run: Run, row: Any, what: str) -> None:
    assert what in look(put, [row, row])["error"]
    with pytest.raises(UserError, match=what) as error:
        run(Conversations, put("b.jsonl", [row]))
    assert error.value.hint


def test_a_request_with_the_response_to_it_is_a_chat(put: Put, run: Run) -> None:
    (kept,) = read(put, run, [{"custom_id": "r-1", "request": {"messages": TURNS[:1]}, "response": REPLY}]).kept
    assert [turn["text"] for turn in kept["messages"]] == [QUESTION, ANSWER]


def test_lists_of_rows_under_names_that_nobody_knows_are_named(put: Put) -> None:
    lists = json.dumps({"第一部分": [{"句": "甲"}], "第二部分": [{"句": "乙"}]}, ensure_ascii=False)
    error = look(put, lists, "a.json")["error"]
    assert "第一部分, 第二部分" in error and "jq" in error


def test_a_few_bare_texts_do_not_make_rows_documents(put: Put) -> None:
    assert "error" in look(put, [{"kind": 1}, {"kind": 2}, "一行不知为何的字", {"kind": 3}])


def test_a_word_within_another_word_does_not_make_data_text(put: Put) -> None:
    rows = [{"Documentation": "x", "context": "y", "Link": "z"}]
    assert "prompt_response" in look(put, rows)["error"]
    assert "text_lines" in look(put, [{"html_text": "x", "n": "z"}])["error"]
