"""Chunks of work: finished ones are not done again, broken ones are, and the rows are the same either way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.core.resumable import FINISHED_ROWS, process_each, process_in_chunks, read_rows, write_rows
from waiting import wait_until


def doubled(items: Sequence[int]) -> list[dict[str, int]]:
    return [{"twice": 2 * item} for item in items]


Work = Callable[[Sequence[int]], list[dict[str, int]]]


def run(items: Sequence[int], folder: Path, work: Work = doubled) -> list[dict[str, int]]:
    return process_in_chunks(items, 4, folder, work, Progress(quiet=True), unit="items")


def test_rows_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    assert [row["twice"] for row in run(range(10), tmp_path)] == list(range(0, 20, 2))


def test_a_killed_run_does_only_what_was_not_done(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def dies_in_the_third(items: Sequence[int]) -> list[dict[str, int]]:
        asked.append(list(items))
        if 8 in items and len(asked) == 3:
            raise KeyboardInterrupt
        return doubled(items)

    with pytest.raises(KeyboardInterrupt):
        run(range(10), tmp_path, dies_in_the_third)
    resumed = run(range(10), tmp_path, dies_in_the_third)
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [8, 9]]
    assert resumed == doubled(range(10))


class Killed(BaseException):
    pass


def each(count: int, folder: Path, asked: list[list[int]], dies_after: int | None = None) -> list[dict[str, int]]:
    """Double numbers four at a time, the last of each chunk first; dies after so many rows."""

    def work(items: Sequence[int], keep: Callable[[int, dict[str, int]], None]) -> None:
        asked.append(list(items))
        for index in reversed(range(len(items))):
            if sum(map(len, asked[:-1])) + len(items) - 1 - index == dies_after:
                raise Killed
            keep(index, {"twice": 2 * items[index]})

    return process_each(range(count), 4, folder, work, Progress(quiet=True), unit="items")


def test_each_row_outlives_a_kill_and_is_not_asked_for_again(tmp_path: Path) -> None:
    asked: list[list[int]] = []
    with pytest.raises(Killed):
        each(10, tmp_path, asked, dies_after=6)
    assert each(10, tmp_path, asked) == doubled(range(10))
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [8, 9]]
    assert each(10, tmp_path, asked) == doubled(range(10))
    assert len(asked) == 4


@pytest.mark.parametrize(
    "cut", [b'[7, {"twice"', b'[7, {"twice": 14}]', b"\xff\n", b"7\n", b'[99, {"twice": 0}]\n', b'["a", {}]\n']
)
def test_what_a_crash_left_half_written_is_removed_before_more_is_written(tmp_path: Path, cut: bytes) -> None:
    asked: list[list[int]] = []
    with pytest.raises(Killed):
        each(10, tmp_path, asked, dies_after=5)
    with (tmp_path / FINISHED_ROWS).open("ab") as file:
        file.write(cut)
    assert each(10, tmp_path, asked) == doubled(range(10))
    assert asked[2] == [4, 5, 6]
    assert each(10, tmp_path, asked) == doubled(range(10))


@pytest.mark.parametrize("left", [b"", b'{"twice": 0}\n', b"\xff\xfe", b'{"twice": 0}\n{"twi'])
def test_a_chunk_that_a_crash_damaged_is_done_again(tmp_path: Path, left: bytes) -> None:
    run(range(4), tmp_path)
    (tmp_path / "rows-00000.jsonl").write_bytes(left)
    assert run(range(4), tmp_path) == doubled(range(4))


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"answer": "三加四\n等于七\u2028", "ids": [1, 2]}, {"answer": ""}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a":', encoding="utf-8")
    with pytest.raises(UserError, match=r"rows.jsonl:2"):
        read_rows(tmp_path / "rows.jsonl")


def start(model: Path, data: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hanlin", "evaluate", "--model", str(model), "--tasks", "arc_easy"]
    command += ["--data", str(data), "--out", str(out)]
    environment = {**os.environ, "HANLIN_HOME": str(out.parent / f"store-{out.name}")}  # else the result is reused
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


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
        {"query": f"Question: {'word ' * (5 + row % 30)}{row}?", "choices": [f"a{row}", "b", "c"], "gold": row % 3}
        for row in range(1500)
    ]
    (data / "arc_easy_test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    finish(start(tiny_model, data, tmp_path / "whole"))

    killed = start(tiny_model, data, tmp_path / "killed")
    files: list[Path] = []

    def has_answers() -> bool:
        files[:] = (tmp_path / "store-killed").rglob(FINISHED_ROWS)
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
