"""Going on from an adapter: its weights, its rows of the vocabulary and its template are what training begins with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.preference import Dpo, Kto
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.train import stages
from training_data import conversation, document, many, preference, unpaired_preference

SFT = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_tokens": 512, "precision": "float32"}
PAIRED = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_pairs": 4, "precision": "float32"}
BARELY = 1e-12
"""A learning rate that moves nothing that float32 could show."""


def sft(**changes: Any) -> Sft:
    return Sft(**{**SFT, "learning_rate": 1e-2, "steps": 2, **changes})


@pytest.fixture
def trained(tmp_path: Path, inputs: Callable[..., Inputs]) -> Callable[..., Path]:
    """The folder of a run on conversations, of the tiny model or another."""

    def of(settings: Sft, name: str = "first", start: Path | None = None, **model: Path) -> Path:
        out = tmp_path / name
        out.mkdir()
        given = dict(inputs(many(conversation, 6), **model).by_field)
        stages.sft(settings, Inputs(given | ({"init_from": (start,)} if start else {})), out, StageContext())
        return out

    return of


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def first_loss(folder: Path) -> float:
    return float(json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])["loss"])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"dropout": 0.1}),
        ({"dora": True}, {"dora": True}),
        ({"rslora": True, "targets": ("v_proj", "q_proj")}, {"rslora": True, "targets": ("q_proj", "v_proj")}),
        ({"modules_to_save": ("norm", "lm_head")}, {"modules_to_save": ("norm", "lm_head")}),
        ({"init": "pissa"}, {"rank": 4, "alpha": 16}),
    ],
    ids=["lora", "dora", "rslora", "modules", "pissa"],
)
def test_training_begins_with_the_weights_of_the_adapter(before: dict, after: dict, trained: Callable) -> None:
    first = trained(sft(lora=LoraSettings(**{"rank": 2, "alpha": 8, **before})))
    lora = LoraSettings(**{"rank": 2, "alpha": 8, **after})
    second = trained(sft(lora=lora, init_from="a", learning_rate=BARELY), "second", first)
    found, wanted = weights(second), weights(first)
    assert found.keys() == wanted.keys() and any(tensor.any() for name, tensor in wanted.items() if "lora_B" in name)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=0, atol=1e-9)
    third = trained(sft(lora=lora, init_from="a"), "third", first)
    assert not torch.equal(weights(third)[name], wanted[name])


def test_rows_of_the_vocabulary_go_on_too(tiny_model: Path, tmp_path: Path, trained: Callable) -> None:
    entries = len(load_file(tiny_model / "model.safetensors")["lm_head.weight"])
    few, more = ({"lora": LoraSettings(rank=2), "trainable_tokens": entries - count} for count in (2, 3))
    first = trained(sft(**few))
    second = trained(sft(**more, init_from="a", learning_rate=BARELY), "second", first)
    base = load_file(tiny_model / "model.safetensors")
    for name, tensor in weights(second).items():
        wanted = weights(first)[name]
        if name.endswith("trainable_tokens_delta"):
            matrix = "lm_head.weight" if "lm_head" in name else "model.embed_tokens.weight"
            wanted = torch.cat([base[matrix][entries - 3 : entries - 2], wanted])
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=1e-9)
    with pytest.raises(UserError, match="rows of the vocabulary"):
        trained(sft(lora=LoraSettings(rank=2), init_from="a"), "third", first)


def test_alignment_goes_on_from_a_tuned_adapter_and_its_template(
    tiny_model: Path, tmp_path: Path, trained: Callable, inputs: Callable[..., Inputs]
) -> None:
    """The reference is the tuned model: the first loss of DPO is log 2."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink()
    lora = LoraSettings(rank=2)
    first = trained(sft(lora=lora, template="llama3"), model=bare)
    given = inputs(many(preference, 4), bare).by_field
    out = tmp_path / "aligned"
    out.mkdir()
    settings = Dpo(**PAIRED, lora=lora, init_from="a", learning_rate=1e-3, steps=1)
    stages.dpo(settings, Inputs({**given, "init_from": (first,)}), out, StageContext())
    assert first_loss(out) == pytest.approx(0.693147, abs=1e-5)
    assert (out / "chat_template.jinja").read_bytes() == (first / "chat_template.jinja").read_bytes()


