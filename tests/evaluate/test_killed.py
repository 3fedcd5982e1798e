"""An evaluation that is killed with SIGKILL goes on at the question."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.core.resumable import FINISHED_ROWS
from waiting import wait_until


def start(model: Path, data: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hanlin", "evaluate", "--model", str(model), "--tasks", "arc_easy"]
    command += ["--data", str(data), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))


def finish(run: subprocess.Popen[bytes]) -> None:
    _, errors = run.communicate(timeout=500)
    assert run.returncode == 0, errors.decode()[-2000:]


@pytest.mark.slow
def test_a_run_ended_by_sigkill_asks_no_question_twice_and_ends_in_the_same_answers(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"query": f"Question: {'word ' * (200 + 3 * row)}{row}?", "choices": [f"a{row}", "b", "c"], "gold": row % 3}
        for row in range(400)
    ]
    (data / "arc_easy_test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    finish(start(tiny_model, data, tmp_path / "whole"))

    killed = start(tiny_model, data, tmp_path / "killed")
    files: list[Path] = []

    def has_answers() -> bool:
        files[:] = tmp_path.glob(f"**/killed*/**/{FINISHED_ROWS}")
        assert killed.poll() is None, "it ended before it could be killed"
        return bool(files) and files[0].read_bytes().count(b"\n") >= 20

    wait_until(has_answers)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = files[0].read_bytes().split(b"\n")[:-1]
    assert 20 <= len(before) < len(rows)

    again = start(tiny_model, data, tmp_path / "killed")
    after: list[bytes] = []

    def has_more() -> bool:
        if files[0].is_file():
            after[:] = files[0].read_bytes().split(b"\n")[:-1] or after
        return again.poll() is not None

    wait_until(has_more)
    finish(again)
    assert after[: len(before)] == before
    assert len({json.loads(line)[0] for line in after}) == len(after)

    samples = [
        [json.loads(line) for line in (tmp_path / name / "samples-arc_easy.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    for one, other in zip(*samples, strict=True):
        assert one["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)
        assert {**one, "logprobs": []} == {**other, "logprobs": []}
