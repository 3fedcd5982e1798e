"""Many clients at once: no answer lost, none given to another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "serve_load.py"


@pytest.mark.slow
def test_six_hundred_requests_of_sixty_four_clients_in_five_forms_get_each_its_own_answer(long_gguf: Path) -> None:
    """A short run of the benchmark, which sends 5,000 requests, with a model whose answers differ."""
    command = [sys.executable, str(BENCH), str(long_gguf / "model-F32.gguf"), "600", "64", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["requests"], result["wrong_or_lost"]) == (600, 0), done.stdout
    assert result["different_answers"] > 4
