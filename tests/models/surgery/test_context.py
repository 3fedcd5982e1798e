"""A longer context scales rotary positions as its method says, and leaves weights alone; dynamic also short text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hanlin.config.settings.surgery.context import ExtendContext
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models.folder.checks import read_config
from hanlin.models.folder.config import ROPE_TYPES, check_config
from hanlin.models.folder.rope import read_rope
from hanlin.models.load import load_model
from hanlin.models.surgery import context
from random_models import logits
from tiny_llama import LLAMA3_ROPE

LENGTH = 256
"""Positions of the tiny model."""


def extend(model: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return context.run(settings_of(**settings), Inputs({"model": (model,)}), out, StageContext())


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.mark.parametrize("method", ["yarn", "llama3"])
def test_a_method_is_verified_and_weights_keep_their_bytes(method: str, tiny_model: Path, tmp_path: Path) -> None:
    metrics = extend(tiny_model, tmp_path / "out", method=method)
    assert metrics["context_length"] == {"before": LENGTH, "after": 4 * LENGTH}
    assert metrics["positions_checked"] == 4 * LENGTH - 1
    weights = "model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (tiny_model / weights).read_bytes()
    assert metrics["short_text"]["max_abs_difference"] > 0


def test_dynamic_scaling_changes_only_rows_longer_than_the_training(tiny_model: Path, tmp_path: Path) -> None:
    metrics = extend(tiny_model, tmp_path / "out", method="dynamic")
    assert metrics["context_length"]["after"] == 4 * LENGTH and metrics["short_text"]["max_abs_difference"] == 0
    assert config_of(tmp_path / "out")["max_position_embeddings"] == LENGTH  # that the scaling starts from
    model, old = load_model(tmp_path / "out"), load_model(tiny_model)
    assert torch.equal(logits(model), logits(old))
    row = torch.arange(LENGTH + 8)[None] % 300
    with torch.no_grad():
        assert not torch.allclose(model(input_ids=row).logits, old(input_ids=row).logits)


def test_linear_scaling_is_the_old_model_at_fractions_of_positions(tiny_model: Path, tmp_path: Path) -> None:
    extend(tiny_model, tmp_path / "out", method="linear")
    row = torch.arange(40)[None] % 300
    with torch.no_grad():
        expected = load_model(tiny_model)(input_ids=row, position_ids=torch.arange(40)[None] / 4).logits
        actual = load_model(tmp_path / "out")(input_ids=row).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def settings_of(**settings: Any) -> ExtendContext:
    return ExtendContext.model_validate({"model": "./m", "context_length": 4 * LENGTH, **settings})


def test_the_base_of_theta_is_computed_or_given(tiny_model: Path, tmp_path: Path) -> None:
    computed = context.scale_rope(settings_of(method="theta"), config_of(tiny_model))
    assert computed["rope_theta"] == pytest.approx(10_000 * 4 ** (16 / 14))
    extend(tiny_model, tmp_path / "given", method="theta", rope_theta=4e6)
    assert config_of(tmp_path / "given")["rope_theta"] == 4e6
    assert config_of(tmp_path / "given")["max_position_embeddings"] == 4 * LENGTH


def test_the_configuration_is_written_for_old_and_new_readers(tiny_model: Path, tmp_path: Path) -> None:
    extend(tiny_model, tmp_path / "out", factor=8)
    config = config_of(tmp_path / "out")
    expected = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": LENGTH, "beta_fast": 32.0}
    assert expected.items() <= config["rope_scaling"].items()
    assert config["rope_parameters"] == {**config["rope_scaling"], "rope_theta": config["rope_theta"]}


def test_a_scaled_model_is_extended_again_by_its_own_method(tiny_model: Path) -> None:
    scaled = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    config = {**config_of(tiny_model), "rope_parameters": scaled, "max_position_embeddings": 2 * LENGTH}
    again = context.scale_rope(settings_of(method="linear"), config)
    assert again["factor"] == 4.0  # of the first training's positions


@pytest.mark.parametrize(
    ("settings", "kept", "expected", "hint"),
    [
        ({"method": "yarn"}, {"beta_fast": 16.0}, "the model's beta_fast is 16, not 32", "set beta_fast: 16"),
        ({"method": "llama3"}, {"low_freq_factor": 0.5}, "low_freq_factor is 0.5, not 1", "set low_freq_factor: 0.5"),
        (
            {"method": "yarn"},
            {"attention_factor": 1.5, "truncate": False},
            "attention_factor, truncate",
            "made from",
        ),
    ],
)
def test_extending_again_loses_no_rotary_setting_of_the_model(
    settings: dict[str, Any], kept: dict[str, Any], expected: str, hint: str, tiny_model: Path
) -> None:
    scaled = {"rope_type": settings["method"], "rope_theta": 1e4, "factor": 2.0, **kept}
    config = {**config_of(tiny_model), "rope_parameters": {**scaled, "original_max_position_embeddings": 128}}
    with pytest.raises(UserError, match=expected) as caught:
        context.scale_rope(settings_of(**settings), config)
    assert hint in str(caught.value.hint)


def test_rope_scaling_added_by_hand_counts_as_in_transformers(tiny_model: Path) -> None:
    config = {**config_of(tiny_model), "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    assert read_rope(config) == LlamaConfig.from_dict(config).rope_parameters


@pytest.mark.parametrize(
    "values",
    [
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}},
    ],
)
def test_rotary_settings_that_no_llama_has_are_refused(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be"):
        check_config(values, tmp_path)


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "mrope", "mrope_section": [1, 1, 2]}, "'rope_scaling.rope_type' is 'mrope', but must be one of"),
        ({"type": "su"}, "'rope_scaling.type' is 'su', but must be one of default, linear"),
        ({"rope_type": "yarn", "factor": 0.5}, "'rope_scaling.factor' is 0.5, but must be a number from 1 to"),
        ({"rope_type": "linear", "factor": 1e30}, "is 1e\\+30, but must be a number from 1 to max_position_embeddings"),
        (
            {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1, "beta_slow": 32},
            "'rope_scaling.beta_fast' is 1, but must be more than beta_slow \\(32\\)",
        ),
        ({"rope_type": "yarn", "factor": 2.0, "beta_fast": 0.5}, "beta_fast' is 0.5, but must be more than beta_slow"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
            "'rope_scaling.high_freq_factor' is 4.0, but must be more than low_freq_factor \\(4\\)",
        ),
    ],
)
def test_a_scaling_whose_equations_have_no_meaning_is_refused_before_anything_is_written(
    rope: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        check_config({"max_position_embeddings": 4096, "rope_scaling": rope}, tmp_path)


def test_the_types_of_rotary_scaling_are_those_of_transformers() -> None:
    assert {*ROPE_TYPES} == {"default", *ROPE_INIT_FUNCTIONS}


def test_a_model_that_says_no_context_length_has_that_of_the_first_llama(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert read_config(tmp_path)["max_position_embeddings"] == LlamaConfig().max_position_embeddings == 2048


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"context_length": LENGTH}, "no extension"),
        ({"factor": 2.0}, "a factor of 2 reaches 512 positions, fewer than the 1,024"),
        ({"factor": 1e6}, "makes no sense"),
        ({"context_length": 1_000_000}, "makes no sense"),
        ({"method": "theta", "rope_theta": 500.0}, "not larger than the model's, 10000"),
    ],
)
def test_a_length_or_factor_that_makes_no_sense_is_one_sentence(
    settings: dict[str, Any], expected: str, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=expected):
        extend(tiny_model, tmp_path / "out", **settings)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("method", ["theta", "yarn", "linear"])
def test_a_model_scaled_otherwise_is_refused(method: str, tiny_model: Path) -> None:
    config = {**config_of(tiny_model), "rope_parameters": LLAMA3_ROPE}
    with pytest.raises(UserError, match="scaled by llama3 already"):
        context.scale_rope(settings_of(method=method), config)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "linear", "rope_theta": 1e6}, "rope_theta is a setting of theta"),
        ({"method": "theta", "factor": 4.0}, "factor is a setting of yarn"),
        ({"method": "llama3", "beta_fast": 16.0}, "beta_fast is a setting of yarn"),
        ({"method": "llama3", "low_freq_factor": 9.0}, "less than high_freq_factor"),
        ({"beta_slow": 64.0}, "less than beta_fast"),
        ({"factor": 1.0}, "greater than 1"),
    ],
)
def test_settings_of_another_method_are_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ExtendContext.model_validate({"model": "./m", "context_length": 1024, **settings})


def test_a_single_file_of_weights_that_an_index_names_stays_whole(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    file = "model-00001-of-00001.safetensors"  # as many hubs' folders have it
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), file)}
    (folder / "model.safetensors").rename(folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": None}), encoding="utf-8")
    assert extend(folder, tmp_path / "out", method="theta")["files_equal"] == 1


@pytest.mark.parametrize(("before", "after"), [(LENGTH, 4 * LENGTH), (100, 100)])
def test_generation_of_all_that_the_context_held_may_fill_the_new_one(
    before: int, after: int, tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    settings |= {"do_sample": True, "max_length": before}
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    extend(folder, tmp_path / "out", method="theta")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))
    assert written == {**settings, "max_length": after}
