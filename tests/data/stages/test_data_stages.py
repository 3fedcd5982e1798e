"""What differs between the data stages, from files to records."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences
from hanlin.core.records import Conversation, Document, Preference, read_jsonl
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
SYMBOLS = "".join(chr(0x25A0 + n) for n in range(40))
SPRING = "春天的时候，翰林院里开满了花。学士们坐在树下读书，谈论古今的文章。"


def test_documents_are_read_back_as_records(put: Put, run: Run) -> None:
    made = run(Corpus, put("a.txt", SPRING))
    (document,) = read_jsonl(made.out / "documents.jsonl", Document)
    assert document == Document(SPRING, "a.txt#1", "a.txt:1")


def test_rules_are_counted_where_they_change_something(put: Put, run: Run) -> None:
    made = run(
        Corpus,
        put("a.jsonl", [{"text": SPRING + "\u200b"}, {"text": "二：" + SPRING}]),
        validation_fraction=0,
        dedup="none",
    )
    assert made.ledger["changed"] == {"control_characters": 1}
    assert made.texts == [SPRING, "二：" + SPRING]


def test_rules_can_be_chosen_set_and_taken_out(put: Put, run: Run) -> None:
    path = put("a.jsonl", [{"text": SPRING + "\u200b"}, {"text": SYMBOLS + SPRING}])
    assert run(Corpus, path, rules=[], validation_fraction=0, dedup="none").texts == [
        SPRING + "\u200b",
        SYMBOLS + SPRING,
    ]
    rules = ["default", {"symbols": {"share": 0.9}}, {"control_characters": False}]
    assert run(Corpus, path, rules=rules, validation_fraction=0, dedup="none").texts == [
        SPRING + "\u200b",
        SYMBOLS + SPRING,
    ]
    assert run(Corpus, path, rules=["symbols"], validation_fraction=0).ledger["dropped"] == {"symbols": 1}


def test_lengths_are_bounded(put: Put, run: Run) -> None:
    path = put("a.jsonl", [{"text": SPRING}, {"text": "一二三"}, {"text": SPRING * 9}])
    made = run(Corpus, path, min_chars=4, max_chars=100, rules=[], dedup="none")
    assert made.ledger["dropped"] == {"too_long": 1, "too_short": 1}


def test_characters_are_converted_and_duplicates_found_across_scripts(put: Put, run: Run) -> None:
    pytest.importorskip("opencc")
    traditional = "春天的時候，翰林院裡開滿了花。學士們坐在樹下讀書，談論古今的文章。"
    path = put("a.jsonl", [{"text": SPRING}, {"text": traditional}])
    made = run(Corpus, path, convert="simplified", validation_fraction=0)
    assert made.texts == [SPRING] and made.ledger["dropped"] == {"duplicate": 1}
    assert run(Corpus, path, validation_fraction=0).ledger["dropped"] == {"duplicate": 1}
    apart = run(Corpus, path, validation_fraction=0, dedup={"across_scripts": False})
    assert apart.ledger["rows_kept"] == 2
    assert "說" in run(Corpus, put("b.txt", "他说得很对，我们走吧。"), convert="traditional").texts[0]


def test_simplified_text_is_not_spoilt_by_conversion_to_simplified(put: Put, run: Run) -> None:
    pytest.importorskip("opencc")
    text = "显著的著作，乾隆皇帝与土著，着急地看着。"
    assert run(Corpus, put("a.txt", text), convert="simplified").texts == [text]


def test_dedup_has_three_methods(put: Put, run: Run) -> None:
    path = put("a.jsonl", [{"text": SPRING * 3}, {"text": SPRING * 3}, {"text": SPRING * 3 + "完。"}])
    kept = {
        way: run(Corpus, path, dedup=way, rules=[], validation_fraction=0).ledger["rows_kept"]
        for way in ("none", "exact", "minhash")
    }
    assert kept == {"none": 3, "exact": 2, "minhash": 1}


def test_a_big5_file_and_a_compressed_utf8_file_are_one_corpus(put: Put, run: Run) -> None:
    traditional = "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少？這首詩寫於唐代。"
    one, other = put("a.txt", traditional.encode("big5")), put("b.txt.gz", gzip.compress(SPRING.encode()))
    made = run(Corpus, one, other, validation_fraction=0)
    assert made.texts == [traditional, SPRING]
    assert [account["encoding"] for account in made.ledger["files"]] == ["big5hkscs", "utf-8"]


def chat(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


GOOD = chat(("user", "你是谁？"), ("assistant", "我是小翰。"))


def conversation(
    put: Put, run: Run, row: dict[str, Any], **settings: Any
) -> tuple[list[list[dict[str, Any]]], dict[str, int]]:
    made = run(Conversations, put("a.jsonl", [GOOD, row]), validation_fraction=0, **settings)
    return [row["messages"] for row in made.kept[1:]], made.ledger["dropped"]


def test_conversations_are_read_back_as_records(put: Put, run: Run) -> None:
    made = run(Conversations, put("a.jsonl", [GOOD]))
    (record,) = read_jsonl(made.out / "conversations.jsonl", Conversation)
    assert [message.text for message in record.messages] == ["你是谁？", "我是小翰。"] and record.id == "a.jsonl#1"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat(("user", "问"), ("assistant", "先说"), ("assistant", "答")), "turn_order"),
        (chat(("user", "问"), ("user", "再问"), ("assistant", "答")), "turn_order"),
        (chat(("user", "问"), ("system", "系统"), ("assistant", "答")), "turn_order"),
        (chat(("user", "问"), ("tool", "7"), ("assistant", "答")), "turn_order"),
        (chat(("user", "问"), ("assistant", ""), ("user", "再问"), ("assistant", "答")), "empty_turn"),
        (chat(("user", "  "), ("assistant", "答")), "empty_turn"),
        (chat(("user", "问"), ("assistant", " \n")), "no_answer"),
        (chat(("user", "问")), "no_answer"),
        (chat(("user", "你是谁"), ("assistant", "我是 {{name}}。")), "placeholder"),
        (chat(("user", "问"), ("assistant", "锟斤拷锟斤拷")), "mojibake"),
    ],
)
def test_conversations_that_would_teach_harm_are_dropped(put: Put, run: Run, row: dict[str, Any], reason: str) -> None:
    assert conversation(put, run, row) == ([], {reason: 1})


def test_a_question_without_an_answer_at_the_end_is_cut_off(put: Put, run: Run) -> None:
    made = run(
        Conversations,
        put("a.jsonl", [chat(("user", "问"), ("assistant", "答"), ("user", "还有呢"))]),
        validation_fraction=0,
    )
    assert [turn["text"] for turn in made.kept[0]["messages"]] == ["问", "答"]
    assert made.ledger["changed"] == {"unanswered_end": 1}


def test_a_conversation_may_end_with_a_tool_call(put: Put, run: Run) -> None:
    row = chat(("user", "三加四？"), ("assistant", ""))
    row["messages"][1]["tool_calls"] = [{"name": "add", "arguments": {"a": 3, "b": 4}}]
    kept, dropped = conversation(put, run, row)
    assert kept[0][1]["tool_calls"][0]["name"] == "add" and dropped == {}


def test_an_empty_system_text_is_taken_out(put: Put, run: Run) -> None:
    kept, _ = conversation(put, run, chat(("system", ""), ("user", "问"), ("assistant", "答")))
    assert [turn["role"] for turn in kept[0]] == ["user", "assistant"]


def test_refusals_are_kept_unless_the_rule_is_named(put: Put, run: Run) -> None:
    row = chat(("user", "问"), ("assistant", "抱歉，我无法回答这个问题。"))
    assert conversation(put, run, row)[1] == {}
    assert conversation(put, run, row, rules=["default", "refusals"])[1] == {"refusal": 1}
    honest = chat(("user", "问"), ("assistant", "水不能在零上沸腾之前变成蒸汽吗？可以的，蒸发无法避免。"))
    assert conversation(put, run, honest, rules=["default", "refusals"])[1] == {}


def test_identity_fills_placeholders_and_is_counted(put: Put, run: Run) -> None:
    row = chat(("user", "你是谁"), ("assistant", "我是 {{name}}，由 {{author}} 开发。"))
    made = run(Conversations, put("a.jsonl", [row]), identity={"name": "小翰", "author": "翰林院"})
    assert made.kept[0]["messages"][1]["text"] == "我是 小翰，由 翰林院 开发。"
    assert made.ledger["changed"] == {"identity": 1}


def test_tools_and_calls_survive_the_stage(put: Put, run: Run) -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "三加四？"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 3}}'},
            {"from": "observation", "value": "7"},
            {"from": "gpt", "value": "七"},
        ],
        "tools": '[{"name": "add", "parameters": {}}]',
    }
    made = run(Conversations, put("a.jsonl", [row]))
    (record,) = read_jsonl(made.out / "conversations.jsonl", Conversation)
    assert record.tools == ({"name": "add", "parameters": {}},)
    assert record.messages[1].tool_calls[0].arguments == {"a": 3} and record.messages[2].role == "tool"


def test_conversations_in_traditional_characters_are_converted(put: Put, run: Run) -> None:
    pytest.importorskip("opencc")
    made = run(
        Conversations, put("a.jsonl", [chat(("user", "你會說話嗎"), ("assistant", "會的"))]), convert="simplified"
    )
    assert [turn["text"] for turn in made.kept[0]["messages"]] == ["你会说话吗", "会的"]


def test_long_conversations_are_dropped_when_asked(put: Put, run: Run) -> None:
    assert conversation(put, run, chat(("user", "问"), ("assistant", "长" * 50)), max_chars=20)[1] == {"too_long": 1}


def pair(**row: Any) -> dict[str, Any]:
    return {"prompt": "你好", "chosen": "你好呀", "rejected": "Hello", **row}


def test_preferences_are_read_back_as_records(put: Put, run: Run) -> None:
    made = run(Preferences, put("a.jsonl", [pair(system="你是小翰。")]))
    (record,) = read_jsonl(made.out / "preferences.jsonl", Preference)
    assert [message.role for message in record.prompt] == ["system", "user"]
    assert (record.chosen.text, record.rejected.text) == ("你好呀", "Hello")
    assert "validation.jsonl" not in made.files()


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (pair(rejected="你好呀"), "identical_answers"),
        (pair(rejected="你好呀 \n"), "identical_answers"),
        (pair(chosen=""), "no_answer"),
        (pair(prompt=" "), "no_question"),
        (pair(score_chosen=8, score_rejected=8.0), "tie"),
        (pair(score_chosen=3, score_rejected=8), "chosen_scores_lower"),
    ],
)
def test_pairs_that_prefer_nothing_are_dropped(put: Put, run: Run, row: dict[str, Any], reason: str) -> None:
    made = run(Preferences, put("a.jsonl", [pair(prompt="早"), row]))
    assert made.ledger["dropped"] == {reason: 1}


def test_ties_can_be_kept(put: Put, run: Run) -> None:
    made = run(Preferences, put("a.jsonl", [pair(score_chosen=8, score_rejected=8)]), keep_ties=True)
    assert made.ledger["rows_kept"] == 1


def test_our_own_files_pass_through_a_second_time_unchanged(put: Put, run: Run) -> None:
    for kind, rows, name in (
        (Corpus, [{"text": SPRING}], "documents.jsonl"),
        (Conversations, [GOOD], "conversations.jsonl"),
        (Preferences, [pair()], "preferences.jsonl"),
    ):
        once = run(kind, put("a.jsonl", rows))
        twice = run(kind, once.out)
        keep = ("text", "messages", "prompt", "chosen", "rejected")
        assert [{k: row[k] for k in keep if k in row} for row in twice.rows(name)] == [
            {k: row[k] for k in keep if k in row} for row in once.rows(name)
        ]


def test_conversations_can_be_compared_by_their_questions_and_as_near_duplicates(put: Put, run: Run) -> None:
    asked = "请问春天的时候翰林院里的学士们都在树下做些什么呢"
    answer = "他们坐在树下读书，谈论古今的文章，也写下自己的诗句，有时候还要替皇帝起草诏书。"
    rows = [
        chat(("user", asked), ("assistant", answer)),
        chat(("user", asked + "？"), ("assistant", answer + "嗯。")),
        chat(("user", asked), ("assistant", "读书。")),
    ]
    path = put("a.jsonl", rows)
    kept = {
        (way, on): run(Conversations, path, dedup=way, dedup_on=on, validation_fraction=0).ledger["rows_kept"]
        for way in ("exact", "minhash")
        for on in ("whole", "question")
    }
    assert kept == {
        ("exact", "whole"): 3, ("exact", "question"): 2, ("minhash", "whole"): 2, ("minhash", "question"): 1,
    }  # fmt: skip


def test_a_shared_long_system_text_makes_no_near_duplicates(put: Put, run: Run) -> None:
    system = "".join(f"第{n}条：助手应当如实回答，说明理由，不作无根据的猜测。" for n in range(30))
    asked = [("三加四是几？", "三加四等于七。"), ("月亮为什么会有圆缺？", "因为我们看到的亮面在变。")]
    rows = [{"system": system, "instruction": ask, "output": answer} for ask, answer in asked]
    assert run(Conversations, put("a.jsonl", rows), dedup="minhash", validation_fraction=0).metrics["rows_kept"] == 2
    again = {**rows[0], "output": "三加四等于七！"}
    made = run(Conversations, put("b.jsonl", [rows[0], again]), dedup="minhash", validation_fraction=0)
    assert made.metrics["dropped"] == {"near_duplicate": 1}
