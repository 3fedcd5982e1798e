"""An adapter over a model of experts merges into each expert's own weights, as PEFT merges it into their stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from hanlin.config.settings.model import LoraSettings, Merge
from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models import merge
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.models.save import separate_experts
from hanlin.models.surgery import experts
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import logits, perturb_trainable

FORMS: list[dict[str, Any]] = [
    {},
    {"rslora": True, "targets": ["q_proj", "gate_proj", "up_proj"]},
    {"targets": ["down_proj"], "router": False},
    {"modules_to_save": ["embed_tokens", "norm"]},
]


@pytest.fixture
def sparse(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with three experts, which differ."""
    folder = tmp_path / "sparse"
    folder.mkdir()
    experts.run(UpcycleExperts(model="./m", experts=3), Inputs({"model": (tiny_model,)}), folder, StageContext())
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in sorted(name for name in weights if "block_sparse_moe" in name):
        weights[name] += torch.randn(weights[name].shape, generator=generator) * 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_adapter(base: Path, folder: Path, seed: int = 1, **lora: Any) -> Path:
    settings = LoraSettings.model_validate({"rank": 2, **lora})
    model = perturb_trainable(attach_lora(load_model(base), settings, seed=seed))
    save_adapter(model, folder, base=base)
    Tokenizer.load(base).save(folder)
    return folder


def merge_into(out: Path, *adapters: Path, **row: Any) -> dict[str, Any]:
    out.mkdir()
    settings = Merge.model_validate({"adapter": [f"./{path.name}" for path in adapters], **row})
    return merge.run(settings, Inputs({"adapter": adapters}), out, StageContext())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_adapter_of_experts_merges_to_the_weights_and_logits_of_peft(
    sparse: Path, tmp_path: Path, form: dict[str, Any]
) -> None:
    adapter = make_adapter(sparse, tmp_path / "adapter", **form)
    metrics = merge_into(tmp_path / "merged", adapter)
    adapted = load_model(adapter)
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), logits(adapted), rtol=0, atol=1e-5)
    assert metrics["max_abs_difference"] < 1e-5 and metrics["adapter_kl"] > 0
    by_peft = separate_experts(cast(PeftModel, adapted).merge_and_unload().state_dict())
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == load_file(sparse / "model.safetensors").keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, by_peft[name], rtol=0, atol=1e-6, msg=name)


def test_rounding_to_sixteen_bits_stays_within_its_limit(sparse: Path, tmp_path: Path) -> None:
    metrics = merge_into(tmp_path / "merged", make_adapter(sparse, tmp_path / "adapter"), dtype="bfloat16")
    assert metrics["dtype"] == "bfloat16" and 0 < metrics["mean_kl"] < metrics["adapter_kl"]
    assert 0 < metrics["rounding_loss"] < 1


def test_averages_of_adapters_of_experts_are_factors_on_changes(sparse: Path, tmp_path: Path) -> None:
    one, two = (make_adapter(sparse, tmp_path / f"a{seed}", seed=seed) for seed in (1, 2))
    merge_into(tmp_path / "merged", one, two, weights=[0.5, -0.25])
    merge_into(tmp_path / "first", one)
    merge_into(tmp_path / "second", two)
    folders = (sparse, tmp_path / "first", tmp_path / "second", tmp_path / "merged")
    base, first, second, merged = (load_file(folder / "model.safetensors") for folder in folders)
    for name, weight in merged.items():
        expected = base[name] + 0.5 * (first[name] - base[name]) - 0.25 * (second[name] - base[name])
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6, msg=name)


def test_a_base_whose_experts_are_one_tensor_merges_alike(sparse: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for file in sparse.iterdir():
        (packed / file.name).write_bytes(file.read_bytes())
    state = {name: weight.contiguous() for name, weight in load_model(sparse).state_dict().items()}
    save_file(state, packed / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.0.mlp.experts.gate_up_proj" in check_model_folder(packed, experts=True).tensors
    merge_into(tmp_path / "one", make_adapter(sparse, tmp_path / "a"))
    merge_into(tmp_path / "other", make_adapter(packed, tmp_path / "b"))
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "other" / "model.safetensors"
    ).read_bytes()


def test_an_adapter_from_before_experts_were_one_tensor_is_merged(sparse: Path, tmp_path: Path) -> None:
    """Each expert's matrices have an adapter of their own, as PEFT wrote them for transformers 4."""
    adapter = make_adapter(sparse, tmp_path / "adapter", targets=["q_proj", "gate_proj", "up_proj", "down_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors = {name: value for name, value in tensors.items() if ".mlp." not in name}
    shapes = {name: weight.shape for name, weight in load_file(sparse / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(4)
    for name in (name for name in sorted(shapes) if "block_sparse_moe" in name):
        rows, columns = shapes[name]
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(2, columns, generator=generator) * 0.1
        tensors[f"{stem}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) * 0.1
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"target_modules": ["q_proj", "w1", "w2", "w3", "gate"], "target_parameters": None}
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    metrics = merge_into(tmp_path / "merged", adapter)
    assert metrics["max_abs_difference"] < 1e-5 and metrics["adapter_kl"] > 0
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), logits(load_model(adapter)), rtol=0, atol=1e-5)


def test_an_adapter_of_a_dense_model_is_refused_for_its_sparse_one(
    tiny_model: Path, sparse: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "dense")
    (adapter / "base.json").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "../sparse"
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="of the adapter's"):
        merge_into(tmp_path / "merged", adapter)
    other = make_adapter(sparse, tmp_path / "other")
    tensors = load_file(other / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.experts.lora_A.weight"
    tensors[name] = tensors[name][:4].contiguous()
    save_file(tensors, other / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has shape \[4, \d+\] instead of \[3, "):
        merge_into(tmp_path / "cut", other)
