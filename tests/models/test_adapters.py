"""LoRA adapters: a new one changes nothing, the seed decides everything, and every saved tensor is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from hanlin.config.settings.model import PROJECTIONS, LoraSettings
from hanlin.core import process
from hanlin.core.errors import UserError
from hanlin.models import patterns
from hanlin.models.adapters import attach_lora, count_parameters, save_adapter
from hanlin.models.load import load_model
from random_models import MakeAdapter, logits, perturb_trainable


def adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_a_new_adapter_changes_nothing(tiny_model: Path) -> None:
    assert torch.equal(
        logits(attach_lora(load_model(tiny_model), LoraSettings(), seed=1)), logits(load_model(tiny_model))
    )  # fmt: skip


def test_a_new_dora_adapter_changes_nothing_but_rounding(tiny_model: Path) -> None:
    adapted = attach_lora(load_model(tiny_model), LoraSettings(dora=True), seed=1)
    torch.testing.assert_close(logits(adapted), logits(load_model(tiny_model)))


def test_equal_seeds_give_equal_adapters_and_other_seeds_others(tiny_model: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        model = attach_lora(load_model(tiny_model), LoraSettings(), seed)
        return next(weight for name, weight in model.named_parameters() if ".lora_A." in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_attaching_an_adapter_leaves_the_global_random_state_alone(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    before = torch.get_rng_state()
    attach_lora(model, LoraSettings(), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_all_seven_projections_get_an_adapter_by_default(tiny_model: Path) -> None:
    model = attach_lora(load_model(tiny_model), LoraSettings(), seed=1)
    found = {name.split(".")[-4] for name, weight in model.named_parameters() if ".lora_A." in name}
    assert found == set(PROJECTIONS)


def test_only_the_named_projections_get_an_adapter(tiny_model: Path) -> None:
    model = attach_lora(load_model(tiny_model), LoraSettings(targets=("q_proj", "v_proj")), seed=1)
    found = {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad}
    assert found == {"q_proj", "v_proj"}


def test_only_the_adapter_is_trainable(tiny_model: Path) -> None:
    model = attach_lora(load_model(tiny_model, trainable=True), LoraSettings(), seed=1)
    assert all((".lora_" in name) == weight.requires_grad for name, weight in model.named_parameters())


def test_the_count_of_trainable_parameters_is_rank_times_width_and_height(tiny_model: Path) -> None:
    model = attach_lora(load_model(tiny_model), LoraSettings(rank=3, targets=("q_proj", "k_proj")), seed=1)
    # two layers, q_proj 64 x 64 and k_proj 32 x 64
    assert count_parameters(model).trainable == 2 * 3 * ((64 + 64) + (32 + 64))


def test_modules_to_save_are_trained_whole(tiny_model: Path) -> None:
    model = attach_lora(load_model(tiny_model), LoraSettings(modules_to_save=("lm_head", "norm")), seed=1)
    whole = {name.split(".modules_to_save")[0] for name, w in model.named_parameters() if "modules_to_save" in name}
    assert {name.rsplit(".", 1)[-1] for name in whole} == {
        "lm_head", "norm", "input_layernorm", "post_attention_layernorm",
    }  # fmt: skip


def test_trainable_weights_are_float32_over_a_bfloat16_base(tiny_model: Path) -> None:
    model = attach_lora(load_model(tiny_model, dtype="bfloat16"), LoraSettings(modules_to_save=("lm_head",)), seed=1)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}


def test_rslora_scales_by_the_root_of_the_rank(tiny_model: Path) -> None:
    def scale(rslora: bool) -> float:
        model = attach_lora(load_model(tiny_model), LoraSettings(rank=16, alpha=32, rslora=rslora), seed=1)
        layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        assert isinstance(layer, LoraLayer)
        return layer.scaling["default"]

    assert (scale(False), scale(True)) == (2.0, 8.0)


def test_a_module_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice"):
        LoraSettings(targets=("q_proj", "q_proj"))


@pytest.mark.parametrize(
    ("base", "lora"),
    [
        ("untied", {}),
        ("untied", {"dora": True}),
        ("untied", {"rslora": True, "targets": ["q_proj"]}),
        ("untied", {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}),
        ("tied", {"modules_to_save": ["embed_tokens"]}),
        ("tied", {"modules_to_save": ["lm_head"]}),
    ],
)
def test_a_saved_adapter_gives_the_same_logits_again(
    store: Path, tmp_path: Path, base: str, lora: dict[str, object]
) -> None:
    settings = LoraSettings.model_validate(lora)
    model = perturb_trainable(attach_lora(load_model(store / base), settings, seed=1))
    save_adapter(model, store / "adapter", base=store / base)
    assert torch.equal(logits(load_model(store / "adapter")), logits(model))


def test_of_a_loaded_adapter_nothing_but_the_adapter_is_trainable(make_adapter: MakeAdapter) -> None:
    model = load_model(make_adapter(modules_to_save=["lm_head"]), trainable=True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_" in name or "modules_to_save" in name for name in trained)


def test_an_adapter_loaded_for_inference_has_no_gradients(make_adapter: MakeAdapter) -> None:
    assert count_parameters(load_model(make_adapter())).trainable == 0


def test_equal_adapters_are_equal_bytes(make_adapter: MakeAdapter) -> None:
    one, other = make_adapter(name="one", dora=True), make_adapter(name="other", dora=True)
    assert all((one / file.name).read_bytes() == file.read_bytes() for file in other.iterdir())


def test_the_base_is_named_relative_to_the_adapter(make_adapter: MakeAdapter) -> None:
    config = json.loads((make_adapter() / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "../untied"


def test_training_on_a_tied_model_keeps_it_tied(store: Path) -> None:
    model = attach_lora(load_model(store / "tied"), LoraSettings(modules_to_save=("embed_tokens",)), seed=1)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_an_adapter_tensor_that_the_model_does_not_have_is_refused(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    extra = {"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)}
    save_file(adapter_tensors(adapter) | extra, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"1 of the adapter.*layers\.9"):
        load_model(adapter)


def test_a_missing_adapter_tensor_is_named(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    tensors = adapter_tensors(adapter)
    tensors.pop("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"1 tensors that it needs are missing.*layers\.1"):
        load_model(adapter)


def test_an_adapter_of_another_width_is_refused(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    tensors = {name: torch.ones(4, 5) if ".lora_A." in name else weight
               for name, weight in adapter_tensors(adapter).items()}  # fmt: skip
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"does not fit.*is made for a width of 5, but the model"):
        load_model(adapter)


def test_numbers_that_are_not_finite_are_not_saved(store: Path) -> None:
    model = attach_lora(load_model(store / "untied"), LoraSettings(), seed=1)
    with torch.no_grad():
        next(weight for weight in model.parameters() if weight.requires_grad).fill_(float("nan"))
    with pytest.raises(RuntimeError, match="not finite"):
        save_adapter(model, store / "adapter", base=store / "untied")
    assert not (store / "adapter").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target_modules": "(.*)*(.*)*(.*)*(.*)*x$"}, "takes too long"),
        ({"rank_pattern": {"(a": 1}}, "not a regular expression"),
        ({"target_modules": "q" + "|q" * 5000}, "8,192 characters"),
    ],
)
def test_patterns_of_an_adapter_are_matched_within_bounds(
    values: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_CPU_SECONDS_TO_START", 1)
    monkeypatch.setattr(patterns, "_MATCH_SECONDS", 1.0)
    names = [f"base_model.model.model.layers.{layer}.self_attn.q_proj" for layer in range(40)]
    with pytest.raises(UserError, match=said):
        patterns.check_patterns(values, names, tmp_path)


def test_a_usual_pattern_of_an_adapter_is_matched(tmp_path: Path) -> None:
    pattern = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)"
    patterns.check_patterns({"target_modules": pattern}, ["model.layers.0.mlp"], tmp_path)
