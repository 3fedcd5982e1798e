"""Calls of BFCL, answer trees of ToolBench and calls of several calls are read, or named where they cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from hanlin.config.settings.sources import Source
from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import adapt_row
from hanlin.data.formats.look_alike import CALLS_ALONE, CALLS_TO_ASK, describe_look_alike
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.io.lines import Row
from hanlin.data.ledger import Drop

ASK, TELL = {"role": "user", "content": "北京多少度？"}, {"role": "assistant", "content": "三度。"}
TOOL = {"name": "f", "description": "d", "parameters": {"type": "dict", "properties": {"a": {"type": "float"}}}}
SOURCE = Source(path="./a")


def read(row: Any) -> ParsedChat | Drop:
    (adapted,) = adapt_row(Row(1, row), SOURCE)
    if isinstance(adapted.value, Drop):
        return adapted.value
    chosen = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(adapted.value))
    (item,) = chosen.read(adapted.value)
    return item


# ---------------------------------------------------------------------------------------------------------------- BFCL


@pytest.mark.parametrize(
    ("truth", "calls"),
    [
        ([{"f": {"a": [20, "20"], "b": ["", 5]}}], [{"a": 20}]),
        ([{"f": {"a": [[1, 2], [2, 1]]}}, {"f": {"a": [{"c": [3]}]}}], [{"a": [1, 2]}, {"a": {"c": 3}}]),
        ([{"f": {}}], [{}]),
        (["f(a=1)", "f(a=[2])"], [{"a": 1}, {"a": [2]}]),
    ],
)
@pytest.mark.parametrize("question", [[[ASK]], ASK["content"]])
def test_a_question_of_bfcl_with_its_answer_is_read(question: Any, truth: list[Any], calls: list[Any]) -> None:
    chat = read({"id": "simple_0", "question": question, "function": [TOOL], "ground_truth": truth})
    assert isinstance(chat, ParsedChat) and chat.unread == ()
    answer = Message("assistant", "", tuple(ToolCall("f", arguments) for arguments in calls))
    assert chat.messages == (Message("user", "北京多少度？"), answer)
    assert chat.tools[0]["parameters"] == {"type": "object", "properties": {"a": {"type": "number"}}}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": "simple_0", "question": [[ASK]], "function": [TOOL]}, CALLS_TO_ASK),
        ({"id": "java_0", "question": "算？", "function": TOOL}, CALLS_TO_ASK),
        ({"id": "multi_0", "question": [[ASK], [ASK]], "involved_classes": ["Gorilla"], "path": []}, CALLS_TO_ASK),
        ({"id": "simple_0", "ground_truth": [{"f": {"a": [20]}}]}, CALLS_ALONE),
        ({"id": "multi_0", "ground_truth": [["cd(folder='a')", "ls()"], ["pwd()"]]}, CALLS_ALONE),
        ({"id": "maths", "ground_truth": ["42"]}, ""),
        ({"question": "算？", "answer": "三。", "function": [TOOL]}, ""),
        ({"question": "算？", "function": []}, ""),
    ],
)
def test_one_of_the_two_files_of_bfcl_alone_is_named(row: Any, what: str) -> None:
    assert (describe_look_alike(row) or ("",))[0] == what


# ----------------------------------------------------------------------------------------------------------- ToolBench


def test_the_last_conversation_of_an_answer_tree_is_read() -> None:
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    result = {"role": "function", "name": "f", "content": "3"}
    finish = {"name": "Finish", "arguments": '{"return_type": "give_answer", "final_answer": "三度。"}'}
    chats = [[ASK, call], [ASK, call, result, {"role": "assistant", "content": None, "function_call": finish}]]
    answer = {"valid_data": True, "query_count": 3, "function": [TOOL], "train_messages": chats, "query": "?"}
    chat = read({"win": True, "tree": {"size": 7}, "compare_candidates": [[{"a": 1}]], "answer_generation": answer})
    assert isinstance(chat, ParsedChat) and chat.unread == ("tree", "compare_candidates")
    assert [turn.role for turn in chat.messages] == ["user", "assistant", "tool", "assistant"]
    assert chat.messages[-1].tool_calls[0].arguments["final_answer"] == "三度。"
    assert [tool["name"] for tool in chat.tools] == ["f"] and chat.meta["answer_generation.query_count"] == 3


def test_an_answer_tree_without_a_valid_answer_is_dropped() -> None:
    answer = {"valid_data": False, "train_messages": [], "function": [TOOL]}
    assert read({"win": False, "answer_generation": answer}) == Drop("marked_wrong", "win: false")
    assert read({"answer_generation": answer}) == Drop("marked_wrong", "valid_data: false")


# ------------------------------------------------------------------------------------------------- calls in one call

USES = [{"recipient_name": "functions.a", "parameters": {"x": 1}}, {"recipient_name": "functions.b", "parameters": {}}]


def trace(call_id: str, *results: dict[str, Any], uses: Any = USES) -> ParsedChat | Drop:
    call = {"name": "multi_tool_use.parallel", "arguments": {"tool_uses": uses}} | ({"id": call_id} if call_id else {})
    turns = [ASK, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return read({"messages": [*turns, *({"role": "tool", **result} for result in results), TELL]})


@pytest.mark.parametrize(
    ("call_id", "results"),
    [
        ("c", [{"tool_call_id": "c", "content": '["甲", "乙"]'}]),
        ("c", [{"tool_call_id": "c", "content": "甲"}, {"tool_call_id": "c", "content": "乙"}]),
        ("", [{"name": "multi_tool_use.parallel", "content": '["甲", "乙"]'}]),
        ("", [{"name": "functions.b", "content": "乙"}, {"name": "functions.a", "content": "甲"}]),
        ("", [{"content": "甲"}, {"content": "乙"}]),
    ],
)
def test_a_call_of_several_calls_is_several_calls_with_their_results(call_id: str, results: list[Any]) -> None:
    chat = trace(call_id, *results)
    assert isinstance(chat, ParsedChat)
    first, second = (f"{call_id}_{n}" if call_id else "" for n in (1, 2))
    assert chat.messages[1].tool_calls == (ToolCall("a", {"x": 1}, first), ToolCall("b", {}, second))
    assert [(turn.role, turn.text) for turn in chat.messages[2:4]] == [("tool", "甲"), ("tool", "乙")]
    assert [turn.tool_call_id for turn in chat.messages[2:4]] == [first, second]


def test_a_result_of_several_calls_that_cannot_be_split_stays_one() -> None:
    chat = trace("c", {"tool_call_id": "c", "content": "都好了。"})
    assert isinstance(chat, ParsedChat) and chat.messages[2] == Message("tool", "都好了。")


@pytest.mark.parametrize("uses", [[], None, "x", [{"parameters": {}}], [{"recipient_name": "a", "parameters": "?"}]])
def test_a_call_of_several_calls_that_holds_none_is_dropped(uses: Any) -> None:
    dropped = trace("c", uses=uses)
    assert isinstance(dropped, Drop) and dropped.reason == "broken_tool_call"
