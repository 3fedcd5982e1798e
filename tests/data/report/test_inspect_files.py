"""`hanlin data inspect` and `hanlin data convert` report what is in a file and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import format_samples
from hanlin.chat.tokenizer_files import template_without_model
from hanlin.cli.main import app
from hanlin.core.errors import UserError
from hanlin.data.report.inspect import inspect

Put = Callable[[str, Any], Path]
KEYS = {"path", "stage", "format", "encoding", "records", "rows_in", "kept", "dropped", "samples"}


def test_inspect_reports_format_encoding_records_ledger_and_samples(put: Put) -> None:
    rows = [{"instruction": f"第{n}问？", "output": f"答{n}" if n else ""} for n in range(9)]
    (row,) = inspect([str(put("a.jsonl", rows))])
    assert set(row) >= KEYS
    assert (row["stage"], row["format"], row["encoding"]) == ("conversations", "jsonl: alpaca", "utf-8")
    assert (row["records"], row["rows_in"], row["kept"], row["dropped"]) == (9, 9, 8, {"no_answer": 1})
    assert [sample["id"] for sample in row["samples"]] == ["a.jsonl#2", "a.jsonl#6", "a.jsonl#9"]


@pytest.mark.parametrize("name", sorted(format_samples.files()))
def test_every_sample_is_recognized_by_itself(put: Put, name: str) -> None:
    (row,) = inspect([str(put(name, format_samples.files()[name]))])
    base = name.partition(".")[0].removesuffix("_list")
    pairs, chats = format_samples.PAIR_ROWS, format_samples.CHAT_ROWS
    assert "error" not in row, row
    if base in pairs or base in chats:
        assert row["stage"] == ("preferences" if base in pairs else "conversations"), row
    assert row["rows_in"] == row["kept"] + sum(row["dropped"].values()) and row["kept"] > 0


def test_a_bad_file_does_not_hide_the_others(put: Put) -> None:
    good = put("a.txt", format_samples.TEXT)
    put("b.json", '[{"text": "x"')
    put("c.png", b"\x89PNG")
    first, second, third = inspect([str(good.parent)])
    assert first["format"] == "text" and "not JSON" in second["error"] and "skipped" in third["error"]


def test_a_file_of_which_every_row_is_dropped_is_reported(put: Put) -> None:
    (row,) = inspect([str(put("a.jsonl", [{"instruction": "问", "output": ""}] * 3))])
    assert row["kept"] == 0 and row["dropped"] == {"no_answer": 3} and row["samples"] == []


def test_globs_and_settings_of_a_source_are_accepted(put: Put) -> None:
    for name in ("a.jsonl", "b/c.jsonl", "b/d.txt"):
        put(name, [{"问题": "花？", "回答": "开了。"}, {"问题": "树？", "回答": "绿了。"}])
    folder = put("e.txt", "x").parent
    found = list(inspect([f"{folder}/**/*.jsonl"], {"fields": {"instruction": "问题", "output": "回答"}, "limit": 1}))
    assert [row["format"] for row in found] == ["jsonl: alpaca"] * 2 and found[0]["records"] == 1


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["data", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_command_prints_json_and_its_exit_code_says_that_a_file_is_bad(put: Put) -> None:
    good, bad = put("a.jsonl", format_samples.CHAT_ROWS["alpaca"]), put("b.jsonl", '{"x": 1}\n')
    code, said = run("inspect", str(good), "--json")
    assert code == 0 and json.loads(said)[0]["kept"] == 1
    code, said = run("inspect", str(good), str(bad))
    assert code == 2 and "jsonl: alpaca · utf-8" in said and "unknown format" in said


def test_the_command_converts_and_prints_the_ledger(put: Put, tmp_path: Path) -> None:
    rows = [*format_samples.CHAT_ROWS["sharegpt"], *format_samples.CHAT_ROWS["sharegpt_tools"]]
    code, said = run("convert", str(put("a.jsonl", rows)), "--to", "alpaca", "--out", str(tmp_path / "o.json"))
    assert code == 0 and "2 rows, 1 written" in said and "left out 1  tool_turns" in said
    assert json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))[0]["history"]


def test_fields_are_named_on_the_command_line(put: Put, tmp_path: Path) -> None:
    source = put("a.jsonl", [{"问题": "花？", "回复": "开了。"}])
    code, said = run(
        *("convert", str(source), "--to", "messages", "--out", str(tmp_path / "o.jsonl")),
        *("--field", "prompt=问题", "--field", "response=回复", "--json"),
    )
    assert code == 0 and json.loads(said)[0]["kept"] == 1


# ------------------------------------------------------------------------------------------- with a chat template

TOOLS = [{"type": "function", "function": {"name": "now", "description": "", "parameters": {}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "now", "arguments": {}}}]}


def asked(*answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "几点？"}, *answers], **more}


@pytest.fixture
def chats(put: Put) -> str:
    """A plain chat, one with reasoning, and two that call a tool."""
    answer, thought = {"role": "assistant", "content": "八点。"}, {"reasoning_content": "看表。"}
    calling = [asked(CALL, {"role": "tool", "content": f"{hour}:00"}, answer, tools=TOOLS) for hour in (8, 9)]
    return str(put("chats.jsonl", [asked(answer), asked({**answer, **thought}), *calling]))


def test_inspect_counts_the_records_that_a_chat_template_has_no_form_for(chats: str) -> None:
    (row,) = inspect([chats], template=template_without_model("chatml"))
    assert list(row["refused"]) == ["template_lacks_tools"] and row["refused"]["template_lacks_tools"]["count"] == 2
    assert "chats.jsonl:3" in row["refused"]["template_lacks_tools"]["first"]
    (row,) = inspect([chats], template=template_without_model("qwen3"))
    assert row["refused"] == {} and row["kept"] == 4
    assert "refused" not in next(iter(inspect([chats])))


def test_a_template_that_reads_no_reasoning_refuses_it_unless_the_row_turns_thinking_off(
    chats: str, put: Put, tmp_path: Path
) -> None:
    file = tmp_path / "bare.jinja"
    text = "{% if '<think>' in m.content %}{{ '' }}{% else %}{{ m.content }}{% endif %}"
    file.write_text("{% for m in messages %}<|im_start|>{{ m.role }}\n" + text + "<|im_end|>\n{% endfor %}", "utf-8")
    (row,) = inspect([chats], {"limit": 2}, template_without_model(str(file)))
    assert {reason: refused["count"] for reason, refused in row["refused"].items()} == {"template_lacks_reasoning": 1}
    thinking = {"role": "assistant", "content": "八点。", "reasoning_content": "看表。"}
    off = str(put("off.jsonl", [asked(thinking, enable_thinking=False)]))
    (row,) = inspect([off], template=template_without_model(str(file)))
    assert row["refused"] == {} and row["kept"] == 1


def test_both_answers_of_a_pair_are_tried(put: Put) -> None:
    pair = {
        "chosen": asked({"role": "assistant", "content": "八点。"})["messages"],
        "rejected": asked(CALL)["messages"],
    }
    (row,) = inspect([str(put("pairs.jsonl", [{**pair, "tools": TOOLS}]))], template=template_without_model("chatml"))
    assert row["stage"] == "preferences" and row["refused"]["template_lacks_tools"]["count"] == row["kept"] == 1


def test_the_command_says_what_a_template_refuses(chats: str, tiny_tokenizer: Path, tmp_path: Path) -> None:
    code, said = run("inspect", chats, "--template", "chatml")
    assert code == 0 and "refused 2  template_lacks_tools: the chat template has no form for tools" in said
    assert "the first: " in said
    code, said = run("inspect", chats, "--template", "qwen3")
    assert code == 0 and "the chat template has a form for every record" in said
    code, said = run("inspect", chats, "--model", str(tiny_tokenizer), "--json")
    assert code == 0 and "refused" in json.loads(said)[0]
    code, with_both = run("inspect", chats, "--model", str(tiny_tokenizer), "--template", "llama3.1", "--json")
    assert code == 0 and json.loads(with_both)[0]["refused"] == {}


@pytest.mark.parametrize("option", [("--template", "chatlm"), ("--model", "no/such/folder")])
def test_a_template_that_is_not_there_is_said(chats: str, option: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=option[1]):
        run("inspect", chats, *option)
