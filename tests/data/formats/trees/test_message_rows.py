"""Files with one message on each row: the messages of a conversation are joined, and none is lost unnamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Preferences
from hanlin.data.formats.trees import message_rows
from hanlin.data.ingest import splits
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]


def message(name: str, parent: str | None, text: str, rank: int | None = None, **fields: Any) -> dict[str, Any]:
    role = "assistant" if name.startswith("a") else "prompter"
    ids = {"message_id": name, "parent_id": parent, "message_tree_id": fields.pop("tree", "t")}
    return {**ids, "role": role, "text": text, "rank": rank, "deleted": False, "lang": "zh", **fields}


TREE = [
    message("q1", None, "怎样挑一只好西瓜？"),
    message("a1", "q1", "随便挑一只。", 1),
    message("a2", "q1", "听声音，看瓜蒂。", 0),
    message("q2", "a2", "声音应该怎样？"),
    message("a3", "q2", "清脆。", 0),
    message("a4", "q2", "沉闷。", 1),
]


def read_turns(made: Made) -> list[list[str]]:
    return [[turn["text"] for turn in row["messages"]] for row in made.rows("conversations.jsonl")]


def test_the_messages_of_a_tree_become_its_best_branch(put: Put, run: Run) -> None:
    made = run(Conversations, put("oasst.jsonl", TREE), validation_fraction=0)
    assert read_turns(made) == [["怎样挑一只好西瓜？", "听声音，看瓜蒂。", "声音应该怎样？", "清脆。"]]
    assert made.ledger["files"][0]["unread_fields"] == {"replies": 1}
    assert made.rows("conversations.jsonl")[0]["meta"] == {"message_tree_id": "t", "lang": "zh"}


def test_ranked_messages_become_pairs_of_the_best_answer_and_each_other(put: Put, run: Run) -> None:
    made = run(Preferences, put("oasst.jsonl", TREE), validation_fraction=0)
    pairs = [
        (len(row["prompt"]), row["chosen"]["text"], row["rejected"]["text"]) for row in made.rows("preferences.jsonl")
    ]
    assert pairs == [(1, "听声音，看瓜蒂。", "随便挑一只。"), (3, "清脆。", "沉闷。")]


def test_inspect_takes_a_tree_for_conversations(put: Put) -> None:
    (row,) = inspect([str(put("oasst.jsonl", TREE))])
    assert (row["stage"], row["format"], row["kept"]) == ("conversations", "jsonl: oasst_tree", 1)


@pytest.mark.parametrize("lost", [message("a9", "gone", "没有上文。"), message("q9", None, "另一个根？")])
def test_a_message_without_its_parent_is_dropped_by_name(put: Put, run: Run, lost: dict[str, Any]) -> None:
    made = run(Conversations, put("oasst.jsonl", [*TREE, lost]), max_dropped=0.9, validation_fraction=0)
    assert len(read_turns(made)) == 1
    assert made.ledger["dropped"] == {"no_parent": 1}
    assert made.rows("dropped.jsonl")[0]["row"] == lost


def test_a_circle_of_messages_is_dropped_by_name(put: Put, run: Run) -> None:
    rows = [*TREE, message("q8", "a8", "甲？", tree="t"), message("a8", "q8", "乙。", tree="t")]
    made = run(Conversations, put("oasst.jsonl", rows), max_dropped=0.9, validation_fraction=0)
    assert made.ledger["dropped"] == {"no_parent": 2}


def test_deleted_and_refused_messages_are_not_learned(put: Put, run: Run) -> None:
    rows = [
        TREE[0],
        {**TREE[2], "deleted": True},
        {**TREE[1], "review_result": False},
        message("a5", "q1", "看纹路。", 5),
    ]
    made = run(Conversations, put("oasst.jsonl", rows), validation_fraction=0)
    assert read_turns(made) == [["怎样挑一只好西瓜？", "看纹路。"]]


def test_turns_of_a_table_are_joined_by_their_conversation_in_their_order(put: Put, run: Run) -> None:
    table = "conversation_id,turn,role,content,topic\n7,1,user,几点开馆？,书\n7,2,assistant,八点。,书\n"
    table += "8,2,assistant,带上借书证。,证\n8,1,user,怎样借书？,证\n"
    made = run(Conversations, put("turns.csv", table), validation_fraction=0)
    assert read_turns(made) == [["几点开馆？", "八点。"], ["怎样借书？", "带上借书证。"]]
    assert [row["meta"]["topic"] for row in made.rows("conversations.jsonl")] == ["书", "证"]


def test_flags_calls_and_reasoning_of_a_message_stay_with_it(put: Put, run: Run) -> None:
    rows = [
        {"session_id": 1, "role": "user", "content": "几点？"},
        {"session_id": 1, "role": "assistant", "content": "八点。", "reasoning_content": "看表。", "train": True},
        {"session_id": 1, "role": "user", "content": "还有呢？"},
        {"session_id": 1, "role": "assistant", "content": "没有。", "train": False, "score": [1, 2]},
    ]
    made = run(Conversations, put("turns.jsonl", rows), validation_fraction=0)
    (row,) = made.rows("conversations.jsonl")
    assert row["messages"][1]["reasoning"] == "看表。" and row["messages"][3]["train"] is False
    assert made.ledger["files"][0]["unread_fields"] == {"turn.score": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"session_id": 1, "role": "user", "content": "问？", "response": "答。"},
        {"role": "user", "content": "问？"},
        {"session_id": 1, "role": "narrator", "content": "问？"},
        {"session_id": 1, "messages": [{"role": "user", "content": "问？"}], "role": "user", "text": "x"},
    ],
)
def test_a_row_that_is_more_or_less_than_a_message_is_not_joined(row: dict[str, Any]) -> None:
    assert not message_rows.is_message_row(row)


def test_rows_that_all_share_one_id_are_not_one_endless_conversation(
    put: Put, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_rows, "MAX_MESSAGES", 4)
    rows = [{"session_id": 0, "role": ("user", "assistant")[n % 2], "content": f"第{n}句话。"} for n in range(6)]
    made = run(Conversations, put("turns.jsonl", rows), max_dropped=0.9, validation_fraction=0)
    assert len(read_turns(made)[0]) == 4 and made.ledger["dropped"] == {"no_parent": 2}


def test_a_conversation_is_not_cut_where_a_large_file_is_divided(
    put: Put, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"session_id": n // 2, "role": ("user", "assistant")[n % 2], "content": f"{n}号说的一句话。"} for n in range(60)
    ]
    path = put("turns.jsonl", rows)
    monkeypatch.setattr(splits, "SPLIT_BYTES", len(json.dumps(rows, ensure_ascii=False).encode()) // 7)
    assert len(read_turns(run(Conversations, path, validation_fraction=0))) == 30


def turn(chat: str, text: str, number: int | None = None) -> dict[str, Any]:
    role = "user" if text.endswith("？") else "assistant"
    return {"conversation_id": chat, "role": role, "content": text} | ({} if number is None else {"turn": number})


def test_a_broken_first_line_does_not_hide_that_rows_are_messages(put: Put, run: Run) -> None:
    lines = [json.dumps(turn("1", text), ensure_ascii=False) for text in ("几点闭馆？", "九点。")]
    path = put("turns.jsonl", "\n".join(["{broken", *lines]))
    made = run(Conversations, path, on_error="drop", validation_fraction=0)
    assert read_turns(made) == [["几点闭馆？", "九点。"]] and made.ledger["dropped"] == {"broken_json": 1}


def test_a_conversation_with_a_broken_line_among_its_turns_is_dropped_by_name(put: Put, run: Run) -> None:
    rows = [turn("1", "几点闭馆？"), turn("1", "九点。"), turn("1", "周末呢？"), turn("1", "也是九点。")]
    others = [turn("2", "有停车场吗？"), turn("2", "没有。")]
    lines = [json.dumps(row, ensure_ascii=False) for row in (*rows, *others)]
    path = put("turns.jsonl", "\n".join([lines[0], "{broken", *lines[2:]]))
    made = run(Conversations, path, on_error="drop", validation_fraction=0, max_dropped=1)
    assert read_turns(made) == [["有停车场吗？", "没有。"]]
    assert made.ledger["dropped"] == {"broken_json": 1, "no_parent": 3}
    path = put("b.jsonl", "\n".join([*lines[:4], "{broken", *lines[4:]]))
    made = run(Conversations, path, on_error="drop", validation_fraction=0)
    assert len(read_turns(made)) == 2  # between two conversations it takes a turn of none


def test_turns_that_go_on_behind_another_conversation_are_dropped_by_name(put: Put, run: Run) -> None:
    rows = [turn("1", "几点闭馆？", 1), turn("1", "九点。", 2), turn("2", "有停车场吗？", 1), turn("2", "没有。", 2)]
    late = [turn("1", "那周末呢？", 3), turn("1", "也是。", 4)]
    made = run(Conversations, put("turns.jsonl", [*rows, *late]), validation_fraction=0)
    assert len(read_turns(made)) == 2 and made.ledger["dropped"] == {"no_parent": 2}
    assert made.dropped[0]["detail"] == "conversation_id 1: its turns are not together"


def test_an_id_that_comes_again_is_an_unread_field(put: Put, run: Run) -> None:
    rows = [turn("1", "几点闭馆？"), turn("1", "九点。"), turn("2", "有停车场吗？"), turn("2", "没有。")]
    again = [turn("1", "借书要证件吗？"), turn("1", "要。")]
    made = run(Conversations, put("turns.jsonl", [*rows, *again]), validation_fraction=0)
    assert len(read_turns(made)) == 3 and made.ledger["unread_fields"] == {"conversation_id": 1}


def test_where_a_large_file_is_divided_does_not_make_its_rows_messages(
    put: Put, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [{"question": f"第{n}问说的是什么？", "answer": f"说的是{n}。"} for n in range(3)]
    rows = [*whole, *(turn("1", f"{n}号说的一句话{'？。'[n % 2]}") for n in range(40))]
    path = put("mixed.jsonl", rows)
    expected = run(Conversations, path, validation_fraction=0, max_dropped=1).ledger
    monkeypatch.setattr(splits, "SPLIT_BYTES", 500)
    divided = run(Conversations, path, validation_fraction=0, max_dropped=1).ledger
    assert divided["dropped"] == expected["dropped"] and divided["rows_kept"] == expected["rows_kept"] == 3


def test_a_chain_deeper_than_a_row_can_hold_is_cut_by_name(put: Put, run: Run) -> None:
    rows = [
        message(f"{'qa'[n % 2]}{n}", f"{'qa'[(n - 1) % 2]}{n - 1}" if n else None, f"第{n}句话。") for n in range(600)
    ]
    made = run(Conversations, put("chain.jsonl", rows), max_dropped=1, validation_fraction=0)
    assert len(read_turns(made)[0]) == message_rows.MAX_DEPTH and made.ledger["dropped"] == {"no_parent": 400}


@pytest.mark.parametrize("strange", [["a"], {"a": 1}, 1.5, True])
def test_ids_may_be_any_value(put: Put, run: Run, strange: Any) -> None:
    rows = [{**TREE[0], "message_id": strange}, {**TREE[1], "parent_id": strange}]
    made = run(Conversations, put("oasst.jsonl", rows), validation_fraction=0)
    assert read_turns(made) == [["怎样挑一只好西瓜？", "随便挑一只。"]]


# --- turns without ids ------------------------------------------------------------------------------------------------

BARE: list[dict[str, Any]] = [
    {"role": "client", "content": "睡不好怎么办？", "annotation": [1]},
    {"role": "counselor", "content": "几点睡？"},
    {"role": "client", "content": "两点。"},
    {"role": "counselor", "content": "早些睡。"},
]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_file_of_turns_without_ids_is_one_conversation(put: Put, name: str) -> None:
    (row,) = inspect([str(put(name, json.dumps(BARE, ensure_ascii=False) if name == "a.json" else BARE))])
    assert (row["stage"], row["kept"], row["unread_fields"]) == ("conversations", 1, {"turn.annotation": 1})
    assert [turn["text"] for turn in row["samples"][0]["messages"]] == [turn["content"] for turn in BARE]


def test_a_system_text_begins_another_conversation_of_such_a_file(put: Put, run: Run) -> None:
    system = {"role": "system", "content": "你说话温和。"}
    rows = [system, *BARE[:2], system, *BARE[2:]]
    assert read_turns(run(Conversations, put("a.jsonl", rows), validation_fraction=0)) == [
        ["你说话温和。", "睡不好怎么办？", "几点睡？"],
        ["你说话温和。", "两点。", "早些睡。"],
    ]


@pytest.mark.parametrize(
    "rows",
    [
        [{"role": "春日", "text": "你好。"}, {"role": "阿虚", "text": "有什么事吗？"}],
        [{"role": "assistant", "text": "第一篇文章。"}, {"role": "assistant", "text": "第二篇文章。"}],
    ],
)
def test_lines_of_unknown_speakers_or_of_one_are_no_conversation(put: Put, rows: list[dict[str, str]]) -> None:
    (row,) = inspect([str(put("a.jsonl", rows))])
    assert row["stage"] == "corpus"
