"""A command refuses options that it would ignore, and prints what was asked for where it was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hanlin.cli import output
from hanlin.cli.commands.single_stage import _check_out, _copy_artifact
from hanlin.cli.main import app, main
from hanlin.cli.output import print_json, print_table
from hanlin.core.errors import UserError

ROWS = '{"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好，我是小翰。"}]}\n'
RECIPE = "name: r\nstages:\n  chats: { kind: conversations, sources: [{ path: ./chats.jsonl, license: x }] }\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a recipe, its data and an earlier comparison."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HANLIN_LANG", "en")
    (tmp_path / "chats.jsonl").write_text(ROWS, encoding="utf-8")
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier/comparison.json").write_text('{"models": [], "tasks": []}', encoding="utf-8")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("data rules r.yaml --rule html", "--rule"),
        ("data rules r.yaml --blocklist nowhere.txt", "--blocklist"),
        ("data rules chats.jsonl --stage chats", "--stage"),
        ("data report chats.jsonl --template chatml", "--template"),
        ("compare earlier --out new", "--out"),
        ("compare earlier --judge http://127.0.0.1:1", "--judge"),
        ("compare one two --judge-model m", "--judge-model"),
        ("chat nowhere -m hello --resume", "--resume"),
        ("chat nowhere -m hello --session a", "--session"),
        ("chat nowhere --session a --resume", "--resume"),
        ("chat nowhere --name m", "--name"),
        ("chat http://127.0.0.1:1 --engine vllm", "--engine"),
        ("serve nowhere --vllm http://127.0.0.1:1 --replicas 2", "--replicas"),
        ("serve nowhere --llama-server http://127.0.0.1:1 --threads 2", "--threads"),
        ("serve nowhere --llama-server http://127.0.0.1:1 -- --flash-attn", "--"),
        ("plan r.yaml --costs --json", "--costs"),
        ("run r.yaml --print-command --json", "--json"),
        ("run r.yaml --print-command --verify", "--verify"),
    ],
)
def test_an_option_without_a_meaning_is_refused(words: str, option: str, folder: Path) -> None:
    done = run(*words.split())
    assert isinstance(done.exception, UserError), done.output
    assert (done.exception.where, done.exception.code) == (option, "usage")


def test_an_earlier_comparison_is_printed_as_json_too(folder: Path) -> None:
    assert json.loads(run("compare", "earlier", "--json").stdout)["path"] == "earlier"


def test_a_data_report_as_json_still_writes_the_page_that_is_named(folder: Path) -> None:
    done = run("data", "report", "chats.jsonl", "--json", "--out", "页 1.html")
    assert json.loads(done.stdout)["path"] == "chats.jsonl"
    assert "conversations" in (folder / "页 1.html").read_text(encoding="utf-8")


def test_a_home_folder_is_found_where_no_shell_looks_for_it(folder: Path) -> None:
    home = {"HOME": str(folder / "home"), "HANLIN_HOME": "~/store"}
    done = CliRunner().invoke(app, ["plan", "r.yaml"], env=home)
    assert done.exit_code == 0, done.output
    assert not (folder / "~").exists() and (folder / "home/store").is_dir()


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x", "~nobody-of-that-name"])
def test_a_home_folder_of_nobody_is_one_sentence(text: str, folder: Path) -> None:
    (folder / "r.yaml").write_text(RECIPE.replace("./chats.jsonl", text), encoding="utf-8")
    done = run("plan", "r.yaml")
    assert isinstance(done.exception, UserError) and str(done.exception.where).startswith("r.yaml:3")


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(name)

    print_json({"loss": float("nan"), "rows": [1.5, float("-inf")], "words": ("a",)})
    assert json.loads(capsys.readouterr().out, parse_constant=refuse) == {
        "loss": None, "rows": [1.5, None], "words": ["a"],
    }  # fmt: skip


def test_a_word_between_colons_stays_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a"], [["x:key:y"]])
    assert "x:key:y" in capsys.readouterr().out


def test_an_error_after_the_json_value_is_no_second_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(**_: object) -> None:
        output.print_json([1])
        raise UserError("changed")

    monkeypatch.setattr("hanlin.cli.main.app", command)
    monkeypatch.setattr(sys, "argv", ["hanlin", "verify", "x", "--json"])
    for name in ("install", "keep_working_folder_out", "_make_reports_printable"):
        monkeypatch.setattr(f"hanlin.cli.main.{name}", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 2 and json.loads(shown.out) == [1] and "changed" in shown.err


def test_a_result_fills_an_empty_folder_that_is_there(folder: Path) -> None:
    made = folder / "artifacts/a"
    (made / "sub").mkdir(parents=True)
    for name in ("manifest.json", "b.txt", "sub/c.txt"):
        (made / name).write_text(name, encoding="utf-8")
    (folder / "volume").mkdir()
    os.chdir(folder / "volume")
    before = Path.cwd().stat().st_ino
    _check_out(Path())
    _copy_artifact(made, Path())
    assert (folder / "volume").stat().st_ino == before  # a mounted volume cannot be replaced
    assert sorted(path.name for path in Path().rglob("*")) == ["b.txt", "c.txt", "manifest.json", "sub"]
    with pytest.raises(UserError, match="already exists"):
        _check_out(Path())


@pytest.mark.skipif(os.name != "posix", reason="of shells")
def test_a_command_without_standard_output_ends_well() -> None:
    command = f"{sys.executable} -m hanlin docs --json >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command]).returncode == 0


def test_the_commands_to_type_next_are_words_of_a_shell(folder: Path) -> None:
    (folder / "my dir").mkdir()
    done = run("recipe", "copy", "llama3_8b_lora", "--out", "my dir/r2.yaml", "--json")
    assert json.loads(done.stdout)["next"] == ["hanlin plan 'my dir/r2.yaml'"]
