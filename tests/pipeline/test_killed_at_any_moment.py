"""The pipeline survives kill -9: whatever moment it is killed at, the next run goes on and ends with the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "short_pipeline.yaml"
KILLS = 20


def command(home: Path) -> list[str]:
    return [sys.executable, "-m", "hanlin", "run", str(RECIPE), "--home", str(home)]


def weights_of(home: Path) -> dict[str, str]:
    """The hash of every file of every whole artifact but its manifest (which holds dates and seconds)."""
    found = {}
    for artifact in sorted((home / "artifacts").iterdir()):
        if artifact.is_dir() and not artifact.name.startswith(".") and not artifact.name.endswith(".partial"):
            for file in sorted(artifact.rglob("*")):
                if file.is_file() and file.name != "manifest.json":
                    name = f"{artifact.name}/{file.relative_to(artifact)}"
                    found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def visible_artifacts_are_whole(home: Path) -> None:
    for artifact in (home / "artifacts").glob("*"):
        if artifact.is_dir() and not artifact.name.startswith(".") and not artifact.name.endswith(".partial"):
            manifest = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
            for entry in manifest["files"]:
                data = (artifact / entry["path"]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == entry["sha256"], f"{artifact.name}/{entry['path']}"


@pytest.mark.slow
def test_a_pipeline_killed_at_twenty_random_moments_ends_with_the_same_bytes(tmp_path: Path) -> None:
    seed = int(os.environ.get("HANLIN_KILL_SEED", random.SystemRandom().randrange(10**6)))
    print(f"HANLIN_KILL_SEED={seed}")
    moments = random.Random(seed)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    begun = time.monotonic()
    subprocess.run(command(unbroken), check=True, cwd=ROOT)
    length = time.monotonic() - begun
    kills = 0
    while kills < KILLS:
        process = subprocess.Popen(command(broken), cwd=ROOT, start_new_session=True)
        try:
            process.wait(timeout=moments.uniform(0.3, length))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            if (broken / "artifacts").is_dir():
                visible_artifacts_are_whole(broken)
        else:
            assert process.returncode == 0
            shutil.rmtree(broken)  # it came through: begin anew, so that there is more to kill
    subprocess.run(command(broken), check=True, cwd=ROOT)
    assert weights_of(broken) == weights_of(unbroken)
