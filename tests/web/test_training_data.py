"""What a chat becomes as training data: it is read back by the readers of `hanlin data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.records import Message, ToolCall
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.preferences import ParsedPreference, read_pairs
from hanlin.web.chat.store import ChatStore
from hanlin.web.chat.training_data import export_conversations, export_preferences

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


class Talk:
    """A conversation that a test writes turn by turn."""

    def __init__(self, folder: Path) -> None:
        self.store = ChatStore(folder / "chats.sqlite")
        self.id = self.store.create_conversation("", "", {})

    def say(self, parent: str | None, role: str, content: str, **fields: Any) -> str:
        better, rating = fields.pop("better", None), fields.pop("rating", 0)
        message = self.store.add_message("", self.id, parent, role=role, content=content, **fields)
        self.store.update_message("", message["id"], better=better, rating=rating)
        return str(message["id"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [self.store.read_conversation("", self.id)]


@pytest.fixture()
def talk(tmp_path: Path) -> Talk:
    return Talk(tmp_path)


def read_chat(row: dict[str, Any]) -> Any:
    (reader,) = [candidate.read for candidate in CHAT_FORMATS if candidate.name == "messages"]
    (chat,) = reader(json.loads(json.dumps(row)))
    return chat


def test_a_conversation_with_reasoning_and_calls_comes_back_as_it_was(talk: Talk) -> None:
    asked = talk.say(None, "user", "天气？")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    request = {"system": "你是小翰。", "tools": [TOOL]}
    called = talk.say(asked, "assistant", "", tool_calls=[call], reasoning="要查一下", request=request)
    result = talk.say(called, "tool", "晴", tool_call_id="c1", name="weather")
    talk.say(result, "assistant", "是晴天。", request=request)
    export = export_conversations(talk.rows)
    assert export.left_out == {}
    chat = read_chat(json.loads(export.text))
    assert chat.messages == (
        Message("system", "你是小翰。"),
        Message("user", "天气？"),
        Message("assistant", "", (ToolCall("weather", {"city": "北京"}, "c1"),), reasoning="要查一下"),
        Message("tool", "晴", name="weather", tool_call_id="c1"),
        Message("assistant", "是晴天。"),
    )
    assert [tool["name"] for tool in chat.tools] == ["weather"]


def test_only_the_branch_that_is_shown_is_exported(talk: Talk) -> None:
    asked = talk.say(None, "user", "q")
    talk.say(asked, "assistant", "first")
    talk.say(asked, "assistant", "second")
    (row,) = export_conversations(talk.rows).rows
    assert [message["content"] for message in row["messages"]] == ["q", "second"]


def test_a_branch_ends_with_its_last_finished_answer(talk: Talk) -> None:
    asked = talk.say(None, "user", "q")
    answer = talk.say(asked, "assistant", "a")
    talk.say(talk.say(answer, "user", "more"), "assistant", "half an ans", state="stopped")
    (row,) = export_conversations(talk.rows).rows
    assert [message["content"] for message in row["messages"]] == ["q", "a"]


def test_a_stopped_or_bad_answer_inside_carries_no_loss_and_a_better_one_does(talk: Talk) -> None:
    before: str | None = None
    for content, fields in (
        ("stopped", {"state": "stopped"}),
        ("bad", {"rating": -1}),
        ("bad too", {"rating": -1, "better": "good"}),
        ("last", {}),
    ):
        before = talk.say(talk.say(before, "user", "q"), "assistant", content, **fields)
    (row,) = export_conversations(talk.rows).rows
    answers = [message for message in read_chat(row).messages if message.role == "assistant"]
    assert [(answer.text, answer.train) for answer in answers] == [
        ("stopped", False),
        ("bad", False),
        ("good", None),
        ("last", None),
    ]


def read_back(text: str) -> list[ParsedPreference]:
    pairs = [pair for line in text.splitlines() for pair in read_pairs(json.loads(line))]
    assert all(isinstance(pair, ParsedPreference) for pair in pairs)
    return [pair for pair in pairs if isinstance(pair, ParsedPreference)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"content": "", "state": "failed"}, "no_answer"),
        ({"content": "x", "request": {"tools": [{"name": "f"}]}}, "bad_tools"),
        ({"content": "x", "request": {"tools": "f"}}, "bad_tools"),
        ({"content": "x", "tool_calls": [{"function": {"name": "f", "arguments": "{oops"}}]}, "bad_arguments"),
        ({"content": "x", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}, "bad_arguments"),
        ({"content": "x", "tool_calls": [{}]}, "bad_arguments"),
    ],
)
def test_what_cannot_be_learned_from_is_left_out_and_counted(talk: Talk, fields: Any, reason: str) -> None:
    talk.say(talk.say(None, "user", "q"), "assistant", **fields)
    export = export_conversations(talk.rows)
    assert (export.rows, export.left_out, export.text) == ((), {reason: 1}, "")


def test_a_better_answer_becomes_a_pair_with_the_whole_prompt(talk: Talk) -> None:
    asked = talk.say(talk.say(talk.say(None, "user", "q1"), "assistant", "a1"), "user", "q2")
    talk.say(asked, "assistant", "worse", better="better", request={"system": "s"}, reasoning="thought")
    export = export_preferences(talk.rows)
    (pair,) = read_back(export.text)
    assert pair.prompt == (
        Message("system", "s"),
        Message("user", "q1"),
        Message("assistant", "a1"),
        Message("user", "q2"),
    )
    assert pair.chosen == Message("assistant", "better")
    assert pair.rejected == Message("assistant", "worse", reasoning="thought")


def test_a_thumb_up_and_a_thumb_down_for_one_question_become_a_pair(talk: Talk) -> None:
    asked = talk.say(None, "user", "q")
    for content, rating in (("good", 1), ("bad", -1), ("unrated", 0), ("bad too", -1), ("good", -1)):
        talk.say(asked, "assistant", content, rating=rating)
    talk.say(talk.say(None, "user", "other question"), "assistant", "bad elsewhere", rating=-1)
    pairs = read_back(export_preferences(talk.rows).text)
    assert [(pair.chosen.text, pair.rejected.text) for pair in pairs] == [("good", "bad"), ("good", "bad too")]


def test_an_answer_kept_as_it_was_makes_no_pair(talk: Talk) -> None:
    talk.say(talk.say(None, "user", "q"), "assistant", "same", better="same", rating=1)
    assert export_preferences(talk.rows).rows == ()


def test_hanlin_data_knows_the_formats_of_both_files(talk: Talk, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from hanlin.cli.main import app

    for number in range(3):
        asked = talk.say(None, "user", f"第{number}个问题是什么？")
        talk.say(asked, "assistant", "不好的回答。", better="这是一个更好的回答。")
    for export, name, kind in (
        (export_conversations(talk.rows), "conversations.jsonl", "messages"),
        (export_preferences(talk.rows), "preferences.jsonl", "paired_messages"),
    ):
        export.write(tmp_path / name)
        shown = CliRunner().invoke(app, ["data", "inspect", str(tmp_path / name)])
        assert shown.exit_code == 0, shown.output
        assert kind in shown.output
