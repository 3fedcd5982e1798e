"""Benchmarks name what exists, and those for rare machines run at a small shape."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
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
