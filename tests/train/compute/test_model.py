"""The forward pass in training computes what transformers and PEFT compute, values and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.models.adapters import attach_lora
from hanlin.train.compute.model import TrainModel
from hanlin.train.compute.runtime import faster_precision
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.packed import PackedDataset
from tiny_llama import LLAMA3_ROPE, YARN_ROPE
from training_data import CPU

VOCAB_SIZE = 90
LENGTHS = (21, 7, 40)
FULL_MODULES = ("embed_tokens", "lm_head", "norm")


def small_model(**changes: Any) -> LlamaForCausalLM:
    """A random model whose norms and biases are not at their first values."""
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, **{**shape, **heads, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            elif "embed" in name:
                parameter.mul_(20)
    return model


def rows(folder: Path) -> PackedDataset:
    """Three documents in one row; the first token of each is not learned."""
    generator = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    ids = generator.integers(0, VOCAB_SIZE, size=starts[-1]).astype(np.int32)
    learn = np.ones(starts[-1], dtype=bool)
    good = np.ones(len(LENGTHS), dtype=bool)
    encoded = EncodedRecords(ids, learn, starts, good, 1, folder, {}, {}, {}, {}, len(good))
    return PackedDataset.pack_examples(encoded, 128)


def reference_loss(model: Any, documents: Sequence[torch.Tensor]) -> torch.Tensor:
    """The summed loss of each document run alone through the library's own forward."""
    losses = [
        functional.cross_entropy(model(input_ids=ids[None]).logits[0, :-1].float(), ids[1:], reduction="sum")
        for ids in documents
    ]
    return torch.stack(losses).sum()


def assert_equals_reference(model: Any, folder: Path) -> None:
    data = rows(folder)
    ids = torch.from_numpy(data.encoded.ids.astype(np.int64))
    wanted = reference_loss(model, ids.split(list(LENGTHS)))
    wanted.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    train_model = TrainModel(model, CPU, "float32")
    found = train_model.loss_sum(data.collate([0]))
    found.backward()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    trained = dict(train_model.trainable_parameters())
    assert gradients.keys() == {name for name, weight in trained.items() if weight.grad is not None}
    for name, gradient in gradients.items():
        difference = (trained[name].grad - gradient).norm() / gradient.norm()
        # against float64 both are off by up to 4e-5 here: the models are steep, and sums come in another order
        assert difference < 1e-4, f"{name}: {difference}"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 4},
        {"head_dim": 16},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
        {"rope_parameters": LLAMA3_ROPE},
        {"rope_parameters": YARN_ROPE},
    ],
    ids=["plain", "tied", "biases", "no_shared_heads", "wide_heads", "linear_rope", "llama3_rope", "yarn_rope"],
)
def test_it_is_transformers_own_forward(changes: dict, tmp_path: Path) -> None:
    assert_equals_reference(small_model(**changes).train(), tmp_path)


@pytest.mark.parametrize(
    "lora",
    [
        LoraSettings(rank=4),
        LoraSettings(rank=4, targets=("q_proj", "down_proj")),
        LoraSettings(rank=4, rslora=True),
        LoraSettings(rank=4, dora=True),
        LoraSettings(rank=4, modules_to_save=FULL_MODULES),
    ],
    ids=["all_projections", "two_projections", "rslora", "dora", "whole_modules"],
)
def test_an_adapter_is_computed_as_peft_does(lora: LoraSettings, tmp_path: Path) -> None:
    model = attach_lora(small_model(), lora, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    assert_equals_reference(model, tmp_path)


def test_the_row_of_a_token_that_a_folder_names_as_padding_is_trained(tmp_path: Path) -> None:
    """Many folders name the end of a turn: torch would leave its row out of the gradient, wherever it occurs."""
    model = small_model(pad_token_id=76)
    data = rows(tmp_path)
    batch = data.collate(range(len(data.samples)))
    assert (batch.input_ids == 76).any()
    TrainModel(model, CPU, "float32").loss_sum(batch).backward()
    gradient = model.model.embed_tokens.weight.grad
    assert gradient is not None and gradient[76].any()


def test_dropout_leaves_the_adapter_s_mean_and_its_seed_repeats(tmp_path: Path) -> None:
    batch = rows(tmp_path).collate([0])
    model = attach_lora(small_model(), LoraSettings(rank=4, dropout=0.5), seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    train_model = TrainModel(model, CPU, "float32")

    def losses(seeds: Sequence[int]) -> list[float]:
        found = []
        for seed in seeds:
            torch.manual_seed(seed)
            found.append(train_model.loss_sum(batch).item())
        return found

    first, again = losses(range(30)), losses(range(30))
    model.eval()
    whole = train_model.loss_sum(batch).item()
    assert first == again and len(set(first)) > 20
    assert np.mean(first) == pytest.approx(whole, rel=0.02)


def test_dropout_s_gradient_is_that_of_its_value(tmp_path: Path) -> None:
    batch = rows(tmp_path).collate([0])
    model = attach_lora(small_model().double(), LoraSettings(rank=2, dropout=0.5, targets=("down_proj",)), seed=1)
    train_model = TrainModel(model, CPU, "float32")
    name, weight = next((name, weight) for name, weight in train_model.trainable_parameters() if "lora_B" in name)

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        train_model.refresh()
        return train_model.loss_sum(batch)

    loss().backward()
    assert weight.grad is not None, name
    direction = weight.grad / weight.grad.norm()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(direction, alpha=sign * 2e-2)
        values.append(loss().item())
        with torch.no_grad():
            weight.add_(direction, alpha=-sign * 2e-2)
    assert (values[0] - values[1]) / 4e-2 == pytest.approx(weight.grad.norm().item(), rel=0.02)


def test_dora_with_dropout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DoRA"):
        TrainModel(attach_lora(small_model(), LoraSettings(rank=2, dora=True, dropout=0.1), seed=1), CPU, "float32")


def test_what_is_trained_stays_float32_and_what_is_frozen_becomes_bfloat16() -> None:
    model = attach_lora(small_model(), LoraSettings(rank=2), seed=1)
    TrainModel(model, CPU, "bfloat16")
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}
    assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {torch.bfloat16}


def test_bfloat16_gives_nearly_the_loss_of_float32(tmp_path: Path) -> None:
    batch = rows(tmp_path).collate([0])
    exact, rounded = (TrainModel(small_model(), CPU, f).loss_sum(batch).item() for f in ("float32", "bfloat16"))
    assert rounded == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(
    ("known", "chosen"),
    [({}, "float32"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16")],
)
def test_the_precision_follows_from_the_processor_alone(
    known: dict[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock beside its threshold would tell one try of a run this and the next try that."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert faster_precision(CPU) == chosen
