"""The curve's file, and TensorBoard's form of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.train.callbacks.metrics_log import MetricsLog, read_metrics, write_tensorboard


def written(path: Path, steps: int) -> Path:
    with MetricsLog(path, 0) as log:
        for step in range(1, steps + 1):
            log.append({"step": step, "loss": 1 / step, "tokens": 10})
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert [row["step"] for row in read_metrics(written(tmp_path / "metrics.jsonl", 5))] == [1, 2, 3, 4, 5]


def test_a_resumed_curve_keeps_only_the_steps_of_its_checkpoint(tmp_path: Path) -> None:
    path = written(tmp_path / "metrics.jsonl", 5)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')
    with MetricsLog(path, 3) as log:
        log.append({"step": 4, "loss": 9.0, "tokens": 10})
        assert log.total("tokens") == 40
    assert [row["loss"] for row in read_metrics(path)] == [1, 1 / 2, 1 / 3, 9.0]


def test_a_curve_that_lacks_its_checkpoint_s_steps_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="9 steps"):
        MetricsLog(written(tmp_path / "metrics.jsonl", 5), 9)


def test_the_ends_are_means_of_a_twentieth(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl", 0) as log:
        for step in range(1, 41):
            log.append({"step": step, "loss": float(step)})
        assert log.first_and_last("loss") == {"first": 1.5, "last": 39.5}


def test_tensorboard_shows_every_step(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert write_tensorboard(written(tmp_path / "metrics.jsonl", 5), tmp_path / "board") == 5
    reader = events.EventAccumulator(str(tmp_path / "board"))
    reader.Reload()
    assert [event.step for event in reader.Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_tensorboard_says_where_there_is_no_curve(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training metrics"):
        write_tensorboard(tmp_path / "metrics.jsonl", tmp_path)
