"""Conversations with branches: one is read, the best ranked or the last shown, and what is left out has a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.records import ToolCall
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop
from hanlin.data.report.inspect import inspect

Put = Callable[[str, Any], Path]


def read(row: Any) -> ParsedChat | Drop:
    chosen = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row))
    (chat,) = chosen.read(row)
    return chat


def texts(chat: ParsedChat | Drop) -> list[tuple[str, str]]:
    assert isinstance(chat, ParsedChat), chat
    return [(message.role, message.text) for message in chat.messages]


def reply(text: str, *replies: dict[str, Any], role: str = "assistant", **fields: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **fields}


def test_the_best_ranked_branch_of_a_tree_is_read_down_to_its_last_answer() -> None:
    question = reply("还有呢？", reply("还有石桥。"), role="prompter")
    best = reply("有花。", question, rank=0)
    row = {"prompt": reply("院里有什么？", reply("没有。", rank=1), best, reply("书。"), role="prompter")}
    chat = read(row)
    assert texts(chat) == [
        ("user", "院里有什么？"), ("assistant", "有花。"), ("user", "还有呢？"), ("assistant", "还有石桥。"),
    ]  # fmt: skip
    assert isinstance(chat, ParsedChat) and chat.unread == ("replies",)


def test_deleted_replies_and_a_question_without_an_answer_are_left_out_by_name() -> None:
    tail = reply("然后呢？", reply("删去", deleted=True), role="prompter", lang="zh")
    chat = read(
        {"prompt": reply("问？", reply("删去", rank=0, deleted=True), reply("答。", tail, rank=1), role="prompter")}
    )
    assert texts(chat) == [("user", "问？"), ("assistant", "答。")]
    assert isinstance(chat, ParsedChat) and set(chat.unread) == {"replies", "turn.unanswered"}
    assert isinstance(read({"prompt": reply("问？", role="prompter")}), Drop)


@pytest.mark.parametrize(
    ("best", "other"), [(0.0, 2.0), (0, 10**400), (1, None), (0.5, float("nan")), (-1, 0), (3, "0")]
)
def test_a_rank_may_be_any_number(best: Any, other: Any) -> None:
    chat = read({"prompt": reply("问？", reply("别的。", rank=other), reply("答。", rank=best), role="prompter")})
    assert texts(chat) == [("user", "问？"), ("assistant", "答。")]


def node(parent: str | None, role: str, *parts: Any, kind: str = "text", **fields: Any) -> dict[str, Any]:
    author = {"role": role, "name": fields.pop("name", None)}
    content = fields.pop("content", {"parts": list(parts)})
    return {
        "parent": parent,
        "children": [],
        "message": {"author": author, "content": {"content_type": kind, **content}, **fields},
    }


def chatgpt(nodes: dict[str, Any], current: str = "") -> dict[str, Any]:
    for key, value in nodes.items():
        if value["parent"] in nodes:
            nodes[value["parent"]]["children"].append(key)
    return {"title": "t", "mapping": nodes, "current_node": current, "conversation_id": "c"}


def test_the_branch_of_a_chatgpt_export_that_ends_at_its_current_node_is_read() -> None:
    nodes = {
        "root": {"parent": None, "children": [], "message": None},
        "s": node("root", "system", ""),
        "q": node("s", "user", "问？"),
        "a": node("q", "assistant", "旧答。"),
        "b": node("q", "assistant", "新答，", end_turn=False),
        "c": node("b", "assistant", "还有。"),
    }
    chat = read(chatgpt(nodes, "c"))
    assert texts(chat) == [("user", "问？"), ("assistant", "新答，\n\n还有。")]
    assert isinstance(chat, ParsedChat) and chat.unread == ("mapping",)
    assert texts(read(chatgpt(nodes, "a"))) == [("user", "问？"), ("assistant", "旧答。")]


def test_thoughts_calls_and_results_of_a_chatgpt_export_are_read_and_other_types_named() -> None:
    nodes = {
        "q": node(None, "user", "算 6*7"),
        "t": node("q", "assistant", kind="thoughts", content={"thoughts": [{"summary": "s", "content": "要算一下。"}]}),
        "r": node("t", "assistant", kind="reasoning_recap", content={"content": "想了 2 秒"}),
        "c": node("r", "assistant", kind="code", content={"text": "print(6*7)"}, recipient="python"),
        "o": node("c", "tool", kind="execution_output", content={"text": "42"}, name="python"),
        "a": node("o", "assistant", "得 42。"),
    }
    chat = read(chatgpt(nodes, "missing"))
    assert isinstance(chat, ParsedChat), chat
    assert [message.role for message in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert chat.messages[1].reasoning == "要算一下。"
    assert chat.messages[1].tool_calls == (ToolCall("python", {"code": "print(6*7)"}),)
    assert (chat.messages[2].name, chat.messages[2].text) == ("python", "42")
    assert chat.unread == ("turn.content.reasoning_recap",)


@pytest.mark.parametrize("thoughts", [5, "想", ["想"], {"content": "想"}, [{"content": 5}]])
def test_thoughts_of_another_form_are_named(thoughts: Any) -> None:
    mapping = {
        "a": node(None, "user", "问？"),
        "b": node("a", "assistant", kind="thoughts", content={"thoughts": thoughts}),
        "c": node("b", "assistant", "答。"),
    }
    chat = read({"mapping": mapping, "current_node": "c"})
    assert texts(chat) == [("user", "问？"), ("assistant", "答。")]
    assert isinstance(chat, ParsedChat) and ("turn.content.thoughts" in chat.unread) == (not isinstance(thoughts, dict))


def test_a_chatgpt_chat_about_a_picture_is_dropped_as_media() -> None:
    nodes = {"q": node(None, "user", {"content_type": "image_asset_pointer"}, "这是什么？", kind="multimodal_text"),
             "a": node("q", "assistant", "花。")}  # fmt: skip
    drop = read(chatgpt(nodes))
    assert isinstance(drop, Drop) and drop.reason == "media"


def claude(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"uuid": "c", "name": "n", "chat_messages": list(messages), **fields}


def test_thinking_tools_and_attached_texts_of_a_claude_export_are_read() -> None:
    parts = [
        {"type": "thinking", "thinking": "要查。"},
        {"type": "tool_use", "id": "x1", "name": "search", "input": {"q": "花"}},
        {"type": "tool_result", "tool_use_id": "x1", "name": "search", "content": [{"type": "text", "text": "开了"}]},
        {"type": "text", "text": "花开了。", "citations": []},
        {"type": "token_budget"},
    ]
    attachments = [{"file_name": "a.txt", "extracted_content": "院中记"}, {"file_name": "b.bin"}]
    chat = read(
        claude(
            {"sender": "human", "text": "花开了吗？", "attachments": attachments},
            {"sender": "assistant", "content": parts},
        )
    )
    assert isinstance(chat, ParsedChat), chat
    assert chat.messages[0].text == "花开了吗？\n\na.txt\n院中记"
    assert (chat.messages[1].reasoning, chat.messages[1].tool_calls[0].name) == ("要查。", "search")
    assert [(message.role, message.text) for message in chat.messages[2:]] == [
        ("tool", "开了"),
        ("assistant", "花开了。"),
    ]
    assert set(chat.unread) == {"turn.attachments", "turn.content.token_budget"}


def test_the_last_branch_of_a_claude_export_is_read() -> None:
    rows = [("1", None, "human", "问？"), ("2", "1", "assistant", "旧答。"), ("3", "1", "assistant", "新答。")]
    messages = [{"uuid": i, "parent_message_uuid": p, "sender": s, "text": t} for i, p, s, t in rows]
    chat = read(claude(*messages))
    assert texts(chat) == [("user", "问？"), ("assistant", "新答。")]
    assert isinstance(chat, ParsedChat) and "chat_messages" in chat.unread
    assert texts(read(claude(*messages, current_leaf_message_uuid="2")))[1] == ("assistant", "旧答。")


def test_turns_with_a_text_alone_are_said_in_turn_and_their_other_fields_are_named() -> None:
    turns = [
        {"message": "看过吗？"},
        {"message": "看过。", "attrs": [{"name": "n", "attrname": "a", "attrvalue": "v"}]},
    ]
    chat = read({"name": "片名", "messages": turns})
    assert texts(chat) == [("user", "看过吗？"), ("assistant", "看过。")]
    assert isinstance(chat, ParsedChat) and chat.unread == ("turn.attrs",)


@pytest.mark.parametrize("row", [
    {"prompt": {"text": "?", "role": "prompter", "replies": [7, None, {"replies": 3}]}},
    {"mapping": {"a": {"message": {"author": 3, "content": []}, "parent": "a", "children": ["a"]}}},
    {"mapping": {"a": {"message": {"content": {"parts": [None]}}, "parent": None}}, "current_node": 5},
    {"chat_messages": [{"sender": "human", "content": [3, {"type": 4}]}, 8]},
    {"chat_messages": [{"sender": 5, "uuid": "a", "parent_message_uuid": "a"}], "current_leaf_message_uuid": []},
])  # fmt: skip
def test_broken_trees_are_dropped_by_a_reason(row: Any) -> None:
    chat = read(row)
    assert isinstance(chat, Drop) and chat.reason


@pytest.mark.parametrize("name", ["oasst_tree", "chatgpt_export", "claude_export"])
@pytest.mark.parametrize("row", [{}, 3, {"prompt": 1, "mapping": {"a": 2}, "chat_messages": 3}, {"chat_messages": []}])
def test_a_row_of_another_shape_is_dropped_in_a_file_of_these(name: str, row: Any) -> None:
    (chosen,) = (candidate for candidate in CHAT_FORMATS if candidate.name == name)
    assert list(chosen.read(row)) == [Drop("other_format")]


def test_an_export_that_is_one_object_is_read_as_its_conversations(put: Put) -> None:
    said = [{"uuid": "1", "sender": "human", "text": "问"}, {"uuid": "2", "sender": "assistant", "text": "答"}]
    wrapped = {"conversations": [{"uuid": "a", "chat_messages": said}, {"uuid": "b", "chat_messages": said}]}
    (found,) = inspect([str(put("a.jsonl", [wrapped]))])
    assert (found["format"], found["records"]) == ("jsonl: claude_export", 2)


def test_the_branch_of_the_last_answer_of_grok_is_read_and_the_others_named(put: Put) -> None:
    said = [
        {"_id": "1", "sender": "human", "message": "问"},
        {"_id": "2", "sender": "ASSISTANT", "message": "旧答", "parent_response_id": "1"},
        {"_id": "3", "sender": "ASSISTANT", "message": "新答", "parent_response_id": "1"},
    ]
    chat = {"conversation": {"id": "a", "title": "t"}, "responses": [{"response": item} for item in said]}
    (found,) = inspect([str(put("a.jsonl", [{"conversations": [chat]}]))])
    assert found["format"] == "jsonl: messages" and found["unread_fields"] == {"other_branches": 1}
    assert [turn["text"] for turn in found["samples"][0]["messages"]] == ["问", "新答"]
    plain = {"responses": [{"response": {"sender": item["sender"], "message": item["message"]}} for item in said[:2]]}
    (found,) = inspect([str(put("b.jsonl", [{"conversations": [plain]}]))])
    assert found["kept"] == 1 and found["unread_fields"] == {}
