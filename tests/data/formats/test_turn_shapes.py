"""Turns whose roles are not written in `role` or `from`, and rows that say of themselves what they are worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.base import Format
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.formats.unpaired_preferences import UNPAIRED_FORMATS, ParsedUnpaired
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

Put = Callable[[str, Any], Path]
ASK, TELL = Message("user", "几点闭馆？"), Message("assistant", "九点。")
SYSTEM, MORE = Message("system", "你是馆员。"), (Message("user", "周末呢？"), Message("assistant", "也是。"))
KWARGS: dict[str, Any] = {"additional_kwargs": {}, "response_metadata": {}, "name": None}


def read_rows(put: Put, *rows: Any, formats: tuple[Format[Any], ...] = CHAT_FORMATS, **source: Any) -> list[Any]:
    path = put("a.jsonl", list(rows))
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    with InputFile(path) as input_file:
        return list(open_records(file, input_file, formats).rows)


def read_chat(put: Put, row: Any) -> ParsedChat:
    parsed, _ = read_rows(put, row, row)  # a single list would be a file of rows
    assert isinstance(parsed.item, ParsedChat), parsed.item
    return parsed.item


def constructor(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kind], "kwargs": kwargs}


@pytest.mark.parametrize(
    "turns",
    [
        [
            {"type": "system", "data": {"content": "你是馆员。", **KWARGS}},
            {"type": "human", "data": {"content": "几点闭馆？", "type": "human", **KWARGS}},
            {"type": "ai", "data": {"content": "九点。", "type": "ai", "tool_calls": [], **KWARGS}},
        ],
        [
            {"type": "system", "content": "你是馆员。"},
            {"type": "human", "content": "几点闭馆？"},
            {"type": "AIMessageChunk", "content": "九点。"},
        ],
        [
            constructor("SystemMessage", content="你是馆员。"),
            constructor("HumanMessage", content="几点闭馆？"),
            constructor("AIMessage", content="九点。"),
        ],
        [
            {"type": "chat", "data": {"role": "system", "content": "你是馆员。"}},
            {"type": "chat", "data": {"role": "user", "content": "几点闭馆？"}},
            {"type": "chat", "data": {"role": "assistant", "content": "九点。"}},
        ],
        [{"system": "你是馆员。"}, {"user": "几点闭馆？"}, {"assistant": "九点。"}],
        [{"系统": "你是馆员。"}, {"用户": "几点闭馆？"}, {"助手": "九点。"}],
        [
            {"sender": "system", "text": "你是馆员。"},
            {"sender": "human", "text": "几点闭馆？"},
            {"sender": "bot", "text": "九点。"},
        ],
        [
            {"author": "system", "message": "你是馆员。"},
            {"author": "user", "message": "几点闭馆？"},
            {"author": "bot", "message": "九点。"},
        ],
        [
            {"role": "system", "parts": [{"text": "你是馆员。"}]},
            {"role": "user", "parts": [{"text": "几点"}, {"text": "闭馆？"}]},
            {"role": "model", "parts": [{"text": "九点。"}]},
        ],
        ["System: 你是馆员。", "User: 几点闭馆？", "Assistant: 九点。"],
        ["系统：你是馆员。", "用户：几点闭馆？", "助手：九点。"],
    ],
    ids=[
        *("langchain", "langchain_flat", "langchain_dumped", "langchain_chat", "only_key", "only_key_chinese"),
        *("sender", "author", "parts", "tags", "chinese_tags"),
    ],
)
def test_turns_are_read_wherever_their_role_is(put: Put, turns: list[Any]) -> None:
    for row in ({"messages": turns}, {"conversations": turns}, turns):
        chat = read_chat(put, row)
        assert chat.messages == (SYSTEM, ASK, TELL) and chat.unread == ()
    if isinstance(turns[0], dict):
        assert read_chat(put, {"messages": json.dumps(turns, ensure_ascii=False)}).messages == (SYSTEM, ASK, TELL)


@pytest.mark.parametrize("kept_by_service", [False, True])
def test_calls_and_results_of_langchain_are_read(put: Put, kept_by_service: bool) -> None:
    arguments = {"day": "周六"}
    service = {"id": "c1", "type": "function", "function": {"name": "hours", "arguments": json.dumps(arguments)}}
    call = {"name": "hours", "args": arguments, "id": "c1", "type": "tool_call"}
    calls = {"additional_kwargs": {"tool_calls": [service]}} if kept_by_service else {"tool_calls": [call]}
    chat = read_chat(
        put,
        {
            "messages": [
                {"type": "human", "data": {"content": "几点闭馆？"}},
                {"type": "ai", "data": {"content": "", **calls}},
                {"type": "tool", "data": {"content": "21:00", "name": "hours", "tool_call_id": "c1"}},
                {"type": "ai", "data": {"content": "九点。"}},
            ]
        },
    )
    called = Message("assistant", "", (ToolCall("hours", arguments, "c1"),))
    assert chat.messages == (ASK, called, Message("tool", "21:00", name="hours", tool_call_id="c1"), TELL)
    assert chat.unread == ()


def test_what_langchain_says_besides_is_counted_by_name(put: Put) -> None:
    answer = {"content": "九点。", "additional_kwargs": {"refusal": "无"}, "response_metadata": {"model": "小馆"}}
    turns = [{"type": "human", "data": {"content": "几点闭馆？"}}, {"type": "ai", "data": answer, "score": 3}]
    chat = read_chat(put, {"messages": turns})
    assert sorted(chat.unread) == ["turn.additional_kwargs", "turn.response_metadata", "turn.score"]


def test_lists_of_other_objects_are_no_turns(put: Put) -> None:
    parts = [{"type": "text", "text": "几点闭馆？"}]
    for row in ({"messages": parts}, {"data": [{"type": "house", "rooms": 3}]}, {"messages": [{"title": "馆"}]}):
        with pytest.raises(UserError):
            read_rows(put, row)


@pytest.mark.parametrize(
    "row",
    [
        {"user": "几点闭馆？", "assistant": "九点。"},
        {"human": "几点闭馆？", "bot": "九点。"},
        {"User": "几点闭馆？", "Assistant": "九点。"},
        {"INSTRUCTION": "几点闭馆？", "RESPONSE": "九点。"},
        {"instruction": "几点闭馆？", "generation": "九点。"},
        {"instruction": "几点闭馆？", "target": "九点。"},
        {"problem": "几点闭馆？", "solution": "九点。"},
        {"conversations": [{"user": "几点闭馆？", "assistant": "九点。"}]},
        [{"user": "几点闭馆？", "assistant": "九点。"}],
        [{"human": "几点闭馆？", "ai": "九点。"}],
        {"conversation": [["几点闭馆？", "九点。"]]},
        {"id": "7", "data": ["几点闭馆？", "九点。"]},
        {"messages": ["几点闭馆？", "九点。"]},
    ],
)
def test_pairs_named_by_roles_and_texts_said_in_turn_are_chats(put: Put, row: Any) -> None:
    chat = read_chat(put, row)
    assert chat.messages == (ASK, TELL) and chat.unread == ()


@pytest.mark.parametrize("names", [("INSTRUCTION", "INPUT", "OUTPUT"), ("instruction", "input", "target")])
def test_what_an_instruction_is_about_joins_it_under_any_names(put: Put, names: tuple[str, str, str]) -> None:
    chat = read_chat(put, dict(zip(names, ("几点闭馆？", "看告示。", "九点。"), strict=True)))
    assert chat.messages == (Message("user", "几点闭馆？\n看告示。"), TELL) and chat.meta == {}


def test_pairs_in_a_list_are_read_in_turn(put: Put) -> None:
    pairs = [["几点闭馆？", "九点。"], ["周末呢？", "也是。"]]
    assert read_chat(put, {"dialog": pairs}).messages == (ASK, TELL, *MORE)


def test_a_tag_before_only_some_texts_is_a_part_of_them(put: Put) -> None:
    texts = ["问：几点闭馆？", "九点。"]
    assert read_chat(put, texts).messages == (Message("user", "问：几点闭馆？"), TELL)
    assert read_chat(put, ["问：几点闭馆？", "答：九点。"]).messages == (ASK, TELL)


def test_a_name_of_a_user_beside_a_question_is_no_question(put: Put) -> None:
    chat = read_chat(put, {"user": "小周", "question": "几点闭馆？", "answer": "九点。"})
    assert chat.messages == (ASK, TELL) and chat.meta == {"user": "小周"}
    for row in ({"user": "小周", "title": "闭馆时间"}, {"data": ["几点闭馆？", "九点。"], "unit": "馆"}):
        with pytest.raises(UserError):
            read_rows(put, row)


@pytest.mark.parametrize("system", [{"parts": [{"text": "你是馆员。"}]}, {"role": "system", "content": "你是馆员。"}])
def test_a_system_text_as_an_object_is_read(put: Put, system: Any) -> None:
    turns = [{"role": "user", "parts": [{"text": "几点闭馆？"}]}, {"role": "model", "parts": [{"text": "九点。"}]}]
    chat = read_chat(put, {"systemInstruction": system, "contents": turns})
    assert chat.messages == (SYSTEM, ASK, TELL) and chat.unread == ()


# --- what a row says of itself ----------------------------------------------------------------------------------------

CHATS = (
    {"question": "几点闭馆？", "answer": "九点。"},
    {"instruction": "几点闭馆？", "output": "九点。"},
    {"messages": [{"role": "user", "content": "几点闭馆？"}, {"role": "assistant", "content": "九点。"}]},
    {"conversation": [{"human": "几点闭馆？", "assistant": "九点。"}]},
)


@pytest.mark.parametrize("chat", CHATS)
def test_a_row_that_is_not_to_be_trained_on_is_not_learned(put: Put, chat: dict[str, Any]) -> None:
    rows = [{**chat, name: value} for name in ("train", "is_train", "trainable") for value in (False, "false", True)]
    learned = [parsed.item.messages[-1].train for parsed in read_rows(put, *rows)]
    assert learned == [False, False, None] * 3


def test_figures_of_a_row_are_no_flags(put: Put) -> None:
    for field in ("loss", "learn"):
        (parsed,) = read_rows(put, {**CHATS[0], field: 0})
        assert parsed.item.messages[-1].train is None and parsed.item.meta == {field: 0}


@pytest.mark.parametrize("chat", CHATS)
def test_an_answer_that_its_row_calls_wrong_is_dropped_by_name(put: Put, chat: dict[str, Any]) -> None:
    wrong = [{**chat, "is_correct": False}, {**chat, "correct": False}, {**chat, "是否正确": "否"}]
    right, *rest = [parsed.item for parsed in read_rows(put, {**chat, "is_correct": True}, *wrong)]
    assert right.messages == (ASK, TELL) and right.meta == {"is_correct": True}
    assert rest == [Drop("marked_wrong", name) for name in ("is_correct", "correct", "是否正确")]


@pytest.mark.parametrize("value", ["九点。", "no", "false", 0, 1, None])
def test_a_right_answer_under_that_name_is_no_verdict(put: Put, value: Any) -> None:
    (parsed,) = read_rows(put, {**CHATS[0], "correct": value})
    assert parsed.item.messages == (ASK, TELL)


def test_a_verdict_beside_a_label_is_carried_and_can_be_named_as_the_label(put: Put) -> None:
    (parsed,) = read_rows(put, {**CHATS[2], "is_correct": False, "label": False}, formats=UNPAIRED_FORMATS)
    assert isinstance(parsed.item, ParsedUnpaired)
    assert (parsed.item.good, parsed.item.meta) == (False, {"is_correct": False})
    rows = [{**CHATS[2], "is_correct": True}, {**CHATS[2], "is_correct": False}]
    named = read_rows(put, *rows, formats=UNPAIRED_FORMATS, fields={"label": "is_correct"})
    assert [parsed.item.good for parsed in named] == [True, False]
