"""A model of experts is trained through the same loop: transformers' own values, experts kept busy, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM, load_balancing_loss_func

from hanlin.config.settings.model import PROJECTIONS, LoraSettings, Merge
from hanlin.config.settings.preference import Orpo
from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.config.settings.train import Pretrain
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models import merge
from hanlin.models.adapters import attach_lora
from hanlin.models.load import load_model
from hanlin.models.surgery import experts
from hanlin.train import stages
from hanlin.train.compute.experts import balance_loss
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.objectives.next_token import next_token
from random_models import logits, perturb_trainable
from training_data import CPU, document, many, preference

LENGTHS = (21, 7, 40)
VOCAB_SIZE = 90
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "initializer_range": 0.2,
}


def random_model(**changes: Any) -> MixtralForCausalLM:
    torch.manual_seed(3)
    return MixtralForCausalLM(MixtralConfig(**{**SHAPE, **changes}))


def dataset(folder: Path, max_seq_length: int = 128) -> PackedDataset:
    """Three documents, in one row of 128 tokens or in rows of their own."""
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, size=starts[-1]).astype(np.int32)
    good, learned = np.ones(len(LENGTHS), dtype=bool), np.ones(starts[-1], dtype=bool)
    encoded = EncodedRecords(ids, learned, starts, good, 1, folder, {}, {}, {}, {}, len(good))
    return PackedDataset.pack_examples(encoded, max_seq_length)


def gradients(model: TrainModel, batches: list[Any]) -> dict[str, torch.Tensor]:
    model.hf_model.zero_grad()
    for batch in batches:
        next_token(model).loss(model, batch).total.backward()
    return {name: weight.grad.clone() for name, weight in model.trainable_parameters() if weight.grad is not None}


def assert_trains_as_its_library_does(model: Any, data: PackedDataset) -> dict[str, torch.Tensor]:
    """Loss and gradients are those of the model's own forward pass, document by document; returns the gradients."""
    documents = torch.from_numpy(data.encoded.ids.astype(np.int64)).split(list(LENGTHS))
    losses = [
        functional.cross_entropy(model(input_ids=ids[None]).logits[0, :-1], ids[1:], reduction="sum")
        for ids in documents
    ]
    expected = torch.stack(losses).sum()
    expected.backward()
    wanted = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    train_model = TrainModel(model.train(), CPU, "float32")
    actual = gradients(train_model, [data.collate([0])])
    torch.testing.assert_close(train_model.loss_sum(data.collate([0])), expected, atol=1e-4, rtol=1e-5)
    assert actual.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (actual[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    return wanted


def test_values_and_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    model, data = random_model(router_aux_loss_coef=0.0), dataset(tmp_path)
    assert_trains_as_its_library_does(model, data)


@pytest.mark.parametrize("targets", [PROJECTIONS, ("q_proj", "down_proj")], ids=len)
def test_an_adapter_of_experts_has_the_values_and_gradients_of_peft(targets: tuple[Any, ...], tmp_path: Path) -> None:
    lora = LoraSettings(rank=2, targets=targets, rslora=True)
    model, data = attach_lora(random_model(router_aux_loss_coef=0.0), lora, seed=1), dataset(tmp_path)
    perturb_trainable(model)
    wanted = assert_trains_as_its_library_does(model, data)
    assert any("experts" in name for name in wanted)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_balance_of_experts_does_not_depend_on_how_a_step_is_divided(checkpointing: bool, tmp_path: Path) -> None:
    whole = TrainModel(random_model(router_aux_loss_coef=0.5).train(), CPU, "float32")
    expected = gradients(whole, [dataset(tmp_path).collate([0])])
    whole.gradient_checkpointing = checkpointing
    parts = dataset(tmp_path, 40)
    actual = gradients(whole, [parts.collate([index]) for index in range(len(parts.samples))])
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_the_balance_loss_is_transformers_own_and_counts_only_in_training(tmp_path: Path) -> None:
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    total, busiest = balance_loss(logits, [30], 2)
    torch.testing.assert_close(total / 30, load_balancing_loss_func((logits,), 4, 2))
    assert 1 <= busiest <= 2
    even = torch.eye(4).repeat(2, 1) * 20
    assert balance_loss(even, [8], 1)[0] / 8 == pytest.approx(1.0, abs=1e-4)
    model, batch = TrainModel(random_model(router_aux_loss_coef=0.5).train(), CPU, "float32"), dataset(tmp_path)
    training = model.loss_sum(batch.collate([0]))
    router_loss = model.router_metrics["router_loss"]
    model.hf_model.eval()
    torch.testing.assert_close(training - model.loss_sum(batch.collate([0])), 0.5 * router_loss, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------- stages


def pretrain(**changes: Any) -> Pretrain:
    settings: dict[str, Any] = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_tokens": 512}
    return Pretrain(**{**settings, "precision": "float32", "steps": 3, "learning_rate": 1e-2, **changes})


@pytest.fixture(scope="module")
def sparse(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with four experts."""
    folder = tmp_path_factory.mktemp("sparse")
    settings = UpcycleExperts(model="./m", experts=4)
    experts.run(settings, Inputs({"model": (tiny_model,)}), folder, StageContext())
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_training_tells_experts_apart_and_saves_what_transformers_loads(
    sparse: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    metrics = stages.pretrain(pretrain(), inputs(many(document, 6), sparse), out, StageContext())
    assert metrics["loss"]["last"] < metrics["loss"]["first"]
    assert metrics["router_loss"]["first"] >= 1.5 and 1 <= metrics["busiest_expert"]["first"] <= 2
    weights = load_file(out / "model.safetensors")
    first, second = (weights[f"model.layers.0.block_sparse_moe.experts.{expert}.w1.weight"] for expert in (0, 1))
    assert not torch.equal(first, second)
    assert weights.keys() == load_file(sparse / "model.safetensors").keys()
    assert isinstance(load_model(out), MixtralForCausalLM)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert (config["num_local_experts"], config["router_aux_loss_coef"]) == (4, 0.02)


def test_a_saved_model_of_experts_is_trained_further_in_its_last_block_alone(
    sparse: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    stages.pretrain(pretrain(train_last_layers=1), inputs(many(document, 4), sparse), out, StageContext())
    before, after = load_file(sparse / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("model.layers.1.") for name in changed)


def test_single_rows_of_a_model_of_experts_are_trained_alone(
    sparse: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    stages.pretrain(pretrain(trainable_tokens=390), inputs(many(document, 4), sparse), out, StageContext())
    before, after = load_file(sparse / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and changed <= {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(torch.equal(before[name][:390], after[name][:390]) for name in changed)


def test_an_adapter_of_experts_is_trained_balanced_resumed_and_merged(
    sparse: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    records = many(document, 6)
    metrics = stages.pretrain(pretrain(lora=LoraSettings(rank=4)), inputs(records, sparse), out, StageContext())
    assert metrics["loss"]["last"] < metrics["loss"]["first"]
    assert metrics["router_loss"]["first"] >= 1.5 and 1 <= metrics["busiest_expert"]["first"] <= 2
    trained = {name for name, value in load_file(out / "adapter_model.safetensors").items() if value.any()}
    stem = "base_model.model.model.layers.1.mlp"
    assert {f"{stem}.gate.lora_B.weight", f"{stem}.experts.lora_B.weight"} <= trained
    further = out.parent / "further"
    further.mkdir()
    again = Inputs({**inputs(records, sparse).by_field, "init_from": (out,)})
    on = stages.pretrain(pretrain(lora=LoraSettings(rank=4), init_from="./a"), again, further, StageContext())
    assert on["loss"]["first"] == pytest.approx(metrics["loss"]["last"], rel=0.2)
    merged = out.parent / "merged"
    merged.mkdir()
    merged_metrics = merge.run(Merge(adapter=("./a",)), Inputs({"adapter": (further,)}), merged, StageContext())
    assert merged_metrics["adapter_kl"] > 0 and merged_metrics["max_abs_difference"] < 1e-4
    torch.testing.assert_close(logits(load_model(merged)), logits(load_model(further)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "mode", "expected"),
    [
        ({"lora": LoraSettings(rank=2, dora=True)}, "ddp", "lora.dora is not supported for a model of experts"),
        ({"lora": LoraSettings(rank=2, dropout=0.1)}, "ddp", "lora.dropout is not supported"),
        ({"lora": LoraSettings(rank=2, init="pissa")}, "ddp", "lora.init: pissa is not supported"),
        ({"lora": LoraSettings(quantization="nf4")}, "ddp", "lora.quantization: nf4 is not supported"),
        ({"lora": LoraSettings(targets=("up_proj",))}, "ddp", "lora.targets: up_proj alone is not supported"),
        ({"optimizer": "galore"}, "ddp", "optimizer: galore is not supported"),
        ({}, "fsdp", "launch.mode: fsdp is not supported"),
    ],
)
def test_what_experts_do_not_support_is_refused_by_name(
    changes: dict[str, Any], mode: str, expected: str, sparse: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    with pytest.raises(UserError, match=expected):
        stages.pretrain(pretrain(**changes), inputs(many(document, 4), sparse), out, StageContext(mode=mode))


def test_preference_training_of_experts_is_refused(sparse: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    settings = Orpo(model="m", data=("d",), max_seq_length=128, batch_pairs=2, steps=1)
    with pytest.raises(UserError, match="preference training of a model of experts"):
        stages.orpo(settings, inputs(many(preference, 4), sparse), out, StageContext())
