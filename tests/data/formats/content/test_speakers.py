"""Dialogues of named speakers: the names are roles by the setting `roles`, never a part of what is learned unasked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Preferences
from hanlin.data.formats.content.roles import find_nameless_roles, list_speakers, split_speakers
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
SAID = [
    "罗恩：这里有人坐吗？",
    "哈利：没有，请坐。",
    "赫敏：你们看见一只蟾蜍吗？",
    "罗恩：没有。",
    "哈利：我们也没看见。",
]
READ = [
    ("user", "罗恩：这里有人坐吗？"),
    ("assistant", "没有，请坐。"),
    ("user", "赫敏：你们看见一只蟾蜍吗？\n罗恩：没有。"),
    ("assistant", "我们也没看见。"),
]


def read(put: Put, run: Callable[..., Made], data: Any, roles: dict[str, str], name: str = "a.jsonl") -> Made:
    return run(Conversations, put(name, data), roles=roles, validation_fraction=0)


def turns_of(row: Any) -> list[tuple[str, str]]:
    return [(turn["role"], turn["text"]) for turn in row["messages"]]


@pytest.mark.parametrize(
    "row",
    [
        {"dialogue": SAID},
        {"Dialogue": SAID, "Speakers": ["哈利", "罗恩", "赫敏"]},
        {"dialogue": "\n".join(SAID), "summary": "找座位。"},
        {"conversation": "\n\n".join(SAID)},
    ],
)
def test_speakers_without_a_role_are_unknown_roles_and_named(put: Put, row: Any) -> None:
    (found,) = inspect([str(put("a.jsonl", [row]))])
    assert (found["stage"], found["kept"], found["dropped"]) == ("conversations", 0, {"unknown_role": 1})


@pytest.mark.parametrize("said", [SAID, "\n".join(SAID)])
def test_the_setting_roles_says_who_answers_and_several_others_keep_their_names(
    put: Put, run: Callable[..., Made], said: Any
) -> None:
    made = read(put, run, [{"dialogue": said, "id": "s-1"}], {"哈利": "assistant", "*": "user"})
    assert turns_of(made.kept[0]) == READ and made.kept[0]["meta"] == {"id": "s-1"}


def test_a_dialogue_of_one_speaker_may_be_the_prompt_of_pairs(put: Put, run: Callable[..., Made]) -> None:
    row = {
        "Dialogue": SAID[:1],
        "tags": ["地点：车厢"],
        "Positive-Response": "请坐。",
        "Negative-Response": ["走开。", "滚。"],
    }
    fields = {"messages": "Dialogue", "chosen": "Positive-Response", "rejected": "Negative-Response"}
    source = {"fields": fields, "roles": {"*": "user"}}
    (first, second) = run(Preferences, put("a.jsonl", [row]), source=source, validation_fraction=0).kept
    assert [(turn["role"], turn["text"]) for turn in first["prompt"]] == [("user", "这里有人坐吗？")]
    assert [pair["rejected"]["text"] for pair in (first, second)] == ["走开。", "滚。"]
    assert first["meta"] == {"tags": ["地点：车厢"]}


def test_a_prompt_that_begins_with_a_word_and_a_colon_is_no_speaker(put: Put, run: Callable[..., Made]) -> None:
    row = {"prompt": "题目：桥有多长？", "response": "答案：百米。", "tags": ["地点：江边", "人物：无"]}
    made = read(put, run, [row], {"*": "user"})
    assert turns_of(made.kept[0]) == [("user", row["prompt"]), ("assistant", row["response"])]


def test_a_name_that_roles_leaves_out_drops_the_row_by_name(put: Put, run: Callable[..., Made]) -> None:
    made = read(put, run, [{"dialogue": SAID}, {"dialogue": SAID[:2]}], {"哈利": "assistant", "罗恩": "user"})
    assert [turns_of(row) for row in made.kept] == [[("user", "这里有人坐吗？"), ("assistant", "没有，请坐。")]]
    assert made.ledger["dropped"] == {"unknown_role": 1}


def test_all_others_are_names_of_turns_too_but_no_known_roles(put: Put, run: Callable[..., Made]) -> None:
    turns = [("system", "在车厢里。"), ("罗恩", "有人吗？"), ("哈利", "没有。")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    made = read(put, run, [row], {"哈利": "assistant", "*": "user"})
    assert [role for role, _ in turns_of(made.kept[0])] == ["system", "user", "assistant"]


def test_dialogues_by_their_ids_are_rows_though_some_lack_a_field(put: Put, run: Callable[..., Made]) -> None:
    sessions: dict[str, Any] = {
        f"session-{n}": {"place": f"第{n}章", "Dialogue": [*SAID[:1], f"{SAID[1]}{n}"]} for n in range(3)
    }
    sessions["session-1"] |= {"relations": {"罗恩": {"friend": 1}}}
    data = json.dumps(sessions, ensure_ascii=False)
    made = read(put, run, data, {"哈利": "assistant", "罗恩": "user"}, "hpd.json")
    assert [row["meta"]["id"] for row in made.kept] == ["session-0", "session-1", "session-2"]
    assert made.ledger["unread_fields"] == {"relations": 1}


@pytest.mark.parametrize(
    ("said", "roles"),
    [
        (["A: 几点开门？", "B: 九点。", "A: 多谢。", "B: 不谢。"], ["user", "assistant"] * 2),
        (["乙：几点开门？", "甲：九点。"], ["user", "assistant"]),
        (["Person 1: 几点开门？", "Person 2: 九点。"], ["user", "assistant"]),
        (["问题：几点开门？", "答案：九点。"], ["user", "assistant"]),
    ],
)
def test_two_speakers_with_letters_for_names_are_asker_and_answerer(
    put: Put, run: Callable[..., Made], said: list[str], roles: list[str]
) -> None:
    (kept,) = read(put, run, [{"dialogue": said}], {}).kept
    texts = [text.partition(":")[2].strip() or text.partition("：")[2] for text in said]
    assert turns_of(kept) == list(zip(roles, texts, strict=True))


def test_texts_that_do_not_all_begin_with_names_are_no_dialogue_of_speakers() -> None:
    for said in (
        ["你好", "再见"],
        ["注意：开会", "好的"],
        ["小王：在吗", "小王：人呢"],
        ["10:30 见", "12:00 见"],
        [1, None],
    ):
        assert list_speakers(said) == [], said
    assert list_speakers("罗恩：在吗\n\n哈利: 在") == [("罗恩", "在吗"), ("哈利", "在")]
    assert find_nameless_roles([("罗恩", "在吗"), ("哈利", "在")]) == {}
    assert split_speakers(SAID, {"马尔福": "user"}) == []


def test_a_dialogue_that_a_question_is_about_stays_a_text(put: Put) -> None:
    row = {"dialogue": "\n".join(SAID), "question": "谁先到？", "answer": "哈利。"}
    (found,) = inspect([str(put("a.jsonl", [row]))])
    assert found["format"] == "jsonl: prompt_response" and found["kept"] == 1


@pytest.mark.parametrize("said", [["Q: 1+1?", "A: 2"], ["问：一加一？", "答：二"], ["User: 1+1?", "Bot: 2"]])
def test_names_that_are_roles_by_themselves_are_not_among_all_others(
    put: Put, run: Callable[..., Made], said: list[str]
) -> None:
    (row,) = read(put, run, [{"dialogue": said}], {"*": "user"}).kept
    assert [role for role, _ in turns_of(row)] == ["user", "assistant"]
