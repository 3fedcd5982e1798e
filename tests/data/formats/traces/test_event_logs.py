"""Logs of sessions, with an event on each row, are named for what they are, and never read as documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.core.errors import UserError
from hanlin.data.formats.traces.event_logs import find_joining_command, is_event_log
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
ASKED, SAID = "列出文件。", "只有一个文件，叫 a.txt。"


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


LOGS: dict[str, list[dict[str, Any]]] = {
    "messages inside events": [
        {"type": "session_start", "id": "s", "cwd": "/tmp"},
        {"type": "message", "id": "1", "message": {"role": "user", "content": parts(ASKED)}},
        {"type": "message", "id": "2", "message": {"role": "assistant", "content": parts(SAID)}},
    ],
    "an event before the first turn": [
        {"type": "file-history-snapshot", "messageId": "1", "snapshot": {}},
        {"type": "user", "sessionId": "s", "message": {"role": "user", "content": ASKED}},
        {"type": "assistant", "sessionId": "s", "message": {"role": "assistant", "content": parts(SAID)}},
    ],
    "turns with a role beside a mark of the end": [
        {"role": "user", "message": {"content": parts(ASKED)}},
        {"role": "assistant", "message": {"content": parts(SAID)}},
        {"type": "turn_ended", "status": "success"},
    ],
    "nothing but turns with a message each": [
        {"role": "user", "message": {"content": parts(ASKED)}},
        {"role": "assistant", "message": {"content": parts(SAID)}},
    ],
    "messages that say no role": [
        {"type": "system", "version": "1"},
        {"type": "assistant", "message": {"model": "m", "content": parts(ASKED)}},
        {"type": "assistant", "message": {"model": "m", "content": parts(SAID)}},
    ],
    "names of parts of the program": [
        {"type": "metadata", "protocol_version": "1"},
        {"type": "config.update", "profileName": "agent"},
        {"type": "context.append_message", "message": {"role": "user", "content": parts(ASKED)}},
        {"type": "llm.request", "hash": "a"},
        {"type": "context.append_loop_event", "event": {"type": "step.begin"}},
    ],
    "turns beside calls and results": [
        {"timestamp": "t", "role": "user", "content": ASKED},
        {"timestamp": "t", "type": "tool_call", "function": {"name": "ls"}, "arguments": "{}"},
        {"timestamp": "t", "type": "tool_result", "name": "ls", "result": "a.txt"},
        {"timestamp": "t", "role": "assistant", "content": SAID},
    ],
    "texts beside calls": [
        {"type": "system", "session_id": "s", "model": "m"},
        {"type": "message", "session_id": "s", "role": "user", "text": ASKED},
        {"type": "tool_call", "session_id": "s", "toolName": "Shell", "parameters": {}},
        {"type": "tool_result", "session_id": "s", "value": {"stdout": "a.txt"}},
        {"type": "message", "session_id": "s", "role": "assistant", "text": SAID},
    ],
    "speakers named by the type": [
        {"sessionId": "s", "startTime": "t", "kind": "main"},
        {"id": "1", "type": "user", "content": parts(ASKED)},
        {"$set": {"lastUpdated": "t"}},
        {"id": "2", "type": "gemini", "content": SAID, "toolCalls": []},
    ],
    "steps named by the tool": [
        {"step_index": 0, "type": "USER_INPUT", "content": ASKED},
        {"step_index": 1, "type": "PLANNER_RESPONSE", "tool_calls": [{"name": "ls", "args": {}}]},
        {"step_index": 2, "type": "LIST_DIRECTORY", "content": "a.txt"},
        {"step_index": 3, "type": "PLANNER_RESPONSE", "content": SAID},
    ],
    "payloads": [
        {"type": "session_meta", "payload": {"id": "s"}},
        {"type": "response_item", "payload": {"type": "message", "role": "user", "content": parts(ASKED)}},
        {"type": "response_item", "payload": {"type": "message", "role": "assistant", "content": parts(SAID)}},
    ],
    "names with dots": [
        {"type": "session.start", "data": {"sessionId": "s"}},
        {"type": "user.message", "data": {"content": ASKED}},
        {"type": "tool.execution_start", "data": {"toolName": "ls"}},
        {"type": "assistant.message", "data": {"content": SAID}},
    ],
}


@pytest.mark.parametrize("rows", LOGS.values(), ids=LOGS)
def test_a_log_is_refused_by_name_in_every_stage(put: Put, run: Run, rows: list[dict[str, Any]]) -> None:
    for kind in (Conversations, Corpus):
        with pytest.raises(UserError, match="the log of an agent's session") as error:
            run(kind, put("a.jsonl", rows))
        assert "into one row" in str(error.value)


def test_a_log_that_is_a_list_inside_one_object_is_named_too(put: Put) -> None:
    log = {"sessionId": "s", "kind": "chat", "messages": LOGS["speakers named by the type"][1::2]}
    (found,) = inspect([str(put("a.jsonl", [log]))])
    assert "the log of an agent's session" in found["error"]


def test_the_command_of_the_hint_fits_the_rows() -> None:
    assert ".message" in find_joining_command(LOGS["messages inside events"])
    assert "select(.role)" in find_joining_command(LOGS["nothing but turns with a message each"])
    assert ".payload" in find_joining_command(LOGS["payloads"])
    assert find_joining_command(LOGS["texts beside calls"]) == ""
    items = [{"role": "user", "content": ASKED}, {"type": "function_call", "name": "ls", "arguments": "{}"}]
    assert "function_call" in find_joining_command(items)


@pytest.mark.parametrize(
    "rows",
    [
        [{"type": "message", "text": ASKED}, {"type": "message", "text": SAID}],
        [{"type": "article", "text": ASKED}, {"type": "summary", "text": SAID}],
        [{"type": "user", "messages": [{"role": "user", "content": ASKED}]}, {"type": "session", "text": SAID}],
        [
            {"type": "reasoning", "instruction": ASKED, "output": SAID},
            {"type": "tool", "instruction": "", "output": ""},
        ],
        [{"type": "model", "text": ASKED}, {"type": "result", "text": SAID}, {"type": "news", "text": SAID}],
        [{"role": "user", "content": ASKED}, {"role": "assistant", "content": SAID}],
        [{"message": "hello", "user": "a", "type": "user"}, {"message": "hi", "user": "b", "type": "user"}],
        [{"kind": "error", "text": ASKED}, {"kind": "user", "name": "a"}],
    ],
)
def test_other_rows_with_a_type_are_no_log(rows: list[dict[str, Any]]) -> None:
    assert not is_event_log(rows)
