"""Processes as they start on systems that cannot fork (Windows): the same results, the same sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.config.recipe import Recipe, build_recipe
from hanlin.core.errors import UserError
from hanlin.inference.registry import create_engine
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run import run
from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import _GrammarProcess

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "翰林院在城东，春天的时候院子里开满了花，许多人都来看花。院中有一口老井，井水清凉，夏天的傍晚邻居们在井边乘凉。",
    "先生每天早上打开大门，把桌椅擦干净，等学生们来读书。下雨的日子，他们就坐在廊下，听雨声，写文章，讲从前的故事。",
    "城西有一条小河，河上有一座石桥，桥边住着一位卖豆腐的老人。他每天天不亮就起来磨豆子，香味一直飘到书院里来。",
]
UNDER_SPAWN = (
    "tests/pipeline/test_pipeline.py",
    "tests/pipeline/test_integrity.py",
    "tests/inference/test_engine_process.py",
)


@pytest.fixture
def spawning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANLIN_START", "spawn")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rows = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)
    (tmp_path / "texts.jsonl").write_text(rows, encoding="utf-8")
    stages = {
        "one": {"kind": "corpus", "sources": [str(tmp_path / "texts.jsonl")]},
        "two": {"kind": "corpus", "sources": ["one/documents.jsonl"]},
    }
    return build_recipe({"name": "r", "stages": stages}, "r.yaml")


def test_each_stage_of_a_recipe_is_made_by_a_process_of_its_own(spawning: None, recipe: Recipe, tmp_path: Path) -> None:
    steps = run(recipe, Store(tmp_path / "home"))
    assert [step.state for step in steps] == ["done", "done"]
    kept = [step.manifest.metrics["rows_kept"] for step in steps if step.manifest is not None]
    assert kept == [3, 2]  # the second reads what the first did not set aside for validation


@pytest.mark.slow
def test_a_recipe_makes_the_same_artifacts(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forked = run(recipe, Store(tmp_path / "forked"))
    monkeypatch.setenv("HANLIN_START", "spawn")
    spawned = run(recipe, Store(tmp_path / "spawned"))
    digests = [[step.manifest.digest for step in steps if step.manifest] for steps in (forked, spawned)]
    assert digests[0] == digests[1] and len(digests[0]) == 2


def test_an_engine_in_a_process_tells_what_is_wrong_with_its_model(spawning: None, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError):
        create_engine("llama_cpp", tmp_path / "model.gguf", separate_process=True)


def test_an_engine_whose_process_ends_at_once_is_told(spawning: None, tmp_path: Path) -> None:
    from hanlin.inference.backends.process.pipe import start_child

    process, connection = start_child("hanlin.no_such_module")
    with connection, pytest.raises((EOFError, OSError)):
        connection.recv()
    assert process.wait() == 1
    assert process.stderr is not None
    process.stderr.close()


def test_grammars_are_refused_where_nothing_can_fork(spawning: None, tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="need a system that can fork") as caught:
        _GrammarProcess(tmp_path, ()).connect()
    assert caught.value.status == 501


def test_another_word_than_fork_and_spawn_is_refused(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANLIN_START", "sporn")
    with pytest.raises(UserError, match=r"HANLIN_START: 'sporn' is no way to start processes .*fork or spawn"):
        run(recipe, Store(tmp_path / "home"))


@pytest.mark.slow
@pytest.mark.parametrize("file", UNDER_SPAWN)
def test_what_holds_with_fork_holds_with_spawn(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow", file]
    environment = {**os.environ, "HANLIN_START": "spawn", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:]
