"""`hanlin mcp` through the client of the official SDK, over standard input and output."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.main import get_command

from hanlin.cli.commands.agents import tools
from hanlin.cli.commands.agents.tools import Workspace
from hanlin.cli.main import app
from hanlin.core.errors import UserError

RECIPE = """
name: first
stages:
  corpus: { kind: corpus, sources: [{ path: ./books }] }
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("春天来了，花园里的花都开了。\n", encoding="utf-8")
    (tmp_path / "first.yaml").write_text(RECIPE, encoding="utf-8")
    return Workspace(tmp_path, tmp_path)


def files(folder: Path) -> list[str]:
    """All files but the memory of hashes that planning keeps."""
    return sorted(str(path) for path in folder.rglob("*") if "artifacts" not in path.parts)


def test_the_tools_tell_what_the_commands_print_and_write_nothing(workspace: Workspace) -> None:
    before = files(workspace.root)
    assert [row["state"] for row in tools.plan(workspace, "first.yaml", [], "", "", "cpu")] == ["run"]
    assert tools.status(workspace, "first.yaml", [])[0]["stage"] == "corpus"
    (row,) = tools.inspect(workspace, ["books"], 10)
    assert row["kept"] == 1 and row["stage"] == "corpus"
    assert tools.catalog("datasets", ["弱智吧", "gpt-4"])[0]["id"] == "ruozhiba-gpt4"
    assert "max_seq_length" in tools.settings("sft")["properties"] and tools.settings("")["gguf"]
    assert tools.docs("skill").startswith("---\nname: hanlin") and "hubs" in tools.docs("")
    with pytest.raises(UserError, match="no stage has run"):
        tools.report(workspace, "first.yaml", [])
    assert files(workspace.root) == before


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "books/../../x", "~"])
def test_an_agent_sees_nothing_outside_its_folder(workspace: Workspace, path: str) -> None:
    for call in (tools.evaluation, tools.lineage, lambda w, p: tools.inspect(w, [p], 10)):
        with pytest.raises(UserError) as told:
            call(workspace, path)
        assert told.value.code == "access"


def test_a_link_out_of_the_folder_is_not_followed(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.txt"
    outside.write_text("secret", encoding="utf-8")
    (workspace.root / "link.txt").symlink_to(outside)
    with pytest.raises(UserError, match="outside"):
        tools.inspect(workspace, ["link.txt"], 10)


def test_what_is_missing_or_wrong_is_said_with_a_code(workspace: Workspace) -> None:
    for call, code in (
        (lambda: tools.plan(workspace, "nowhere.yaml", [], "", "", "cpu"), "not_found"),
        (lambda: tools.plan(workspace, "first.yaml", ["corpus.sorces=x"], "", "", "cpu"), "recipe"),
        (lambda: tools.evaluation(workspace, "books"), "bad_input"),
        (lambda: tools.inspect(workspace, ["books"], 0), "bad_input"),
        (lambda: tools.settings("stf"), "bad_input"),
    ):
        with pytest.raises(UserError) as told:
            call()
        assert told.value.code == code


def test_without_the_sdk_one_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as told:
        get_command(app)(["mcp"], standalone_mode=False)
    assert told.value.code == "missing_package" and "hanlin[mcp]" in str(told.value.hint)


async def ask(folder: Path) -> tuple[set[str], Any, Any, Any]:
    from mcp import Client, StdioServerParameters

    environment = {name: os.environ[name] for name in ("PYTHONPATH", "PATH", "HOME") if name in os.environ}
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "hanlin", "mcp"], env=environment | {"HANLIN_LANG": "en"}, cwd=folder
    )
    async with Client(server, read_timeout_seconds=120) as client:
        listed = (await client.list_tools()).tools
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in listed)
        planned = await client.call_tool("plan", {"recipe": "first.yaml", "device": "cpu"})
        refused = await client.call_tool("inspect", {"paths": ["/etc/passwd"]})
        found = await client.call_tool("catalog", {"sort": "models", "words": ["atom-7b-chat"]})
    return {tool.name for tool in listed}, planned, refused, found


def test_the_client_of_the_sdk_plans_a_recipe_and_is_refused_by_code(workspace: Workspace) -> None:
    pytest.importorskip("mcp", reason="the MCP SDK is not installed (pip install 'hanlin[mcp]')")
    names, planned, refused, found = anyio.run(ask, workspace.root)
    assert names == {"plan", "status", "report", "inspect", "evaluation", "lineage", "catalog", "settings", "docs"}
    assert json.loads(planned.content[0].text)[0]["state"] == "run" and not planned.is_error
    assert refused.is_error and '"access"' in refused.content[0].text
    assert json.loads(found.content[0].text)[0]["parameters"] == 7_008_751_616


async def listed(allow_evaluate: bool) -> dict[str, bool | None]:
    from hanlin.cli.commands.agents.mcp import make_server

    tools = await make_server(Workspace(Path("."), Path(".")), allow_evaluate).list_tools()
    return {tool.name: tool.annotations.read_only_hint for tool in tools}


def test_an_agent_may_evaluate_only_where_the_user_allows_it() -> None:
    pytest.importorskip("mcp", reason="the MCP SDK is not installed (pip install 'hanlin[mcp]')")
    assert "evaluate" not in anyio.run(listed, False)
    allowed = anyio.run(listed, True)
    assert [name for name, reads in allowed.items() if not reads] == ["evaluate"]


def test_an_evaluation_takes_no_path_outside_and_no_option_in_a_name(workspace: Workspace) -> None:
    no_names: list[str] = []
    for model, questions, data, tasks, code in (
        ("/etc", "", "", no_names, "access"),
        ("books", "../q.jsonl", "", no_names, "access"),
        ("books", "", "books", ["--lm-eval-tasks"], "bad_input"),
        ("books", "", "books", ["../mine.yaml"], "access"),
        ("books", "", "books", ["/etc/passwd"], "access"),
    ):
        with pytest.raises(UserError) as told:
            tools.evaluate(workspace, model, questions, data, tasks, [], 0)
        assert told.value.code == code


@pytest.mark.slow
def test_an_evaluation_gives_metrics_and_its_errors_keep_their_code(workspace: Workspace, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, workspace.root / "model")
    rows = [{"question": "春天来了，什么开了？", "answer": "花"}, {"question": "一加一等于几？", "answer": "二"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (workspace.root / "questions.jsonl").write_text(text, encoding="utf-8")
    done = tools.evaluate(workspace, "model", "questions.jsonl", "", [], [], 1)
    assert done["digest"] and 0 <= done["metrics"]["exact_match"] <= 1
    assert Path(done["path"]).is_relative_to(workspace.home)
    with pytest.raises(UserError) as told:
        tools.evaluate(workspace, "books", "questions.jsonl", "", [], [], 0)
    assert told.value.code in ("bad_input", "recipe", "not_found")
