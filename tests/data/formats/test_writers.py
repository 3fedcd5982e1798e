"""What is written for another tool reads back as it was, and each part that a format cannot hold has a name."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import format_samples
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.data.formats import convert as converting
from hanlin.data.formats import registry
from hanlin.data.formats.convert import convert
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.formats.writers import LOST_PARTS, OUTPUT_FORMATS, UNWRITABLE_REASONS, WrittenRow
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

Put = Callable[[str, Any], Path]
CHAT_TARGETS = ("messages", "sharegpt", "alpaca", "firefly")
WITH_TOOLS = ("react", "sharegpt_tools", "messages_tools", "moss", "glaive", "agent_steps")


def items(path: Path, stage: str = "conversations") -> list[Any]:
    file = SourceFile(path, path.name, 0, Source(path=str(path)))
    with InputFile(path) as input_file:
        return [found.item for found in open_records(file, input_file, registry.FORMATS_BY_STAGE[stage]).rows]


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
@pytest.mark.parametrize("to", CHAT_TARGETS)
@pytest.mark.parametrize("name", format_samples.CHAT_ROWS)
def test_every_chat_format_survives_every_output_format(
    put: Put, tmp_path: Path, name: str, to: str, ending: str
) -> None:
    source, out = put(f"{name}.jsonl", format_samples.CHAT_ROWS[name] * 2), tmp_path / f"out{ending}"
    (account,) = convert([str(source)], to, out)
    assert account.rows_in == account.kept + sum(account.dropped.values()) == 2
    if to in ("alpaca", "firefly") and name == "lccc":
        assert account.dropped == {"not_alternating": 2}
    elif to in ("alpaca", "firefly") and name in WITH_TOOLS:
        assert account.dropped == {"tool_turns": 2}
    else:
        expected = items(source)
        if to in ("alpaca", "firefly") and name == "sharegpt_tools_unused":
            assert account.lost_parts == {"tools": 2}
            expected = [ParsedChat(chat.messages, (), chat.meta) for chat in expected]
        if to in ("alpaca", "firefly") and name == "segments":
            assert account.lost_parts == {"flags": 2}
            expected = [ParsedChat(tuple(replace(turn, train=None) for turn in chat.messages)) for chat in expected]
        assert items(out) == expected
        assert not account.dropped and not (tmp_path / f"out{ending}.dropped.jsonl").exists()


@pytest.mark.parametrize("name", format_samples.PAIR_ROWS)
def test_every_preference_format_survives_dpo(put: Put, tmp_path: Path, name: str) -> None:
    source, out = put(f"{name}.jsonl", format_samples.PAIR_ROWS[name]), tmp_path / "out.jsonl"
    (account,) = convert([str(source)], "dpo", out)
    assert account.kept == 1 and items(out, "preferences") == items(source, "preferences")


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
IDS = st.sampled_from(["", "", "a", "b"])
CALLS = st.lists(
    st.builds(ToolCall, st.text("ab", min_size=1), st.dictionaries(TEXTS, TEXTS, max_size=2), IDS), max_size=2
)
TURNS = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user"]), TEXTS),
    st.builds(
        lambda text, calls, reasoning, train: Message(
            "assistant", text, tuple(calls), reasoning=reasoning, train=train
        ),
        TEXTS | st.sampled_from(["<think>", "</think>", "<tool_call>", "[f()]", '{"name": "f"}']),
        CALLS,
        st.sampled_from(["", "想", "先想\n\n后说", "</think>"]),
        st.sampled_from([None, None, True, False]),
    ),
    st.builds(lambda text, name, id: Message("tool", text, (), name, "", id), TEXTS, st.text("ab", max_size=3), IDS),
)
TOOLS = st.sampled_from([(), ({"name": "f", "description": "查"},)])
CHATS = st.builds(
    lambda turns, tools, meta: ParsedChat(tuple(turns), tools, meta),
    st.lists(TURNS, max_size=5),
    TOOLS,
    st.dictionaries(st.text("xy", min_size=1), st.integers() | st.text("花", min_size=1), max_size=2),
)


@given(chat=CHATS)
@pytest.mark.parametrize("to", CHAT_TARGETS)
def test_any_chat_is_written_completely_or_the_lost_part_has_a_name(to: str, chat: ParsedChat) -> None:
    written = OUTPUT_FORMATS[to].write(chat)
    if isinstance(written, Drop):
        assert written.reason in UNWRITABLE_REASONS
        return
    (back,) = OUTPUT_FORMATS[to].read(json.loads(json.dumps(written.row)))
    assert set(written.lost_parts) <= set(LOST_PARTS)
    expected = [replace(turn, train=None) if "flags" in written.lost_parts else turn for turn in chat.messages]
    assert list(back.messages) == expected and back.meta == chat.meta
    assert back.tools == (() if "tools" in written.lost_parts else chat.tools)


FULL = ParsedChat(
    (
        Message("system", "你是助手。"),
        Message("user", "北京和上海天气？"),
        Message(
            "assistant",
            "",
            (ToolCall("weather", {"city": "北京"}, "a"), ToolCall("weather", {"city": "上海"}, "b")),
            reasoning="要查两地。",
            train=False,
        ),
        Message("tool", "晴", name="weather", tool_call_id="a"),
        Message("tool", "雨", name="weather", tool_call_id="b"),
        Message("assistant", "北京晴，上海雨。", reasoning="都查到了。", train=True),
    ),
    ({"name": "weather", "description": "查天气"},),
    {"kind": "天气"},
)


@pytest.mark.parametrize("to", ["messages", "sharegpt"])
def test_reasoning_ids_and_flags_are_written_and_read_back(to: str) -> None:
    written = OUTPUT_FORMATS[to].write(FULL)
    assert isinstance(written, WrittenRow) and written.lost_parts == ()
    (back,) = OUTPUT_FORMATS[to].read(json.loads(json.dumps(written.row)))
    assert back == FULL and back.unread == ()


def test_reasoning_is_written_as_each_tool_expects() -> None:
    chat = ParsedChat((Message("user", "问"), Message("assistant", "答", reasoning="想")))
    rows = {to: OUTPUT_FORMATS[to].write(chat) for to in CHAT_TARGETS}
    assert all(isinstance(row, WrittenRow) for row in rows.values())
    tagged = "<think>\n想\n</think>\n\n答"
    assert rows["messages"].row["messages"][1] == {"role": "assistant", "content": "答", "reasoning_content": "想"}  # type: ignore[union-attr]
    assert rows["sharegpt"].row["conversations"][1] == {"from": "gpt", "value": tagged}  # type: ignore[union-attr]
    assert rows["alpaca"].row["output"] == rows["firefly"].row["conversation"][0]["assistant"] == tagged  # type: ignore[union-attr]


@pytest.mark.parametrize("to", ["alpaca", "firefly"])
def test_a_format_without_flags_takes_no_chat_with_a_turn_that_is_not_learned(to: str) -> None:
    turns = (Message("user", "问"), Message("assistant", "答", train=True))
    written = OUTPUT_FORMATS[to].write(ParsedChat(turns))
    assert isinstance(written, WrittenRow) and written.lost_parts == ("flags",)
    assert OUTPUT_FORMATS[to].write(ParsedChat((turns[0], replace(turns[1], train=False)))) == Drop("turn_flags")


def test_pairs_are_written_with_reasoning_and_flags_of_their_prompt(put: Put, tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "问"}],
        "chosen": [{"role": "assistant", "content": "<think>\n想\n</think>\n\n答"}],
        "rejected": [{"role": "assistant", "content": "错"}],
    }
    source, out = put("a.jsonl", [row]), tmp_path / "out.jsonl"
    convert([str(source)], "dpo", out)
    (pair,) = items(out, "preferences")
    assert pair.chosen == Message("assistant", "答", reasoning="想") and [pair] == items(source, "preferences")


@given(texts=st.lists(st.text("春花？ \n", min_size=1), min_size=2, max_size=6))
def test_every_output_format_holds_questions_with_answers(texts: list[str]) -> None:
    from hanlin.data.formats.turns import alternate_roles

    messages = alternate_roles(texts[: len(texts) // 2 * 2])
    for to in CHAT_TARGETS:
        written = OUTPUT_FORMATS[to].write(ParsedChat(messages))
        if all(message.text for message in messages):
            assert isinstance(written, WrittenRow), (to, written)


def test_every_lost_part_has_a_description() -> None:
    from hanlin.config.reasons import describe_reason
    from hanlin.data.formats.writers import describe_lost_part

    assert all(map(describe_reason, UNWRITABLE_REASONS)) and all(map(describe_lost_part, LOST_PARTS))


def test_rows_that_are_not_written_can_be_read_with_their_reason(put: Put, tmp_path: Path) -> None:
    rows = [*format_samples.CHAT_ROWS["sharegpt"], *format_samples.CHAT_ROWS["sharegpt_tools"]]
    out = tmp_path / "out.jsonl"
    convert([str(put("a.jsonl", rows))], "firefly", out)
    (line,) = (tmp_path / "out.jsonl.dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"reason": "tool_turns", "location": "a.jsonl:2", "row": rows[1]}


def test_firefly_and_sharegpt_are_what_their_tools_expect(put: Put, tmp_path: Path) -> None:
    source = put("a.jsonl", format_samples.CHAT_ROWS["sharegpt"])
    convert([str(source)], "firefly", tmp_path / "f.jsonl")
    convert([str(put("b.jsonl", format_samples.CHAT_ROWS["sharegpt_tools"]))], "sharegpt", tmp_path / "s.json")
    firefly = json.loads((tmp_path / "f.jsonl").read_text(encoding="utf-8"))
    assert firefly["system"] == "你是小翰。" and set(firefly["conversation"][0]) == {"human", "assistant"}
    (sharegpt,) = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert [turn["from"] for turn in sharegpt["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert json.loads(sharegpt["tools"]) == format_samples.TOOLS
    assert json.loads(sharegpt["conversations"][1]["value"]) == format_samples.CALL


@pytest.mark.parametrize(
    ("to", "out", "said"),
    [
        ("sharegtp", "out.jsonl", "cannot write the format 'sharegtp'"),
        ("messages", "out.txt", "must end in"),
        ("messages", "there.jsonl", "already exists"),
        ("dpo", "out.jsonl", "unknown format"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_is_left(
    put: Put, tmp_path: Path, to: str, out: str, said: str
) -> None:
    source = put("a.jsonl", format_samples.CHAT_ROWS["alpaca"])
    there = put("../there.jsonl", "kept")
    with pytest.raises(UserError, match=said):
        convert([str(source)], to, tmp_path / out)
    assert there.read_text(encoding="utf-8") == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sources", "there.jsonl"]


def test_a_full_disk_is_reported_and_nothing_is_left(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = put("a.jsonl", format_samples.CHAT_ROWS["alpaca"])
    monkeypatch.setattr(converting._JsonWriter, "add", full)
    with pytest.raises(UserError, match="the disk is full"):
        convert([str(source)], "messages", tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["sources"]


def test_real_data_loses_no_unnamed_part(shared_data: Path, tmp_path: Path) -> None:
    names: Sequence[str] = ("glaive_toolcall_zh_demo.json", "moss_plugin_equation.jsonl", "v1_sft_demo.jsonl")
    paths = [str(shared_data / "sft" / name) for name in names]
    for to in CHAT_TARGETS:
        for account in convert(paths, to, tmp_path / f"{to}.jsonl"):
            assert account.rows_in == account.kept + sum(account.dropped.values())
            assert set(account.dropped) <= {"tool_turns", "broken_tool_call", "not_alternating"}, account
        if to in ("messages", "sharegpt"):
            back = items(tmp_path / f"{to}.jsonl")
            assert back == [item for path in paths for item in items(Path(path)) if not isinstance(item, Drop)]


@pytest.mark.parametrize("names", [("score_chosen", "score_rejected"), ("chosen_rating", "rejected_rating")])
def test_a_pair_is_written_with_its_scores_under_their_own_names(tmp_path: Path, names: tuple[str, str]) -> None:
    row = {"prompt": "桥在哪里？", "chosen": "在江边。", "rejected": "不知道。", names[0]: 5.0, names[1]: 2.0}
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (stats,) = convert([str(source)], "dpo", out)
    written = json.loads(out.read_text(encoding="utf-8"))
    assert (stats.kept, dict(stats.dropped)) == (1, {})
    assert (written[names[0]], written[names[1]]) == (5.0, 2.0)


def test_rows_that_an_earlier_run_left_out_are_not_shown_for_a_later_one(put: Put, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for rows, is_dropped in (([CHAT, {"messages": []}], True), ([CHAT], False)):
        convert([str(put("a.jsonl", rows))], "messages", out)
        assert (tmp_path / "out.jsonl.dropped.jsonl").exists() is is_dropped
        out.unlink()


CHAT = {"messages": [{"role": "user", "content": "几点？"}, {"role": "assistant", "content": "九点。"}]}
