"""What a command quotes of a file, a row or an argument is shown by a terminal and not obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app

HARM = "\x1b[2J\x1b]52;c;AAAA\x07\x9b2J\r\u202e"


def obeyed(text: str) -> list[str]:
    return [letter for letter in HARM if not letter.isprintable() and letter in text]


@pytest.mark.parametrize("words", [["data", "inspect"], ["data", "rules", "--rule", "html"]], ids=["inspect", "rules"])
def test_a_row_and_the_name_of_its_file_are_shown(words: list[str], tmp_path: Path) -> None:
    turns = [{"role": "user", "content": f"问{HARM}？"}, {"role": "assistant", "content": f"<b>答</b>{HARM}。"}]
    file = tmp_path / "a\x1b[2J\x9b.jsonl"
    file.write_text(json.dumps({"messages": turns, f"x{HARM}": 1}, ensure_ascii=False) + "\n", encoding="utf-8")
    done = CliRunner().invoke(app, [*words, str(file)])
    shown = done.stdout + done.stderr
    assert "x1b[2J" in shown and obeyed(shown) == []


def test_json_for_a_program_holds_the_name_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a\x1b[2J\u202e.jsonl"
    file.write_text(json.dumps({"text": "一段文字。"}) + "\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["data", "inspect", str(file), "--json"])
    assert json.loads(done.stdout)[0]["path"] == str(file) and "\u202e" in done.stdout
