"""Files whose names are not UTF-8 are read and named with escapes; wide tables cost what they weigh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.config.recipe import build_recipe
from hanlin.config.recipe_file import read_recipe
from hanlin.config.settings.data import Corpus
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import build_request
from hanlin.pipeline.worker import _handle_request
from stage_runs import run_stage
from waiting import count_calls, hang_limit

TEXTS = (
    "城东的图书馆里有很多书，欢迎大家常来借阅。\n",
    "春天来了，院子里的桃花和杏花一夜之间都开了。\n",
    "河边的渡口清晨起了薄雾，撑船的老人还没有来。\n",
    "先生带着学生们读书写字，傍晚时分才各自回家。\n",
    "山上的茶园今年收成很好，村里人忙着采摘炒制。\n",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    names = [b"plain.txt", "中文.txt".encode("gb18030"), b"\xff.jsonl", b"\xfe.bin", b"a\nb.txt"]
    for number, name in enumerate(names):
        text = TEXTS[number]
        content = json.dumps({"text": text}) if name.endswith(b"jsonl") else text
        try:
            Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_text(content, encoding="utf-8")
        except OSError:
            pytest.skip("this file system takes UTF-8 names alone")
    return folder


def test_a_stage_reads_files_of_any_name_and_names_them_with_escapes(folder: Path, tmp_path: Path) -> None:
    made = run_stage(Corpus, [folder], tmp_path / "out", min_chars=1, validation_fraction=0.0)
    assert len(made.kept) == 4
    assert "\\xff.jsonl:1" in {row["source"] for row in made.kept}
    shown = json.dumps(made.ledger)
    assert all(json.dumps(name)[1:-1] in shown for name in ("plain.txt", "\\xff.jsonl", "\\xfe.bin"))


def test_a_run_reads_files_of_any_name(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("stages: {c: {kind: corpus, sources: [./data]}}", encoding="utf-8")
    command = [sys.executable, "-m", "hanlin", "run", "r.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "r" / "c" / "manifest.json").read_text(encoding="utf-8"))
    assert "data/\\xff.jsonl" in [entry["path"] for entry in manifest["inputs"][0]["files"]]
    assert plan(read_recipe(file, [f"root={tmp_path}"]), Store(tmp_path))[0].state == "done"


def test_a_broken_file_of_such_a_name_is_named(folder: Path, tmp_path: Path) -> None:
    broken = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jsonl"))
    broken.write_text('{"text": ', encoding="utf-8")
    recipe = build_recipe({"stages": {"c": {"kind": "corpus", "sources": [str(folder)]}}}, "r.yaml")
    store = Store(tmp_path)
    reply = _handle_request(build_request(recipe, plan(recipe, store)[0], store))
    assert str(broken) in reply["user_error"][1]
    json.dumps(reply).encode("utf-8")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@hang_limit()
def test_the_work_for_a_wide_table_grows_with_its_width(tmp_path: Path, ending: str) -> None:
    calls = []
    for width in (5_000, 20_000):
        names = ["text", *(f"c{number}" for number in range(width))]
        values = [TEXTS[0].strip(), *["x"] * width]
        file = tmp_path / f"{width}.{ending}"
        lines = [",".join(names), ",".join(values)]
        text = "\n".join(lines) if ending == "csv" else json.dumps(dict(zip(names, values, strict=True)))
        file.write_text(text, encoding="utf-8")
        calls.append(count_calls(lambda: run_stage(Corpus, [file], tmp_path / f"out-{width}")))  # noqa: B023
    assert calls[1] < 10 * calls[0], "four times the width is sixteen times the work if it is quadratic"


def test_a_refused_file_of_any_name_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.jsonl"):
        path.write_text('{"text": ', encoding="utf-8")
    file = tmp_path / "r.yaml"
    file.write_text("stages: {c: {kind: corpus, sources: [./data]}}", encoding="utf-8")
    command = [sys.executable, "-m", "hanlin", "run", "r.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
