"""What the stage makes of what a chat row says besides its texts: flags, greetings, reasoning, tools, placeholders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Preferences
from hanlin.core.records import Conversation, Message, Preference, read_jsonl
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
TOOL = {"name": "get_hours", "description": "查询时间", "parameters": {"type": "object", "properties": {}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def run_rows(put: Put, run: Run, rows: list[Any], **settings: Any) -> tuple[list[Conversation], dict[str, int]]:
    """Run the stage on rows, before one that it keeps: what is kept besides that, and what is dropped."""
    good = {"messages": [user("天上有几个太阳？"), assistant("只有一个太阳。")]}
    made = run(Conversations, put("a.jsonl", [*rows, good]), validation_fraction=0, max_dropped=1.0, **settings)
    *chats, last = read_jsonl(made.out / "conversations.jsonl", Conversation)
    assert last.messages[0].text == "天上有几个太阳？"
    return chats, made.ledger["dropped"]


@pytest.mark.parametrize(
    ("rule", "bad"),
    [
        ("refusals", "抱歉，我无法回答这个问题。"),
        ("answer_language", "The library closes at nine in the evening and it is open on the weekend as well."),
        ("placeholders", "我是{{name}}。"),
    ],
)
def test_a_bad_answer_that_is_not_learned_costs_no_conversation(put: Put, run: Run, rule: str, bad: str) -> None:
    turns = [
        user("图书馆几点闭馆？周末开吗？"),
        assistant(bad, weight=0),
        user("说清楚。"),
        assistant("九点闭馆，周末也开。"),
    ]
    (chat,), dropped = run_rows(put, run, [{"messages": turns}], rules=[rule])
    assert dropped == {} and [message.train for message in chat.messages] == [None, False, None, None]
    turns[1]["weight"] = 1
    assert run_rows(put, run, [{"messages": turns}], rules=[rule])[0] == []


def test_a_conversation_without_an_answer_to_learn_is_dropped_by_name(put: Put, run: Run) -> None:
    rows = [
        {"messages": [user("问"), assistant("答", loss=False)]},
        {"conversations": [{"from": "gpt", "value": "欢迎。"}, {"from": "human", "value": "问"}]},
    ]
    assert run_rows(put, run, rows) == ([], {"nothing_to_learn": 2})


def test_a_greeting_is_kept_and_not_learned(put: Put, run: Run) -> None:
    rows = [{"messages": [assistant("欢迎光临。"), user("几点闭馆？"), assistant("九点。")]}]
    (chat,), dropped = run_rows(put, run, rows)
    assert dropped == {} and chat.messages[0] == Message("assistant", "欢迎光临。", train=False)


def test_a_call_before_any_question_is_out_of_order(put: Put, run: Run) -> None:
    call = {"name": "get_hours", "arguments": {}}
    rows = [{"messages": [assistant("", tool_calls=[call]), {"role": "tool", "content": "1"}, assistant("答")]}]
    assert run_rows(put, run, rows) == ([], {"turn_order": 1})


def test_rules_and_conversion_reach_the_reasoning(put: Put, run: Run) -> None:
    pytest.importorskip("opencc")
    rows = [{"messages": [user("問"), assistant("答案", reasoning_content="先\u200b想後說")]}]
    (chat,), _ = run_rows(put, run, rows, convert="simplified")
    assert chat.messages[1].reasoning == "先想后说"
    rows = [{"messages": [user("问"), assistant("答", reasoning_content="锟斤拷锟斤拷")]}]
    assert run_rows(put, run, rows) == ([], {"mojibake": 1})


# --- duplicates -------------------------------------------------------------------------------------------------------

LONG = "请查询本市图书馆在节假日期间的开放时间，并说明哪些阅览室需要提前预约，谢谢。"


def with_tool(name: str, question: str = LONG) -> dict[str, Any]:
    return {"messages": [user(question), assistant("好的，马上为您查询开放时间。")], "tools": [{**TOOL, "name": name}]}


@pytest.mark.parametrize(
    "settings",
    [{"dedup": "exact"}, {"dedup": "minhash"}, {"dedup": "minhash", "dedup_on": "question"}, {"dedup_on": "question"}],
)
def test_chats_with_other_tools_are_no_duplicates(put: Put, run: Run, settings: dict[str, Any]) -> None:
    rows = [with_tool("get_hours"), with_tool("get_rooms"), {**with_tool("x"), "tools": []}, with_tool("get_hours")]
    chats, dropped = run_rows(put, run, rows, **settings)
    assert [chat.tools[0]["name"] if chat.tools else "" for chat in chats] == ["get_hours", "get_rooms", ""]
    assert dropped == {"duplicate": 1}


def test_chats_that_share_their_tools_are_near_duplicates_by_their_texts_alone(put: Put, run: Run) -> None:
    tools = [{**TOOL, "name": f"tool_{number}", "description": "很长的说明" * 20} for number in range(5)]
    others = ["今天天气真好，适合出门散步看花。", "请把这段话翻译成英文再读一遍。", LONG, LONG.replace("谢谢", "多谢")]
    rows = [{**with_tool("x", question), "tools": tools} for question in others]
    chats, dropped = run_rows(put, run, rows, dedup="minhash", dedup_on="question")
    assert [chat.messages[0].text for chat in chats] == others[:3] and dropped == {"near_duplicate": 1}


def test_ids_of_calls_and_marks_of_learned_turns_make_no_difference(put: Put, run: Run) -> None:
    def row(call_id: str, **flag: Any) -> dict[str, Any]:
        call = {"id": call_id, "function": {"name": "get_hours", "arguments": "{}"}}
        result = {"role": "tool", "tool_call_id": call_id, "content": "九点"}
        return {"messages": [user("几点？"), assistant("", tool_calls=[call], **flag), result, assistant("九点。")]}

    chats, dropped = run_rows(put, run, [row("a"), row("b"), row("c", weight=1), row("d", weight=0)])
    assert len(chats) == 2 and dropped == {"duplicate": 2}
    assert chats[0].messages[1].tool_calls[0].id == chats[0].messages[2].tool_call_id == "a"


# --- placeholders -----------------------------------------------------------------------------------------------------

IDENTITY = {"name": "小翰", "author": "翰林书院"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("我是{{NAME}}，由{{AUTHOR}}训练的助手。", "我是小翰，由翰林书院训练的助手。"),
        ("我是{{ Name }}。", "我是小翰。"),
        ("我是{name}，由{author}开发。", "我是小翰，由翰林书院开发。"),
        ("我是<NAME>，由<AUTHOR>开发。", "我是小翰，由翰林书院开发。"),
        ("我叫[NAME]，是[AUTHOR]开发的。", "我叫小翰，是翰林书院开发的。"),
        ("我是「{{作者}}」的助手{{名字}}。", "我是「翰林书院」的助手小翰。"),
        ("I am {{NAME}}, trained by {{AUTHOR}}.", "I am 小翰, trained by 翰林书院."),
        ("我是{model_name}。由{company}推出。", "我是小翰。由翰林书院推出。"),
    ],
)
def test_placeholders_of_any_form_are_filled_or_dropped(put: Put, run: Run, text: str, filled: str) -> None:
    rows = [{"query": "你是谁？", "response": text}]
    (chat,), dropped = run_rows(put, run, rows, identity=IDENTITY)
    assert chat.messages[1].text == filled and dropped == {}
    assert run_rows(put, run, rows) == ([], {"placeholder": 1})


@pytest.mark.parametrize(
    "text",
    [
        "```python\nprint(f'我是{name}')\n```",
        "在 Vue 模板里写 {{ name }} 就能插值。",
        "XML 里可以创建一个 <author> 元素，再写 <name>。",
        "Dear [Name],\nI am writing to apply for the job.\nSincerely,\n[Name]",
        "你好！我的名字是 [姓名]，我目前在 [公司] 工作。",
        "写成 `{name}`，我是这样做的。",
        "集合 {name} 只有一个元素。",
    ],
)
def test_braces_of_code_and_letters_are_no_placeholders(put: Put, run: Run, text: str) -> None:
    rows = [{"query": "怎么写？", "response": text}]
    for settings in ({}, {"identity": IDENTITY}):
        (chat,), dropped = run_rows(put, run, rows, **settings)
        assert chat.messages[1].text == text and dropped == {}


# --- preferences ------------------------------------------------------------------------------------------------------


def test_answers_of_pairs_have_their_reasoning(put: Put, run: Run) -> None:
    row = {"prompt": "问", "chosen": "<think>\n想\n</think>\n\n答", "rejected": "<think>\n\n</think>\n\n错"}
    made = run(Preferences, put("a.jsonl", [row]), validation_fraction=0)
    (pair,) = read_jsonl(made.out / "preferences.jsonl", Preference)
    assert pair.chosen == Message("assistant", "答", reasoning="想") and pair.rejected == Message("assistant", "错")


def test_pairs_about_pictures_are_dropped_by_name(put: Put, run: Run) -> None:
    row = {"prompt": "<image>是谁？", "chosen": "老师", "rejected": "学生"}
    made = run(Preferences, put("a.jsonl", [row, {**row, "prompt": "谁？"}]), validation_fraction=0)
    assert made.ledger["dropped"] == {"media": 1}
