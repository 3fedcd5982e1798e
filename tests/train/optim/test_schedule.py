"""The learning rate over the steps, and which weights decay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.preference import Dpo
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.train.optim.schedule import learning_rate_at, parameter_groups

SFT = Sft(model="m", data=("d",), learning_rate=1.0, warmup_ratio=0.1)


def rates(**changes: object) -> list[float]:
    settings = SFT.model_copy(update=changes)
    return [learning_rate_at(step, 100, settings) for step in range(100)]


def test_it_rises_to_its_peak_and_never_is_zero() -> None:
    found = rates()
    assert 0 < found[0] < found[9] < found[10] == max(found) == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_to_its_final_share(schedule: str) -> None:
    found = rates(lr_scheduler=schedule, min_lr_ratio=0.1)
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] == pytest.approx(0.1, abs=0.015)


def test_half_way_down_a_cosine_is_half_the_height() -> None:
    assert rates(warmup_ratio=0.0)[50] == pytest.approx(0.5)


def test_a_constant_rate_stays() -> None:
    assert set(rates(lr_scheduler="constant")[10:]) == {1.0}


def test_an_adapter_learns_faster_by_default_than_all_weights() -> None:
    for kind in (Pretrain, Sft, Dpo):
        whole = kind(model="m", data=("d",))
        assert whole.model_copy(update={"lora": LoraSettings()}).peak_learning_rate == pytest.approx(
            10 * whole.peak_learning_rate
        )


def test_norms_and_embeddings_do_not_decay(make_model: Callable) -> None:
    settings = Pretrain(model="m", data=("d",), max_seq_length=64)
    trained = list(make_model(settings).trainable_parameters())
    decaying, kept = parameter_groups(trained, 0.1)
    names = {id(parameter): name for name, parameter in trained}
    assert decaying["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0
    assert all("proj" in names[id(parameter)] for parameter in decaying["params"])
    assert {names[id(p)].split(".")[-2] for p in kept["params"]} == {
        "embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm",
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [{"batch_tokens": 16, "max_seq_length": 32}, {"betas": (0.9, 1.0)}, {"max_steps": 40}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        Sft(model="m", data=("d",), **wrong)
