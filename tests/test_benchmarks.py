"""Benchmarks that need a machine which few have are whole programs all the same: they run at a small shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.mark.slow
def test_training_on_a_gpu_is_tried_at_a_small_shape_without_one(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "train_gpu.py"), "--toy", "--rounds", "1", "--steps", "3"]
    environment = {**os.environ, "HANLIN_TRL": ""}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["toy"] and set(told) >= {"lora", "qlora", "full"}
    for way in ("lora", "qlora", "full"):
        assert told[way]["hanlin"]["loss"] == pytest.approx(7.62, abs=0.1)  # log 2048: random weights know nothing
