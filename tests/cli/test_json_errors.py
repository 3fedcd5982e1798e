"""Errors for programs: with `--json` an error is one JSON object with a code that keeps its meaning."""

from __future__ import annotations

import json
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import Context
from typer.main import get_command

from hanlin.cli.main import app, main
from hanlin.core.errors import CODES, UserError, explain_os_error, killed_error, memory_error

ROOT = Path(__file__).resolve().parents[2]


def fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """The error that a command prints for programs; its sentence is on standard error too."""
    monkeypatch.setattr(sys, "argv", ["hanlin", *words])
    monkeypatch.setenv("HANLIN_LANG", "en")
    for name in ("install", "keep_working_folder_out", "_make_reports_printable"):
        monkeypatch.setattr(f"hanlin.cli.main.{name}", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    error = json.loads(shown.out)["error"]
    assert error["what"] in shown.err
    return dict(error)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("plan", "nowhere.yaml", "--json"), "not_found"),
        (("plan", "recipe.yaml", "--json"), "recipe"),
        (("plan", "--josn", "recipe.yaml", "--json"), "usage"),
        (("paln", "--json"), "usage"),
        (("data", "inspect", "nowhere.jsonl", "--json"), "not_found"),
        (("recipe", "new", "--out", "recipe.yaml", "--json"), "exists"),
        (("catalog", "models", "no-such-model", "--json"), "bad_input"),
        (("lineage", "nowhere", "--json"), "not_found"),
        (("verify", ".", "--json"), "bad_input"),
        (("tensorboard", "nowhere", "--json"), "not_found"),
        (("template", "modelfile", "nowhere", "--json"), "not_found"),
        (("tokens", "view", "recipe.yaml", "--model", "nowhere", "--json"), "not_found"),
        (("docs", "nowhere", "--json"), "not_found"),
        (("serve", "nowhere", "--json"), "not_found"),
    ],
)
def test_an_error_has_its_code(
    words: tuple[str, ...],
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("stages: { a: { kind: nothing } }\n", encoding="utf-8")
    assert fail(monkeypatch, capsys, *words)["code"] == code


def test_without_json_nothing_but_the_sentence_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(json.JSONDecodeError):
        fail(monkeypatch, capsys, "catalog", "models", "no-such-model")


def test_what_the_system_says_has_a_code() -> None:
    errors = {
        "disk": explain_os_error(OSError(28, "No space left on device", "x")),
        "access": explain_os_error(PermissionError(13, "Permission denied", "x")),
        "out_of_memory": memory_error("the memory is used up", "tuned"),
        "crashed": killed_error("tuned", -11),
    }
    assert {code: error.code for code, error in errors.items() if error} == {code: code for code in errors}
    assert killed_error("tuned", -9).code == "out_of_memory"


def test_a_code_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UserError("gone", "here", None, "not_found")))
    assert (error.code, error.what, error.where) == ("not_found", "gone", "here")
    assert pickle.loads(pickle.dumps(UserError("wrong"))).code == "bad_input"


def test_every_code_of_the_source_is_in_the_table_and_on_the_page() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "hanlin").rglob("*.py"))
    used = set(re.findall(r"UserError\([^\n]*, \"([a-z_]+)\"\)", source)) | set(
        re.findall(r"code=\"([a-z_]+)\"", source)
    )
    assert {code for code in used if code in CODES} >= {"not_found", "exists", "internal"}
    for language in ("en", "zh"):
        page = (ROOT / "docs" / language / "agents.md").read_text(encoding="utf-8").split("\n## ")[-1]
        assert set(re.findall(r"^\| `([a-z_]+)` \|", page, re.M)) == set(CODES)


WITHOUT_JSON = {
    "chat": "a conversation with a person",
    "ui": "a page for a person",
    "mcp": "speaks JSON on its own terms",
}
"""Commands without `--json`, and why."""


def commands(group: object, above: str = "") -> Iterator[tuple[str, object]]:
    for name in group.list_commands(Context(group)):  # type: ignore[attr-defined, arg-type]
        command = group.get_command(Context(group), name)  # type: ignore[attr-defined, arg-type]
        path = f"{above} {name}".strip()
        if hasattr(command, "list_commands"):
            yield from commands(command, path)
        else:
            yield path, command


def test_every_command_prints_json_or_says_why_not() -> None:
    flags = {
        path: {flag for param in command.params for flag in param.opts}  # type: ignore[attr-defined]
        for path, command in commands(get_command(app))
    }
    assert {path for path, options in flags.items() if "--json" not in options} == WITHOUT_JSON.keys()
