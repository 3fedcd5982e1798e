"""Checkpoints: whole or not there, known by their hashes, and what stops a run leaves the last good one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.train import Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.train import stages, trainer
from hanlin.train.callbacks import checkpoint
from hanlin.train.callbacks.checkpoint import LIST_FILE, Checkpointer
from hanlin.train.distributed.ddp import DDP
from training_data import conversation, many
from waiting import count_bytes, wait_until

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (pip install 'hanlin[qlora]')"
)
SFT = Sft(
    model="m", data=("d",), max_seq_length=128, batch_tokens=512, steps=4, learning_rate=1e-3, precision="float32",
    save_every_seconds=1e-6,
)  # fmt: skip


def made(value: float) -> DDP:
    """One weight after a step, as a process alone holds it."""
    weight = torch.nn.Parameter(torch.full((4,), float(value)))
    weight.grad = torch.ones(4)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    optimizer.step()
    holder = DDP.__new__(DDP)
    holder.trainable, holder.optimizer = {"w": weight}, optimizer
    return holder


def save(checkpoints: Checkpointer, step: int, seconds: float = 1.0) -> None:
    checkpoints.save(step, seconds, made(step))
    checkpoints.wait()


def newest_step(checkpoints: Checkpointer) -> int | None:
    found = checkpoints.load_newest()
    return None if found is None else found.step


@pytest.fixture
def log_lines() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, log_lines: list[str]) -> Checkpointer:
    return Checkpointer(tmp_path, 60.0, 2, log=log_lines.append)


def test_the_newest_is_taken_and_older_ones_than_were_asked_for_are_gone(checkpoints: Checkpointer) -> None:
    for step in (1, 2, 3):
        save(checkpoints, step, 10.0 * step)
    found = checkpoints.load_newest()
    assert found is not None and (found.step, found.seconds) == (3, 30.0)
    assert torch.equal(found.weights["w"], made(3).trainable["w"])
    again = made(0)
    again.load_optimizer_state(found.optimizer_state)
    assert again.optimizer.state[again.trainable["w"]]["step"] == 1
    names = sorted(path.name for path in checkpoints.folder.iterdir())
    assert names == ["checkpoint-00000002.pt", "checkpoint-00000003.pt", LIST_FILE]


def test_the_first_copy_lies_where_room_was_made_for_it(tmp_path: Path) -> None:
    checkpoints = Checkpointer(tmp_path, 0.0)
    holder = made(7)
    checkpoints.preallocate(holder)
    checkpoints.wait()
    places = {name: held.data_ptr() for name, held in checkpoints._copies._buffers.items()}
    checkpoints.save(1, 1.0, holder)
    checkpoints.wait()
    assert len(places) >= 3  # the weight and both averages
    assert {name: held.data_ptr() for name, held in checkpoints._copies._buffers.items()} == places
    found = checkpoints.load_newest()
    assert found is not None and torch.equal(found.weights["w"], holder.trainable["w"])


def test_no_room_is_made_long_before_the_first_copy(checkpoints: Checkpointer) -> None:
    checkpoints.preallocate(made(7))
    assert checkpoints._copies._buffers == {}


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_newest_is_noticed_and_the_one_before_taken(
    damage: str, checkpoints: Checkpointer, log_lines: list[str]
) -> None:
    for step in (1, 2):
        save(checkpoints, step)
    newest = checkpoints.folder / "checkpoint-00000002.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        newest.unlink()
    else:
        newest.write_bytes(data if damage == "flip" else data[:-100])
    assert newest_step(checkpoints) == 1
    assert len(log_lines) == 1 and "step 2 is damaged" in log_lines[0]


def test_when_all_are_damaged_the_run_starts_anew(checkpoints: Checkpointer, log_lines: list[str]) -> None:
    save(checkpoints, 1)
    (checkpoints.folder / "checkpoint-00000001.pt").write_bytes(b"")
    assert newest_step(checkpoints) is None
    assert log_lines


def test_a_file_that_no_list_names_does_not_count(checkpoints: Checkpointer) -> None:
    """A kill between the file and the list."""
    save(checkpoints, 1)
    rows = (checkpoints.folder / LIST_FILE).read_bytes()
    save(checkpoints, 2)
    (checkpoints.folder / LIST_FILE).write_bytes(rows)
    assert newest_step(checkpoints) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_stops_and_keeps_the_last_good_one(checkpoints: Checkpointer) -> None:
    save(checkpoints, 1)
    (checkpoints.folder / "checkpoint.writing").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save(checkpoints, 2)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["checkpoint-00000001.pt", LIST_FILE]
    assert newest_step(checkpoints) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_run_on_a_full_disk_keeps_its_last_checkpoint_and_goes_on_when_there_is_room(
    tmp_path: Path, inputs: Callable[..., Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanlin.train.callbacks.checkpoint.MIN_INTERVAL_RATIO", 0.0)
    given = inputs(many(conversation, 12))
    settings = SFT.model_copy(update={"save_total_limit": 3, "steps": 20})
    whole, small = tmp_path / "whole", tmp_path / "small"
    whole.mkdir()
    stages.sft(settings, given, whole, StageContext())
    size = next((whole / ".work").glob("checkpoint-*.pt")).stat().st_size
    small.mkdir()
    room = int(2.5 * size)  # for two checkpoints, and no third
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(small)]).returncode:
        pytest.skip("this root may not mount")
    try:
        with pytest.raises(OSError, match="No space left"):
            stages.sft(settings, given, small, StageContext())
        listed = json.loads((small / ".work" / LIST_FILE).read_text(encoding="utf-8"))
        assert 1 <= len(listed) <= 2
        assert [row["sha256"] for row in listed] == [
            checkpoint.sha256_of(small / ".work" / row["file"]) for row in listed
        ]
        assert not list((small / ".work").glob("*.writing"))
        subprocess.run(["mount", "-o", f"remount,size={20 * size}", str(small)], check=True)
        stages.sft(settings, given, small, StageContext())
        assert (small / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        assert (small / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)  # the rows are still mapped


def test_training_goes_on_while_a_copy_is_written(checkpoints: Checkpointer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file holds what was when it was begun, and the next copy waits for it."""
    may_write = threading.Event()
    written = checkpoint.save_with_sha256

    def slowly(state: dict[str, Any], file: Path) -> str:
        assert may_write.wait(300)
        return written(state, file)

    monkeypatch.setattr(checkpoint, "save_with_sha256", slowly)
    holder = made(1)
    before = holder.trainable["w"].detach().clone()
    checkpoints.save(1, 1.0, holder)
    assert newest_step(checkpoints) is None and not checkpoints.is_due()
    with torch.no_grad():
        holder.trainable["w"].fill_(5.0)
    threading.Timer(0.2, may_write.set).start()
    checkpoints.save(2, 2.0, holder)
    first = torch.load(checkpoints.folder / "checkpoint-00000001.pt", weights_only=True)
    assert torch.equal(first["weights"]["w"], before)
    checkpoints.wait()
    found = checkpoints.load_newest()
    assert found is not None and found.step == 2 and torch.equal(found.weights["w"], torch.full((4,), 5.0))


