"""What people wrote to each other, and texts with a layout of their own, are named for what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.data.formats.traces.event_logs import is_event_log
from hanlin.data.io.layout import detect_layout
from hanlin.data.io.sources import SourceFile
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
ASKED, SAID = "石桥在哪里？", "在东门外。"


def find_container(path: Path, **source: Any) -> str:
    return detect_layout(SourceFile(path, path.name, 0, Source(path=str(path), **source))).container


DISCORD = {
    "channel": {"name": "闲聊"},
    "messages": [{"content": text, "author": {"name": "甲乙"[i]}} for i, text in enumerate((ASKED, SAID))],
}
TELEGRAM = {
    "name": "群",
    "messages": [
        {"id": 1, "type": "service", "actor": "甲", "action": "create_group"},
        {"id": 2, "type": "message", "from": "甲", "from_id": "user1", "text": ASKED},
        {"id": 3, "type": "message", "from": "乙", "from_id": "user2", "text": ["在", {"text": "东门"}]},
    ],
}
WECHAT = [{"type_name": "文本", "is_sender": i, "talker": "甲", "msg": text} for i, text in enumerate((ASKED, SAID))]
SLACK = [{"type": "message", "user": f"U{i}", "ts": "1.1", "text": text} for i, text in enumerate((ASKED, SAID))]


@pytest.mark.parametrize(
    ("rows", "command"),
    [([DISCORD], ".author.name"), ([TELEGRAM], ".from"), (WECHAT, ".is_sender == 1"), (SLACK, ".user")],
)
@pytest.mark.parametrize("stage", [Conversations, Corpus])
def test_the_export_of_a_messenger_is_named_with_the_command_that_joins_it(
    put: Put, run: Run, stage: Any, rows: Any, command: str
) -> None:
    with pytest.raises(UserError, match="messenger") as refused:
        run(stage, put("a.json", rows))
    assert "jq" in str(refused.value.hint) and command in str(refused.value.hint)


def test_a_table_of_a_messenger_is_named(put: Put, run: Run) -> None:
    table = f"Type,IsSender,StrContent\n1,0,{ASKED}\n1,1,{SAID}\n"
    with pytest.raises(UserError, match="messenger"):
        run(Conversations, put("a.csv", table))


def test_roles_that_a_source_names_are_read(put: Put, run: Run) -> None:
    rows = [{"messages": [{"role": "甲", "content": ASKED}, {"role": "乙", "content": SAID}]}]
    made = run(Conversations, put("a.json", rows), source={"roles": {"甲": "user", "乙": "assistant"}})
    assert len(made.kept) == 1


XIAOHUANGJI = f"E\nM {ASKED}\nM {SAID}\n" * 4
QQ = "".join(f"2025-01-0{i} 10:0{i}:00 甲\n{SAID}走过去要{i}分钟。\n\n" for i in range(1, 7))
WHATSAPP = "".join(f"2025/1/{i} 上午10:0{i} - 甲: {SAID}走过去要{i}分钟。\n" for i in range(1, 7))


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.conv", XIAOHUANGJI, "xiaohuangji"),
        ("a.txt", XIAOHUANGJI, "xiaohuangji"),
        ("a.txt", QQ, "messenger"),
        ("a.txt", WHATSAPP, "messenger"),
        ("a.yml", f"categories:\n- 桥\nconversations:\n- - {ASKED}\n  - {SAID}\n", "YAML"),
        ("a.yaml", f"- question: {ASKED}\n  answer: {SAID}\n- question: {ASKED}\n  answer: {SAID}\n", "YAML"),
    ],
)
def test_chats_in_a_layout_of_their_own_are_not_read_as_text(
    put: Put, run: Run, name: str, text: str, what: str
) -> None:
    path = put(name, text)
    for stage in (Corpus, Conversations):
        with pytest.raises(UserError, match=what):
            run(stage, path)
    assert find_container(path, format="text") == "text"


@pytest.mark.parametrize(
    "text",
    [
        "E\n东方有桥。\nM 是一个字母。\n" * 3,
        "2025-01-01 10:00:00 石桥开放。\n桥长百步，宽十步，是匠人花了三年造的。\n桥下有船。\n桥上有人。\n桥边有花。\n",
        "时间：2025 年 1 月 1 日\n地点：东门\n人物：匠人\n事情：造桥\n",
        "settings:\n  role: reader\n  steps: 3\n",
    ],
)
def test_other_texts_are_read_as_text(put: Put, text: str) -> None:
    for name in ("a.txt", "a.yaml"):
        assert find_container(put(name, text)).startswith("text")


def test_turns_that_are_shown_as_one_text_are_named(put: Put, run: Run) -> None:
    shown = f"user: {ASKED}\n\nassistant: " + '{"name": "find"}' + f"\n\ntool: 东门\n\nassistant: {SAID}"
    with pytest.raises(UserError, match="`messages_display` shows turns as one text"):
        run(Conversations, put("a.jsonl", [{"task_id": 1, "messages_display": shown}]))


def test_a_log_whose_results_have_an_output_is_a_log() -> None:
    call = {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "c"}
    result = {"type": "function_call_output", "call_id": "c", "output": "a.txt"}
    turns = [{"type": "message", "role": role, "content": [{"text": SAID}]} for role in ("user", "assistant")]
    assert is_event_log([{"id": "x", "timestamp": "t"}, {"record_type": "state"}, turns[0], call, result, turns[1]])
    assert not is_event_log([{"instruction": ASKED, "output": SAID}, {"instruction": SAID, "output": ASKED}])
