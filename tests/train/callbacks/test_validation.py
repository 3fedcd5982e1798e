"""Held-out records are measured and not learned; the best weights are those of the step that had the least loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.preference import Dpo, Kto, Orpo
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import write_jsonl
from hanlin.train import stages
from hanlin.train.callbacks.validation import Validation, best_step
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext
from hanlin.train.objectives.next_token import NextToken
from training_data import CPU, conversation, document, many, preference, unpaired_preference

BASE = {"model": "m", "data": ("d",), "max_seq_length": 128, "precision": "float32", "eval_steps": 2}
SFT = {**BASE, "batch_tokens": 256, "learning_rate": 3e-2, "lr_scheduler": "constant", "warmup_ratio": 0.0}


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def split(inputs: Callable[..., Inputs]) -> Callable[..., Inputs]:
    """Inputs whose last records are held out."""

    def of(records: list, held: int) -> Inputs:
        given = inputs(records[:-held])
        write_jsonl(given.paths("data")[0] / "validation.jsonl", records[-held:])
        return given

    return of


@pytest.mark.parametrize(
    ("kind", "settings", "record"),
    [
        ("pretrain", Pretrain(**BASE, batch_tokens=256, steps=4), document),
        ("sft", Sft(**SFT, steps=4, neftune_noise_alpha=5.0, lora=LoraSettings(rank=2, dropout=0.3)), conversation),
        ("dpo", Dpo(**BASE, batch_pairs=4, steps=4), preference),
        ("orpo", Orpo(**BASE, batch_pairs=4, steps=4), preference),
        ("kto", Kto(**BASE, batch_answers=4, steps=4), unpaired_preference),
    ],
)
def test_every_kind_measures_what_is_held_out(
    kind: str, settings: Any, record: Callable, tmp_path: Path, split: Callable[..., Inputs]
) -> None:
    metrics = getattr(stages, kind)(settings, split(many(record, 12), 4), tmp_path, StageContext())
    rows = rows_of(tmp_path)
    assert ["validation_loss" in row for row in rows] == [False, True, False, True]
    assert metrics["validation_records"] == 4 and metrics["records"] == 8
    assert metrics["validation_loss"]["last"] == rows[-1]["validation_loss"] > 0
    assert ("validation_accuracy" in rows[1]) == (kind in ("dpo", "orpo", "kto"))


def test_the_held_out_loss_is_the_plain_loss_and_nothing_is_left_behind(
    make_model: Callable[..., TrainModel], encoded: Callable, template: ChatTemplate
) -> None:
    store = encoded(many(conversation, 5), ChatEncoder(template, 128, "drop").conversations)
    train_model = make_model(Sft(**SFT, lora=LoraSettings(rank=2, dropout=0.5)))
    train_model.hf_model.train()
    found = Validation(PackedDataset.pack_examples(store, 128), NextToken(), 1, None).measure(
        train_model, DistContext(0, 1, CPU), 128
    )
    total = count = 0.0
    model = train_model.hf_model.eval()
    for first, last in zip(store.starts[:-1], store.starts[1:], strict=True):
        ids = torch.from_numpy(store.ids[first:last].astype("int64"))
        learn = torch.from_numpy(store.loss_mask[first + 1 : last].copy())
        logits = model(input_ids=ids[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(logits[learn], ids[1:][learn], reduction="sum").item()
        count += int(learn.sum())
    assert found == pytest.approx({"validation_loss": total / count}, rel=1e-5)
    assert all(weight.grad is None for _, weight in train_model.trainable_parameters())


def test_validation_changes_no_weight(tmp_path: Path, split: Callable[..., Inputs]) -> None:
    given = split(many(conversation, 12), 4)
    files = []
    for every in (1, None):
        out = tmp_path / str(every)
        out.mkdir()
        settings = Sft(**{**SFT, "eval_steps": every}, steps=4, lora=LoraSettings(rank=2, dropout=0.3))
        stages.sft(settings, given, out, StageContext())
        files.append((out / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("killed", [False, True], ids=["unbroken", "killed"])
def test_training_stops_when_nothing_gets_better_and_the_best_weights_are_saved(
    killed: bool, tmp_path: Path, split: Callable[..., Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanlin.train.callbacks.checkpoint.MIN_INTERVAL_RATIO", 0.0)
    monkeypatch.setattr("hanlin.train.callbacks.checkpoint.FIRST_SAVE_SECONDS", 0.0)
    given = split(many(conversation, 12), 4)
    settings = Sft(**SFT, steps=200, early_stopping_patience=2, save_best=True, save_every_seconds=1e-6)
    out, short = tmp_path / "out", tmp_path / "short"
    out.mkdir()
    short.mkdir()
    metrics = stages.sft(settings, given, out, StageContext())
    if killed:  # just before its end, the newest checkpoint lost
        whole = (out / "model.safetensors").read_bytes()
        newest = max((out / ".work").glob("checkpoint-*.pt"))
        newest.write_bytes(b"")
        metrics = stages.sft(settings, given, out, StageContext())
        assert (out / "model.safetensors").read_bytes() == whole
    best = metrics["best_step"]
    assert metrics["steps"] == best + 4 < 200
    assert metrics["validation_loss"]["best"] < metrics["validation_loss"]["last"]
    stages.sft(
        settings.model_copy(update={"steps": best, "early_stopping_patience": None, "save_best": False}),
        given,
        short,
        StageContext(),
    )
    kept, last = (load_file(folder / "model.safetensors") for folder in (out, short))
    assert all(torch.equal(weight, last[name]) for name, weight in kept.items())
    assert len(list((out / ".work").glob("best-*.pt"))) <= 2


def test_the_first_of_equal_losses_is_the_best_and_what_is_no_number_never_is() -> None:
    losses = [float("nan"), 2.0, 1.5, 1.5, 3.0]
    assert best_step([{"step": step, "validation_loss": loss} for step, loss in enumerate(losses)]) == 2
    assert best_step([{"step": 1}]) is None


def test_measuring_needs_records_that_are_held_out(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    with pytest.raises(UserError, match=r"validation\.jsonl") as caught:
        stages.sft(Sft(**SFT), inputs(many(conversation, 4)), tmp_path, StageContext())
    assert "validation_fraction" in str(caught.value.hint)


@pytest.mark.parametrize("more", [{"early_stopping_patience": 1}, {"save_best": True}])
def test_what_is_best_must_be_measured(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="eval_steps"):
        Sft(**{**SFT, "eval_steps": None}, **more)
