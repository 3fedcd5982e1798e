"""What a record holds is what its JSON form gives back."""

from __future__ import annotations

import json

import pytest

from hanlin.core.records import Conversation, Document, Message, Preference, ToolCall, UnpairedPreference

TOOL = {"name": "opening_hours", "parameters": {"type": "object", "properties": {}}}
CALL = ToolCall("opening_hours", {"日": "周一"}, "call_1")
TURNS = (
    Message("system", "你是图书馆助手。"),
    Message("user", "周一几点开门？"),
    Message("assistant", "", tool_calls=(CALL, ToolCall("opening_hours", {})), reasoning="要查时间。", train=False),
    Message("tool", "九点", name="opening_hours", tool_call_id="call_1"),
)
ANSWER = Message("assistant", "九点。", reasoning="工具说九点。", train=True)


@pytest.mark.parametrize(
    "record",
    [
        Document("春眠不觉晓", "1", "a.txt:1", {"title": "春晓"}),
        Conversation((*TURNS, ANSWER), "1", "a.jsonl:1", (TOOL,)),
        Preference(TURNS, ANSWER, Message("assistant", "八点。"), "1", tools=(TOOL,)),
        UnpairedPreference(TURNS, ANSWER, False, "1", meta={"score": 3}, tools=(TOOL,)),
    ],
    ids=lambda record: record.kind,
)
def test_a_record_survives_its_json_form(record: Document | Conversation | Preference | UnpairedPreference) -> None:
    assert type(record).from_json(json.loads(json.dumps(record.to_json(), ensure_ascii=False))) == record


def test_what_a_message_lacks_is_not_written() -> None:
    assert Message("assistant", "").to_json() == {"role": "assistant", "text": ""}
    assert ToolCall("now", {}).to_json() == {"name": "now", "arguments": {}}


def test_both_halves_of_a_pair_keep_its_tools() -> None:
    pair = Preference(TURNS, ANSWER, Message("assistant", "八点。"), "1", tools=(TOOL,))
    assert [half.tools for half in UnpairedPreference.of_pair(pair)] == [(TOOL,), (TOOL,)]
