"""What a run reports while it lasts: every step once, resumed or not, to a file and to trackers on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from hanlin.config.settings.train import Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.train import stages
from hanlin.train.callbacks.trackers import Trackers
from training_data import conversation, many

SFT = Sft(
    model="m", data=("d",), max_seq_length=128, batch_tokens=512, steps=4, learning_rate=1e-3, precision="float32"
)
ROW = {"step": 1, "tokens": 100, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0}


@contextmanager
def opened(trackers: Trackers) -> Iterator[Trackers]:
    trackers.open()
    try:
        yield trackers
    finally:
        trackers.close()


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "speed.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_step_tells_speed_and_memory_beside_the_result(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stages.sft(SFT, inputs(many(conversation, 12)), out, StageContext(log=tmp_path / "log"))
    rows = read_log(tmp_path / "log")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert {"loss", "learning_rate", "grad_norm"} < row.keys()
        assert row["tokens_per_second"] > 0 and row["memory_gb"] > 0
    assert not (out / "speed.jsonl").exists()


def test_a_resumed_run_tells_each_step_once(tmp_path: Path) -> None:
    job = StageContext(log=tmp_path)
    with opened(Trackers(job, tmp_path, SFT, 0, writes=True)) as trackers:
        for step in (1, 2, 3):
            trackers.add({**ROW, "step": step}, 2.0 * step, 1.0)
    with opened(Trackers(job, tmp_path, SFT, 2, writes=True)) as trackers:
        trackers.add({**ROW, "step": 3}, 5.0, 1.0)
    assert [(row["step"], row["tokens_per_second"]) for row in read_log(tmp_path)] == [(1, 50.0), (2, 50.0), (3, 100.0)]


def test_tensorboard_gets_every_step_when_it_happens(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = SFT.model_copy(update={"report_to": ("tensorboard",)})
    with opened(Trackers(StageContext(log=tmp_path), tmp_path, settings, 0, writes=True)) as trackers:
        trackers.add(ROW, 2.0, 1.0)
        trackers.add({**ROW, "step": 2, "loss": 1.0}, 3.0, 1.0)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.0)]
    assert [event.value for event in events.Scalars("train/tokens_per_second")] == [50.0, 100.0]


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_a_tracker_that_is_not_installed_is_named(name: str, tmp_path: Path) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    settings = SFT.model_copy(update={"report_to": (name,)})
    with pytest.raises(UserError, match=f"{name} is not installed"):
        Trackers(StageContext(log=tmp_path), tmp_path, settings, 0, writes=True).open()


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_an_offline_tracker_saves_its_metrics_here(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    settings = SFT.model_copy(update={"report_to": (name,)})
    with opened(Trackers(StageContext(log=tmp_path), tmp_path, settings, 0, writes=True)) as trackers:
        trackers.add(ROW, 2.0, 1.0)
    kept = [file for file in (tmp_path / name).rglob("*") if file.is_file() and file.stat().st_size]
    assert kept