@pytest.mark.parametrize(
    "more",
    [
        {},
        pytest.param({"optimizer": "adamw_8bit"}, marks=needs_bitsandbytes),
        {"train_last_layers": 1, "trainable_tokens": 390},
        {"trainable_tokens": 390, "lora": LoraSettings(rank=2, loraplus_lr_ratio=4.0)},
        {"neftune_noise_alpha": 5.0, "lora": LoraSettings(rank=2, init="pissa_fast")},
    ],
    ids=["whole", "eight_bits", "last_layers_and_rows", "rows_beside_lora_plus", "pissa_and_noise"],
)
def test_a_run_goes_on_from_the_one_before_to_the_same_weights(
    more: dict[str, Any],
    tmp_path: Path,
    inputs: Callable[..., Inputs],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hanlin.train.callbacks.checkpoint.MIN_INTERVAL_RATIO", 0.0)
    monkeypatch.setattr("hanlin.train.callbacks.checkpoint.FIRST_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(
        checkpoint.BackgroundWriter, "start", lambda self, write: write()
    )  # so that no step goes without
    given = inputs(many(conversation, 12))
    settings = SFT.model_copy(update=more)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for out in (whole, broken):
        out.mkdir()
        stages.sft(settings, given, out, StageContext())
    files = sorted((broken / ".work").glob("checkpoint-*.pt"))
    assert [file.name for file in files] == ["checkpoint-00000003.pt", "checkpoint-00000004.pt"]
    files[1].write_bytes(files[1].read_bytes()[:-1])
    weights = "adapter_model.safetensors" if "lora" in more else "model.safetensors"
    (broken / weights).unlink()
    stages.sft(settings, given, broken, StageContext(progress=Progress("sft")))
    assert "step 4 is damaged" in capsys.readouterr().err
    if more.get("optimizer") == "adamw_8bit":  # on a CPU bitsandbytes rounds otherwise from run to run, seen under load
        found, expected = (load_file(out / weights) for out in (broken, whole))
        assert all(torch.allclose(found[name], expected[name], atol=1e-3) for name in expected)
        return
    assert (broken / weights).read_bytes() == (whole / weights).read_bytes()
    assert (broken / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_gradient_explodes_when_it_is_far_beyond_what_was_usual() -> None:
    usual = [2.0] * 40
    assert not trainer.grad_norm_spiked(1500.0, usual, 1.0) and trainer.grad_norm_spiked(2500.0, usual, 1.0)
    assert not trainer.grad_norm_spiked(2500.0, usual[:10], 1.0)  # too few to know
    assert not trainer.grad_norm_spiked(1.0, [1e-4] * 40, 1.0)  # it is below the limit to which all are shortened


def test_an_exploding_gradient_stops_the_run_and_keeps_the_records(
    tmp_path: Path, inputs: Callable[..., Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "GRAD_NORM_WINDOW", 5)
    monkeypatch.setattr(trainer, "GRAD_NORM_SPIKE", 1e-3)
    with pytest.raises(UserError, match="gradient norm of step 2") as caught:
        stages.sft(
            SFT.model_copy(update={"max_grad_norm": 1e-3}), inputs(many(conversation, 12)), tmp_path, StageContext()
        )
    kept = json.loads((tmp_path / ".work" / "stopped_at.json").read_text(encoding="utf-8"))["records"]
    assert kept and all(name in str(caught.value.where) for name in kept)


def hear_interrupts() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("to", ["the_command", pytest.param("its_group", marks=pytest.mark.slow)])
def test_ctrl_c_saves_and_ends_with_130_and_the_same_command_goes_on(to: str, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: stopped
stages:
  world: {{ kind: demo_world, passages: 120, exchanges: 300, pairs: 60, questions: 60 }}
  chats: {{ kind: conversations, sources: [world/chats] }}
  tuned:
    kind: sft
    model: {tiny_model}
    data: chats
    max_seq_length: 128
    batch_tokens: 128
    steps: 300
    precision: float32
    save_every_seconds: 1000
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "hanlin", "run", str(tmp_path / "recipe.yaml"), "--home", str(tmp_path / "h")]
    how: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "process_group": 0}
    run = subprocess.Popen(command, **how, preexec_fn=hear_interrupts)  # noqa: PLW1509

    def has_logged_a_step() -> bool:
        assert run.poll() is None, run.communicate()[1]
        return count_bytes(tmp_path, "metrics.jsonl") > 0

    wait_until(has_logged_a_step)
    (run.send_signal if to == "the_command" else lambda number: os.killpg(run.pid, number))(signal.SIGINT)
    _, said = run.communicate(timeout=300)
    assert run.returncode == 130, said
    assert "saved after step" in said
    (listed,) = tmp_path.rglob(LIST_FILE)
    saved = json.loads(listed.read_text(encoding="utf-8"))[0]["step"]
    assert 0 < saved < 300
    if to == "its_group":
        return
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (model,) = (tmp_path / "h" / "artifacts").rglob("model.safetensors")
    assert load_file(model)
