"""`hanlin pull` and `hanlin cache`: what is printed, what programs get, and what is deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.config.recipe import build_recipe
from hanlin.core.errors import UserError
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run import run
from hub_server import COMMIT, HubServer, Repository, hub_server

TEXT = (
    "翰林院在城东，春天的时候院子里开满了花，许多人都来看花。院中有一口老井，井水清凉，夏天的傍晚邻居们在井边乘凉，"
    "讲些从前的故事。先生每天早上打开大门，把桌椅擦干净，等学生们来读书。下雨的日子，他们就坐在廊下，听雨声，写文章。"
)
FILES = {
    "model": {"config.json": b"{}", "model.safetensors": b"w" * 3000, "pytorch_model.bin": b"p" * 2000},
    "data": {"train.jsonl": json.dumps({"text": TEXT}, ensure_ascii=False).encode() + b"\n"},
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    monkeypatch.chdir(tmp_path)
    with hub_server() as served:
        for name, kind in (("model", "model"), ("data", "dataset")):
            served.repositories[f"o/{name}"] = Repository(dict(FILES[name]), kind)
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", served.url)
        yield served


def hanlin(*words: str) -> Any:
    result = CliRunner().invoke(app, [*words])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_pull_prints_the_pinned_name_and_the_folder(server: HubServer, tmp_path: Path) -> None:
    result = hanlin("pull", "hf:o/model")
    folder = tmp_path / "hf" / "models--o--model" / "snapshots" / COMMIT
    assert result.stdout.split() == [f"hf:o/model@{COMMIT}", str(folder)]
    assert "2 files, 3,002 bytes, verified" in result.stderr and "1 files (2,000 bytes) were left out" in result.stderr


def test_pull_tells_programs_what_it_fetched_and_left_out(server: HubServer) -> None:
    row = json.loads(hanlin("pull", "hf:o/model", "--json").stdout)
    assert row["name"] == f"hf:o/model@{COMMIT}" and row["fetched_bytes"] == row["bytes"] == 3002
    assert [file["path"] for file in row["files"]] == ["config.json", "model.safetensors"]
    assert [file["path"] for file in row["left_out"]] == ["pytorch_model.bin"]


def test_a_dry_run_lists_every_file_with_why_it_is_left_out(server: HubServer, tmp_path: Path) -> None:
    shown = hanlin("pull", "hf:o/model", "--dry-run").stdout
    assert "pytorch_model.bin" in shown and "a pickle" in shown and "nothing was fetched" in shown
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["o/model"], "'o/model' names no repository"),
        (["hf:o/model@"], "nothing follows the @"),
        (["hf:o"], "names no repository"),
        (["hf:o/model", "--model", "--dataset"], "exclude each other"),
        (["hf:o/model", "--all", "--files", "*.json"], "exclude each other"),
        (["hf:o/model", "--files", "*.gguf"], "no file matches"),
        (["hf:o/none"], "the hub knows no such model or data set"),
        (["hf:o/model", "--endpoint", "ftp://x"], "is not the address of a server"),
        (["hf:o/model", "--endpoint", "https://me:secret@x"], "name or password"),
        (["hf:o/model@nowhere", "--model"], "it has no revision nowhere"),
    ],
)
def test_what_cannot_be_pulled_is_told_in_one_sentence(server: HubServer, words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("*", r"\*")):
        hanlin("pull", *words)


def test_a_recipe_reads_a_repository_of_either_hub_and_the_cache_tells_which_artifact_did(server: HubServer) -> None:
    stages = {hub: {"kind": "corpus", "sources": [f"{hub}:o/data@{COMMIT}"]} for hub in ("hf", "ms")}
    run(build_recipe({"name": "r", "stages": stages}, "r.yaml"), Store(Path("home")))
    rows = json.loads(hanlin("cache", "ls", "--home", "home", "--json").stdout)
    assert [(row["name"], row["kind"], row["state"]) for row in rows] == [
        (f"hf:o/data@{COMMIT}", "dataset", "verified"),
        (f"ms:o/data@{COMMIT}", "dataset", "verified"),
    ]
    assert all(name.startswith("corpus-") and len(row["used_by"]) == 1 for row in rows for name in row["used_by"])
    assert "corpus-" in hanlin("cache", "ls", "--home", "home").stdout


def test_the_cache_lists_sizes_and_branches(server: HubServer) -> None:
    assert hanlin("cache", "ls").stdout == "the caches are empty\n"
    hanlin("pull", "hf:o/model")
    shown = hanlin("cache", "ls").stdout
    assert "hf:o/model" in shown and f"{COMMIT[:12]} main" in shown and "3.0 KB" in shown and "verified" in shown


@pytest.mark.parametrize("hub", ["hf", "ms"])
def test_what_is_deleted_is_asked_for_and_then_gone(server: HubServer, hub: str, tmp_path: Path) -> None:
    server.repositories["o/model"].branch = "main" if hub == "hf" else "master"
    hanlin("pull", f"{hub}:o/model")
    with pytest.raises(UserError, match="nothing is deleted unasked"):
        hanlin("cache", "rm", f"{hub}:o/model")
    assert "nothing was deleted" in hanlin("cache", "rm", f"{hub}:o/model", "--dry-run").stdout
    assert len(json.loads(hanlin("cache", "ls", "--json").stdout)) == 1
    assert "3.0 KB freed" in hanlin("cache", "rm", f"{hub}:o/model@{COMMIT}", "--yes").stdout
    assert [path for path in (tmp_path / hub).rglob("*") if path.is_file() and "o--model" in str(path)] == []
    with pytest.raises(UserError, match="the cache does not hold it"):
        hanlin("cache", "rm", f"{hub}:o/model", "--yes")


@pytest.mark.parametrize("hub", ["hf", "ms"])
def test_what_is_being_fetched_is_not_deleted(server: HubServer, hub: str, tmp_path: Path) -> None:
    server.repositories["o/model"].branch = "main" if hub == "hf" else "master"
    folder = Path(json.loads(hanlin("pull", f"{hub}:o/model", "--json").stdout)["folder"])
    with (
        FileLock(folder.parent.parent / ".hanlin" / "lock"),
        pytest.raises(UserError, match="another command is fetching"),
    ):
        hanlin("cache", "rm", f"{hub}:o/model", "--yes")
    assert (folder / "config.json").is_file()


def test_a_damaged_folder_of_the_cache_is_told_and_left_alone(server: HubServer, tmp_path: Path) -> None:
    folder = Path(json.loads(hanlin("pull", "hf:o/model", "--json").stdout)["folder"])
    (folder.parent.parent / "refs" / "other").write_text("9" * 40, encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        hanlin("cache", "rm", "hf:o/model", "--yes")
    assert (folder / "config.json").is_file()


def test_a_file_that_was_changed_in_the_cache_shows(server: HubServer, tmp_path: Path) -> None:
    folder = Path(json.loads(hanlin("pull", "ms:o/model@" + COMMIT, "--json").stdout)["folder"])
    (folder / "config.json").write_bytes(b"[]")
    (row,) = json.loads(hanlin("cache", "ls", "--json").stdout)
    assert row["state"] == "changed"
