"""The fuzzers of `fuzz/`: the inputs that were found first, and a minute of new ones for each in the slow suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    *("gguf", "safetensors", "config", "tokenizer", "sentencepiece", "templates", "adapters", "manifests", "recipes"),
    *("data", "imports", "checkpoints", "requests"),
)


def fuzz(*words: str, seconds: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "fuzz", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)


@pytest.mark.parametrize("name", ["templates", "recipes"])
def test_what_was_found_before_is_refused(name: str, tmp_path: Path) -> None:
    """Those of the fuzzers that load no model, in which a second is enough."""
    done = fuzz(name, "--work", "0", "40", "--out", str(tmp_path), seconds=120)
    assert done.stdout.endswith("done\n"), done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("finding")] == []


def test_the_names_of_the_fuzzers_are_these() -> None:
    assert f"of {', '.join(NAMES)}" in " ".join(fuzz("--help", seconds=60).stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_minute_of_new_inputs_finds_nothing(name: str, tmp_path: Path) -> None:
    """Limits on time and memory of each input are assertions of the fuzzer; the numbers differ from day to day."""
    first = int(os.environ.get("HANLIN_SEED", int(time.time()) // 86_400 * 1_000_000))
    done = fuzz(name, "--minutes", "1", "--seed", str(first), "--out", str(tmp_path), seconds=600)
    (row,) = json.loads(done.stdout.splitlines()[-1])["fuzz"]
    assert row["findings"] == []
    assert row["cases"] > 0
