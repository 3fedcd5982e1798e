"""The loop: how a step is divided changes nothing, and a killed run ends as an unbroken one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.preference import Dpo, Kto
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.train import stages, trainer
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.dataset.sampler import Sampler
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.ddp import DDP
from hanlin.train.objectives.next_token import NextToken
from launching import launch
from training_data import CPU, conversation, document, many, preference, unpaired_preference

SFT = Sft(
    model="m",
    data=("d",),
    max_seq_length=128,
    batch_tokens=512,
    micro_batch_tokens=512,
    epochs=2,
    learning_rate=1e-3,
    precision="float32",
)
ALONE = DistContext(0, 1, CPU)


def trained_weights(
    tmp_path: Path, make_model: Callable, rows: PackedDataset, settings: Sft, steps: int = 3
) -> dict[str, torch.Tensor]:
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    model = make_model(settings)
    sampler = Sampler.for_batch_size(len(rows.samples), 4, seed=1)
    settings = settings.model_copy(update={"steps": steps})
    trainer.train(
        model, NextToken(), rows, sampler, settings=settings, dist=ALONE, context=StageContext(seed=1), out=out
    )
    return {name: parameter.detach().clone() for name, parameter in model.trainable_parameters()}


def test_two_halves_accumulated_equal_one_whole(
    tmp_path: Path, make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    store = encoded(many(conversation, 16), ChatEncoder(template, 128, "drop").conversations)
    rows = PackedDataset.pack_examples(store, 128)
    whole = trained_weights(tmp_path, make_model, rows, SFT)
    halves = trained_weights(tmp_path, make_model, rows, SFT.model_copy(update={"micro_batch_tokens": 128}))
    for name, weight in whole.items():
        torch.testing.assert_close(halves[name], weight, atol=1e-5, rtol=1e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    given = inputs(many(conversation, 12))
    settings = SFT.model_copy(update={"lora": LoraSettings(rank=4, dropout=0.1)})
    files = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"run-{number}"
        out.mkdir()
        stages.sft(settings, given, out, StageContext(seed=seed))
        files.append((out / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_longer_gradient_is_shortened_to_the_limit(
    tmp_path: Path, make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    rows = PackedDataset.pack_examples(
        encoded(many(conversation, 8), ChatEncoder(template, 128, "drop").conversations), 128
    )
    model = make_model(SFT)
    sums = trainer.compute_gradients(
        model, NextToken(), rows, Sampler.for_batch_size(len(rows.samples), 4, 1).step_indices(0), 512
    )
    settings = SFT.model_copy(update={"max_grad_norm": 0.25})
    norm = DDP(model, settings, ALONE).reduce_and_clip_grads(sums, "target_tokens")
    shortened = torch.nn.utils.get_total_norm([parameter.grad for _, parameter in model.trainable_parameters()])
    assert norm > 0.25 and shortened.item() == pytest.approx(0.25, rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_records(
    tmp_path: Path, make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    rows = PackedDataset.pack_examples(
        encoded(many(conversation, 3), ChatEncoder(template, 128, "drop").conversations), 128
    )
    model = make_model(SFT)
    with torch.no_grad():
        next(iter(model.trainable_parameters()))[1].fill_(float("nan"))
    with pytest.raises(UserError, match="finite") as caught:
        sampler = Sampler.for_batch_size(len(rows.samples), 4, 1)
        trainer.train(model, NextToken(), rows, sampler, settings=SFT, dist=ALONE, context=StageContext(), out=tmp_path)
    assert "chat-" in str(caught.value.where)


def test_the_loss_falls(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    metrics = stages.sft(
        SFT.model_copy(update={"epochs": 8, "learning_rate": 3e-3}),
        inputs(many(conversation, 12)),
        tmp_path,
        StageContext(),
    )
    assert metrics["loss"]["last"] < 0.8 * metrics["loss"]["first"]


# ------------------------------------------------------------------------------------------------------- killed runs

RUNS: dict[str, tuple[Training, Callable[[int], object]]] = {
    "pretrain": (
        Pretrain(model="m", data=("d",), max_seq_length=32, batch_tokens=128, epochs=8, learning_rate=1e-3),
        document,
    ),
    "sft": (SFT.model_copy(update={"epochs": 12, "lora": LoraSettings(rank=4, dropout=0.1)}), conversation),
    "dpo": (
        Dpo(
            model="m", data=("d",), max_seq_length=128, batch_pairs=2, epochs=6, learning_rate=1e-4, precision="float32"
        ),
        preference,
    ),
    "kto": (
        Kto(
            model="m",
            data=("d",),
            max_seq_length=128,
            batch_answers=2,
            epochs=4,
            learning_rate=1e-4,
            precision="float32",
        ),
        unpaired_preference,
    ),
}


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=() if stage in ("sft", "dpo") else pytest.mark.slow) for stage in RUNS]
)
def test_a_killed_run_resumes_to_the_same_weights(stage: str, tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    settings, make = RUNS[stage]
    settings = settings.model_copy(update={"save_every_seconds": 0.02})
    launch(stage, settings, inputs(many(make, 12)), tmp_path / "runs", "killed_once")
    unbroken, broken = (tmp_path / "runs" / name for name in ("unbroken", "broken"))
    killed_at = json.loads((tmp_path / "runs" / "checkpoints.json").read_text(encoding="utf-8"))[0]["step"]
    assert 0 < killed_at < len((unbroken / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    names = sorted(path.name for path in unbroken.iterdir() if path.is_file())
    assert names == sorted(path.name for path in broken.iterdir() if path.is_file())
    assert [name for name in names if (unbroken / name).read_bytes() != (broken / name).read_bytes()] == []


@pytest.mark.slow
def test_a_run_killed_at_thirty_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    settings = SFT.model_copy(update={"epochs": 40, "save_every_seconds": 0.02})
    print(launch("sft", settings, inputs(many(conversation, 12)), tmp_path / "runs", "killed_often").stdout)
    unbroken, broken = (tmp_path / "runs" / name for name in ("unbroken", "broken"))
    names = sorted(path.name for path in unbroken.iterdir() if path.is_file())
    assert names == sorted(path.name for path in broken.iterdir() if path.is_file())
    assert [name for name in names if (unbroken / name).read_bytes() != (broken / name).read_bytes()] == []


def test_a_group_that_did_not_form_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="2 processes were launched"):
        DistContext.initialize()
