"""Expanded blocks change no logit at birth, to the bit; which ones are new stands in the configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.surgery.blocks import ExpandBlocks
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models.adapters import attach_lora
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.models.save import save_model, verify_stored
from hanlin.models.surgery import blocks
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import logits
from tiny_llama import tiny_llama


def expand(model: Path, out: Path, new_blocks: int = 2) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    settings = ExpandBlocks(model="./m", new_blocks=new_blocks)
    return blocks.run(settings, Inputs({"model": (model,)}), out, StageContext())


@pytest.fixture(scope="module")
def expanded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a new block behind each of its two."""
    folder = tmp_path_factory.mktemp("expanded")
    expand(tiny_model, folder)
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.mark.parametrize(
    ("layers", "new", "expected"),
    [
        (32, 8, [4, 9, 14, 19, 24, 29, 34, 39]),
        (6, 3, [2, 5, 8]),
        (7, 3, [2, 5, 9]),
        (5, 1, [5]),
        (2, 2, [1, 3]),
    ],
)
def test_new_blocks_are_spread_evenly_and_the_last_is_at_the_end(layers: int, new: int, expected: list[int]) -> None:
    assert ExpandBlocks(model="./m", new_blocks=new).positions(layers) == expected


@pytest.mark.parametrize(("base", "new"), [("tiny_model", 2), ("tied_model", 1)])
def test_expanded_blocks_change_nothing_at_birth(
    base: str, new: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(base)
    metrics = expand(model, tmp_path / "out", new)
    assert torch.equal(logits(load_model(tmp_path / "out")), logits(load_model(model)))
    assert metrics["blocks"] == {"before": 2, "after": 2 + new}


def test_a_model_with_biases_changes_nothing_either(tiny_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    model = tiny_llama(tmp_path / "biased", tokenizer, seed=3, attention_bias=True, mlp_bias=True)
    tokenizer.save(model)
    weights = load_file(model / "model.safetensors")
    for name in weights:
        if name.endswith("bias"):
            weights[name] += 0.5
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    expand(model, tmp_path / "out")
    assert torch.equal(logits(load_model(tmp_path / "out")), logits(load_model(model)))


def test_a_new_block_is_the_one_before_it_but_for_what_it_writes(tiny_model: Path, expanded: Path) -> None:
    old, new = load_file(tiny_model / "model.safetensors"), load_file(expanded / "model.safetensors")
    for source, index in ((0, 1), (1, 3)):
        for name in ("self_attn.q_proj", "mlp.gate_proj", "input_layernorm"):
            copy, original = new[f"model.layers.{index}.{name}.weight"], old[f"model.layers.{source}.{name}.weight"]
            assert torch.equal(copy, original)
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            assert not new[f"model.layers.{index}.{name}.weight"].any()


def test_the_configuration_and_the_metrics_say_which_blocks_are_new(tiny_model: Path, tmp_path: Path) -> None:
    metrics = expand(tiny_model, tmp_path / "out")
    assert metrics["new_blocks"] == config_of(tmp_path / "out")["new_blocks"] == [1, 3]
    assert config_of(tmp_path / "out")["num_hidden_layers"] == 4


def test_a_model_saved_again_still_says_which_blocks_are_new(expanded: Path, tmp_path: Path) -> None:
    save_model(load_model(expanded), tmp_path / "again", tokenizer=Tokenizer.load(expanded))
    assert config_of(tmp_path / "again")["new_blocks"] == [1, 3]


def test_an_expanded_model_is_expanded_again(tiny_model: Path, expanded: Path, tmp_path: Path) -> None:
    assert expand(expanded, tmp_path / "twice", 1)["new_blocks"] == [4]
    assert torch.equal(logits(load_model(tmp_path / "twice")), logits(load_model(tiny_model)))


def test_new_blocks_that_were_never_trained_stay_new_when_a_model_is_expanded_again(
    expanded: Path, tmp_path: Path
) -> None:
    expand(expanded, tmp_path / "twice", 2)
    assert config_of(tmp_path / "twice")["new_blocks"] == [1, 2, 4, 5]
    trained = shutil.copytree(expanded, tmp_path / "trained")
    weights = load_file(trained / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"] += 0.01
    save_file(weights, trained / "model.safetensors", metadata={"format": "pt"})
    expand(trained, tmp_path / "again", 2)
    assert config_of(tmp_path / "again")["new_blocks"] == [2, 4, 5]


def test_the_dtypes_of_the_weights_stay(tiny_model: Path, tmp_path: Path) -> None:
    save_model(load_model(tiny_model), tmp_path / "half", tokenizer=Tokenizer.load(tiny_model), dtype="bfloat16")
    expand(tmp_path / "half", tmp_path / "out")
    assert {entry.dtype for entry in check_model_folder(tmp_path / "out").tensors.values()} == {"BF16"}


def test_more_new_blocks_than_old_ones_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 new blocks are more than the 2"):
        expand(tiny_model, tmp_path / "out", 3)
    assert not any((tmp_path / "out").iterdir())


def test_a_saved_weight_that_differs_is_detected(tiny_model: Path, expanded: Path, tmp_path: Path) -> None:
    shutil.copytree(expanded, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = 1e-8
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    changed = check_model_folder(tmp_path / "out")
    with pytest.raises(RuntimeError, match=r"layers\.1\.mlp\.down_proj"):
        verify_stored(changed, blocks.expand_weights(check_model_folder(tiny_model), [1, 3]))


def test_dora_over_rows_of_zeros_is_refused(expanded: Path) -> None:
    lora = LoraSettings(rank=2, dora=True, targets=("q_proj", "down_proj"))
    with pytest.raises(UserError, match=r"rows of model\.layers\.1\.mlp\.down_proj are zero"):
        attach_lora(load_model(expanded), lora, seed=1, layers=[1, 3])
