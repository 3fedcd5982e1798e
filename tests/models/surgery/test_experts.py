"""Upcycled experts change nothing at birth but rounding, and are read by transformers and llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM

from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.models.save import verify_stored
from hanlin.models.surgery import experts
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import logits
from tiny_llama import LLAMA3_ROPE, tiny_llama


def settings_of(**changes: Any) -> UpcycleExperts:
    return UpcycleExperts.model_validate({"model": "./m", "experts": 4, **changes})


def upcycle(model: Path, out: Path, seed: int = 42, **changes: Any) -> dict[str, Any]:
    out.mkdir()
    return experts.run(settings_of(**changes), Inputs({"model": (model,)}), out, StageContext(seed=seed))


@pytest.mark.parametrize(("base", "per_token"), [("tiny_model", 2), ("tied_model", 1)])
def test_upcycled_experts_change_nothing_at_birth(
    base: str, per_token: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: Path = request.getfixturevalue(base)
    metrics = upcycle(model, tmp_path / "out", experts_per_token=per_token)
    sparse = load_model(tmp_path / "out")
    assert isinstance(sparse, MixtralForCausalLM)
    torch.testing.assert_close(logits(sparse), logits(load_model(model)), rtol=0, atol=1e-5)
    assert metrics["max_abs_difference"] < 1e-5 and metrics["greedy_agreement"] == 1.0


def test_rotary_settings_and_sizes_stay(tiny_tokenizer: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    model = tiny_llama(tmp_path / "scaled", tokenizer, seed=3, rope_parameters=LLAMA3_ROPE, head_dim=32)
    tokenizer.save(model)
    metrics = upcycle(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["rope_parameters"]["rope_type"] == "llama3" and config["head_dim"] == 32
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (4, 2)
    assert metrics["parameters"]["before"] < metrics["parameters"]["active"] < metrics["parameters"]["after"]


@pytest.mark.parametrize("left_out", ["rms_norm_eps", "rope_parameters", "num_key_value_heads"])
def test_a_number_that_the_dense_model_leaves_out_is_what_it_means_there(
    left_out: str, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    """The first Llamas leave them out; transformers takes other numbers for them in a Mixtral."""
    tokenizer = Tokenizer.load(tiny_tokenizer)
    usual: dict[str, Any] = {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    model = tiny_llama(tmp_path / "m", tokenizer, seed=3, num_key_value_heads=4, **usual)
    tokenizer.save(model)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    del config[left_out]
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert upcycle(model, tmp_path / "out")["max_abs_difference"] < 1e-5


def test_the_seed_decides_the_routers_and_nothing_else(tiny_model: Path) -> None:
    base = check_model_folder(tiny_model)
    one, same, other = (experts.upcycle_weights(settings_of(), base, seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {
        f"model.layers.{layer}.block_sparse_moe.gate.weight" for layer in (0, 1)
    }


def test_a_saved_expert_that_differs_is_detected(tiny_model: Path, tmp_path: Path) -> None:
    upcycle(tiny_model, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["model.layers.1.block_sparse_moe.experts.3.w2.weight"][0, 0] += 1e-6
    save_file(weights, tmp_path / "out" / "model.safetensors", metadata={"format": "pt"})
    written = check_model_folder(tmp_path / "out", experts=True)
    with pytest.raises(RuntimeError, match=r"experts\.3\.w2"):
        verify_stored(written, experts.upcycle_weights(settings_of(), check_model_folder(tiny_model), 42))


def test_a_model_of_experts_and_one_with_biases_are_refused(
    tiny_model: Path, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    upcycle(tiny_model, tmp_path / "once")
    with pytest.raises(UserError, match="4 experts already"):
        upcycle(tmp_path / "once", tmp_path / "twice")
    tokenizer = Tokenizer.load(tiny_tokenizer)
    biased = tiny_llama(tmp_path / "biased", tokenizer, seed=3, attention_bias=True)
    tokenizer.save(biased)
    with pytest.raises(UserError, match="attention_bias"):
        upcycle(biased, tmp_path / "out")


def test_more_experts_for_a_token_than_there_are_is_refused() -> None:
    with pytest.raises(ValidationError, match="must not exceed"):
        settings_of(experts_per_token=5)