def test_alignment_goes_on_from_an_adapter_with_dropout(
    tmp_path: Path, trained: Callable, inputs: Callable[..., Inputs]
) -> None:
    """What dropout leaves out of the adapter moves the first loss; without it policy and reference are one model."""
    lora = LoraSettings(rank=2, dropout=0.1)
    first = trained(sft(lora=lora))
    row = {**PAIRED, "lora": lora, "init_from": "a", "learning_rate": 1e-3, "steps": 1}
    answers = {name: value for name, value in row.items() if name != "batch_pairs"}
    runs: tuple[tuple[Any, ...], ...] = (
        (stages.dpo, Dpo(**row), preference, 0.693147),
        (stages.kto, Kto(**answers, batch_answers=4), unpaired_preference, 0.5),
    )
    for run, settings, make, expected in runs:
        out = tmp_path / run.__name__
        out.mkdir()
        run(settings, Inputs({**inputs(many(make, 4)).by_field, "init_from": (first,)}), out, StageContext())
        assert 0 < abs(first_loss(out) - expected) < 0.1


def test_what_does_not_fit_is_refused_before_the_data_is_read(
    tiny_model: Path, tmp_path: Path, trained: Callable, inputs: Callable[..., Inputs]
) -> None:
    lora = LoraSettings(rank=2, alpha=8)
    first = trained(sft(lora=lora, steps=1))
    with pytest.raises(UserError, match="other settings") as refused:
        trained(sft(lora=LoraSettings(rank=4, rslora=True), init_from="a"), "b", first)
    assert "rank: 2, alpha: 8, rslora: false" in str(refused.value)
    with pytest.raises(UserError, match=r"not those|missing|no layer|do not exist"):
        trained(sft(lora=lora, train_last_layers=1, init_from="a"), "c", first)
    other = tmp_path / "other"
    stages.pretrain(
        Pretrain(model="m", data=("d",), max_seq_length=32, batch_tokens=128, precision="float32", steps=1),
        inputs(many(document, 6)),
        other,
        StageContext(),
    )
    with pytest.raises(UserError, match="another base"):
        trained(sft(lora=lora, init_from="a"), "d", first, model=other)
    with pytest.raises(UserError, match="adapter_config"):
        trained(sft(lora=lora, init_from="a"), "e", tiny_model)
    config = json.loads((first / "adapter_config.json").read_text(encoding="utf-8"))
    (first / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"q_proj": 4}}), encoding="utf-8")
    with pytest.raises(UserError, match="alpha_pattern"):
        trained(sft(lora=lora, init_from="a"), "f", first)


def test_an_adapter_that_holds_weights_of_its_base_is_not_trained_further_without_them(trained: Callable) -> None:
    """PEFT writes them into the base in memory; the adapter that is saved would belong to a base that is nowhere."""
    lora = {"rank": 2, "alpha": 8}
    first = trained(sft(lora=LoraSettings(**lora, modules_to_save=("lm_head",)), steps=1))
    with pytest.raises(UserError, match=r"modules_to_save: \[lm_head\]"):
        trained(sft(lora=LoraSettings(**lora), init_from="a"), "b", first)
    config = json.loads((first / "adapter_config.json").read_text(encoding="utf-8"))
    (first / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": None}), encoding="utf-8")
    with pytest.raises(UserError, match=r"1 of the adapter's \d+ tensors do not exist"):
        trained(sft(lora=LoraSettings(**lora), init_from="a"), "c", first)


def test_settings_that_contradict_it_are_refused() -> None:
    with pytest.raises(ValueError, match="set lora"):
        sft(init_from="a")
    with pytest.raises(ValueError, match="choose one"):
        sft(init_from="a", lora=LoraSettings(init="pissa"))
    for kind, row in ((Dpo, PAIRED), (Kto, {"model": "m", "data": ("d",)})):
        with pytest.raises(ValueError, match="leave reference out"):
            kind(**row, init_from="a", lora=LoraSettings(), reference="r")
