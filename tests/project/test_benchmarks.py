"""Benchmarks name what exists, and those for rare machines run at a small shape."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.mark.slow
def test_the_gpu_benchmark_runs_at_a_small_shape_without_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "train_gpu.py"), "--toy", "--rounds", "1", "--steps", "3"]
    environment = {**os.environ, "HANLIN_TRL": ""}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["toy"] and set(result) >= {"lora", "qlora", "full"}
    for way in ("lora", "qlora", "full"):
        assert result[way]["hanlin"]["loss"] == pytest.approx(7.62, abs=0.1)  # log 2048: random weights


def test_every_name_that_a_benchmark_imports_is_there() -> None:
    """Benchmarks run seldom, so a rename would be noticed late."""
    missing = []
    for file in sorted(BENCH.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hanlin."):
                module = importlib.import_module(str(node.module))
                for name in (alias.name for alias in node.names):
                    if not hasattr(module, name) and importlib.util.find_spec(f"{node.module}.{name}") is None:
                        missing.append(f"{file.name}: {node.module}.{name}")
    assert missing == []


def calls_of(file: Path, name: str) -> list[ast.Call]:
    """The calls of a function or method in a file."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return [call for call in calls if name in (getattr(call.func, "attr", ""), getattr(call.func, "id", ""))]


def test_every_number_and_path_that_a_benchmark_takes_is_checked() -> None:
    """`int` takes -1, `Path` what is not there: both end in a traceback minutes later."""
    bare = []
    for file in sorted(BENCH.glob("*.py")):
        for call in calls_of(file, "add_argument"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if given.get("type") in ("int", "float", "Path") and given.get("help") != "argparse.SUPPRESS":
                bare.append(f"{file.name}: {ast.unparse(call.args[0])}")
    assert bare == ["worth.py: 'gguf'", "worth.py: '--data'"]  # not needed for a table; `main` checks them


def test_every_benchmark_says_what_is_wrong_in_place_of_a_traceback() -> None:
    unguarded = []
    for file in sorted(BENCH.glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and "run_main(main)" not in text:
            unguarded.append(file.name)
    assert unguarded == []


HERE = "{here}"
BAD_COMMAND_LINES = [
    ("checkpoint_pause", [HERE], "no model folder: it has no config.json"),
    ("data", ["--megabytes", "0"], "--megabytes: 0 is not above 0"),
    ("data", ["--megabytes", "2", "--share", "4"], "--share is a part of --megabytes"),
    ("data_scale", ["--folder", f"{HERE}/none"], "does not exist"),
    ("data_scale", ["--cores", "0"], "--cores: 0 is no whole number from 1"),
    ("decontamination_quality", ["--questions", f"{HERE}/none"], "does not exist"),
    ("dedup_quality", ["--documents", "10", "--planted", "10"], "--planted is less than --documents"),
    ("draw_held_out", ["--repos", HERE, "--sources", f"{HERE}/file", "--out", HERE], "and a file is to be written"),
    ("engine_process", [f"{HERE}/file"], "is a file, and a folder is needed"),
    ("extended_models", [f"{HERE}/file", "--tokenizer", HERE, "--data", HERE], "cannot be a folder: a file is there"),
    ("fit_advertorials", ["--material", f"{HERE}/rows.jsonl"], "rows.jsonl:2: not JSON"),
    ("fit_advertorials", ["--material", f"{HERE}/file", "--good", f"{HERE}/file=x"], "--good: x is no number"),
    ("fuzz_readers", ["--minutes", "nan"], "--minutes: nan is no number"),
    ("ifeval", [HERE], "holds no ifeval_input_data.jsonl"),
    ("language_and_encoding", [], "name --material, --encodings or --clean"),
    ("language_and_encoding", ["--material", f"{HERE}/rows.jsonl"], "rows.jsonl:2: not JSON"),
    ("learn_entries", [HERE, HERE, "-5"], "-5"),
    ("memory_estimate", ["none"], "no such case: none"),
    ("merge", ["--rounds", "0"], "--rounds: 0 is no whole number from 1"),
    ("new_rows", [HERE, HERE, HERE, HERE, "--rates", "1e-4,x"], "--rates: x is no number"),
    ("new_rows", [HERE, HERE, HERE, f"{HERE}/file", "--table"], "rows.jsonl:2: not JSON"),
    ("page", [f"{HERE}/none"], "does not exist"),
    ("rendering", [f"{HERE}/file"], "is a file, and a folder is needed"),
    ("rule_precision", ["--material", f"{HERE}/rows.jsonl"], "rows.jsonl:2: not JSON"),
    ("rule_precision", ["--material", f"{HERE}/file", "--rule", "none"], "no label is of the rule 'none'"),
    ("serve_load", [HERE, "x"], "requests: x is no whole number from 1"),
    ("shared_parts", ["--material", f"{HERE}/rows.jsonl"], "rows.jsonl:2: not JSON"),
    ("shared_parts", ["--material", f"{HERE}/file"], "no document of these sources"),
    ("shared_parts", ["--material", f"{HERE}/file", "--containment", "3"], "--containment: 3 is above 1"),
    ("train", ["--parts", "sft,none"], "'none' is not one of sft, dpo"),
    ("train_gpu", ["--ways", "none"], "'none' is not one of lora, qlora, full"),
    ("trim_vocabulary", ["--tokenizer", HERE, "--text", f"{HERE}/file", "--out", HERE], "is not empty"),
    ("worth", [f"{HERE}/none", HERE, "--table"], "rows.jsonl:2: not JSON"),
    ("worth", [f"{HERE}/none", HERE, "--cells", "none"], "'none' is not one of"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "message"), BAD_COMMAND_LINES)
def test_what_means_nothing_is_refused_in_one_sentence(
    name: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("\n{broken\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [name, *(argument.replace(HERE, str(tmp_path)) for argument in arguments)])
    monkeypatch.syspath_prepend(str(BENCH))
    for variable in [variable for variable in os.environ if variable.startswith("HANLIN_")]:
        monkeypatch.delenv(variable)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().err
    assert (end.value.code, message in shown) == (2, True), shown


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        ("export", {"HANLIN_PAIRS": "0"}, "HANLIN_PAIRS: 0 is no whole number from 1"),
        ("export", {}, "set HANLIN_LLAMA_CPP to llama.cpp's built tools"),
        ("imatrix_gain", {}, "set HANLIN_MODEL to the folder of a trained model"),
        ("serve", {"HANLIN_MODEL": HERE}, "no model folder"),
        ("streams", {"HANLIN_MODEL": f"{HERE}/none"}, "HANLIN_MODEL: "),
    ],
)
def test_a_variable_that_means_nothing_is_refused_in_one_sentence(
    name: str,
    variables: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.syspath_prepend(str(BENCH))
    for variable in [variable for variable in os.environ if variable.startswith("HANLIN_")]:
        monkeypatch.delenv(variable)
    for variable, text in variables.items():
        monkeypatch.setenv(variable, text.replace(HERE, str(tmp_path)))
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(BENCH / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().err
    assert (end.value.code, message in shown) == (2, True), shown
