"""Commands run in a folder that holds modules with the names of Python's, of torch and of Hanlin: none of them runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULES = (
    "random.py",
    "pickle.py",
    "json.py",
    "numpy.py",
    "torch.py",
    "runpy.py",
    "site.py",
    "sitecustomize.py",
    "usercustomize.py",
    "hanlin/__init__.py",
)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of modules that leave a file beside them when they are imported."""
    for name in MODULES:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("open(__file__ + '.ran', 'w').close()\n", encoding="utf-8")
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "hanlin", *words]


def environment() -> dict[str, str]:
    """What a person's terminal has; the empty entries of PYTHONPATH are what `PYTHONPATH=$PYTHONPATH:` leaves."""
    row = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return {**row, "OMP_NUM_THREADS": "1"}


def run(folder: Path, *words: str, expected: int = 0) -> str:
    done = subprocess.run(command(*words), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, done.stderr
    return done.stdout


def ran(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.ran"))


def write_rows(file: Path, count: int) -> Path:
    texts = (f"第{n}天，学堂里开了{n + 3}朵花，先生带大家读书写字，傍晚才回家。" for n in range(count))
    rows = ({"text": text} for text in texts)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_run_imports_nothing_of_the_working_folder(planted: Path) -> None:
    write_rows(planted / "d.jsonl", 3)
    recipe = {"stages": {"c": {"kind": "corpus", "sources": [{"path": "./d.jsonl"}], "dedup": {"method": "none"}}}}
    (planted / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    run(planted, "run", "r.yaml")
    assert (planted / "runs" / "r" / "c" / "documents.jsonl").is_file()
    assert ran(planted) == []


@pytest.mark.slow
def test_workers_on_all_cores_import_nothing_of_the_working_folder(planted: Path) -> None:
    rows = write_rows(planted / "part.jsonl", 100_000)
    os.link(rows, planted / "part-2.jsonl")
    recipe: dict[str, Any] = {"launch": {"threads": 2}}
    recipe["stages"] = {"c": {"kind": "corpus", "sources": [{"path": "./part*.jsonl"}], "dedup": {"method": "exact"}}}
    (planted / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    run(planted, "run", "r.yaml")
    assert ran(planted) == []


@pytest.mark.slow
def test_training_in_a_group_imports_nothing_of_the_working_folder(planted: Path, tiny_model: Path) -> None:
    write_rows(planted / "d.jsonl", 40)
    recipe = {
        "launch": {"processes": 2},
        "stages": {
            "c": {"kind": "corpus", "sources": [{"path": "./d.jsonl"}]},
            "t": {"kind": "pretrain", "model": str(tiny_model), "data": ["c"], "epochs": 1, "max_seq_length": 64},
        },
    }
    (planted / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    run(planted, "run", "r.yaml")
    assert (planted / "runs" / "r" / "t" / "model.safetensors").is_file()
    assert ran(planted) == []


@pytest.mark.slow
def test_export_package_check_and_chat_import_nothing_of_the_working_folder(planted: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, planted / "m")
    run(planted, "template", "check", "m")
    run(planted, "gguf", "--model", "./m", "--types", "Q8_0", "--out", "g")
    run(planted, "package", "./g", "--for", "llama_cpp", "--out", "p")
    run(planted, "chat", "./g", "--message", "你好", "--max-new-tokens", "3")
    assert ran(planted) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["transformers", "llama_cpp"])
def test_a_server_imports_nothing_of_the_working_folder(planted: Path, tiny_model: Path, engine: str) -> None:
    shutil.copytree(tiny_model, planted / "m")
    if engine == "llama_cpp":
        run(planted, "gguf", "--model", "./m", "--types", "Q8_0", "--out", "g")
    words = ["serve", "g" if engine == "llama_cpp" else "m", "--port", "0", "--engine", engine]
    log = planted / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command(*words), cwd=planted, env=environment(), stdout=output, stderr=output)
        try:
            for _ in range(600):
                if "/v1" in log.read_text(encoding="utf-8"):
                    break
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
            assert "/v1" in log.read_text(encoding="utf-8")
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(300)
    assert ran(planted) == []
