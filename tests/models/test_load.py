"""`load_model`: the stored weights, in the dtype asked for, for inference or training."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hanlin.core.errors import UserError
from hanlin.models.load import load_model
from random_models import MakeAdapter, logits
from tiny_llama import tie_embeddings


def test_the_weights_are_those_of_the_file(tiny_model: Path) -> None:
    stored = load_file(tiny_model / "model.safetensors")
    loaded = load_model(tiny_model).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in stored.items())


def test_the_logits_are_those_of_transformers(tiny_model: Path) -> None:
    assert torch.equal(logits(load_model(tiny_model)), logits(AutoModelForCausalLM.from_pretrained(tiny_model)))


def test_both_attention_implementations_agree(tiny_model: Path) -> None:
    torch.testing.assert_close(logits(load_model(tiny_model, attention="eager")), logits(load_model(tiny_model)))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_dtype_in_memory_is_the_one_asked_for(tiny_model: Path, name: str) -> None:
    assert {weight.dtype for weight in load_model(tiny_model, dtype=name).parameters()} == {getattr(torch, name)}


def test_auto_keeps_the_stored_dtype(tiny_model: Path) -> None:
    assert load_model(tiny_model, dtype="auto").dtype == torch.float32


def test_an_unknown_dtype_is_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="bf16"):
        load_model(tiny_model, dtype="bf16")


def test_a_model_for_inference_has_no_gradients_and_no_training_mode(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_trainable_model_has_gradients_everywhere(tiny_model: Path) -> None:
    model = load_model(tiny_model, trainable=True)
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_tied_model_has_one_matrix(tied_model: Path) -> None:
    model = load_model(tied_model)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_adapter_folder_gives_its_base_with_the_adapter(make_adapter: MakeAdapter, store: Path) -> None:
    adapted = cast(PeftModel, load_model(make_adapter()))
    assert not torch.allclose(logits(adapted), logits(load_model(store / "untied")))
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), logits(load_model(store / "untied")))


def test_an_adapter_and_its_base_can_move_together(make_adapter: MakeAdapter, store: Path, tmp_path: Path) -> None:
    before = logits(load_model(make_adapter()))
    moved = Path(shutil.move(store, tmp_path / "elsewhere"))
    assert torch.equal(logits(load_model(moved / "adapter")), before)


def test_an_adapter_is_found_through_a_link(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter = make_adapter()
    (tmp_path / "link").symlink_to(adapter, target_is_directory=True)
    assert torch.equal(logits(load_model(tmp_path / "link")), logits(load_model(adapter)))


def test_an_adapter_without_its_base_names_the_missing_base(make_adapter: MakeAdapter, store: Path) -> None:
    adapter = make_adapter()
    shutil.rmtree(store / "untied")
    with pytest.raises(UserError, match=r"\.\./untied"):
        load_model(adapter)


def test_an_adapter_does_not_load_over_other_weights(make_adapter: MakeAdapter, store: Path) -> None:
    adapter = make_adapter()
    shutil.copy(store / "tied" / "config.json", store / "untied" / "config.json")
    shutil.copy(store / "tied" / "model.safetensors", store / "untied" / "model.safetensors")
    with pytest.raises(UserError, match="another base"):
        load_model(adapter)


def test_an_adapter_over_an_adapter_is_refused(make_adapter: MakeAdapter, store: Path) -> None:
    adapter = make_adapter()
    second = Path(shutil.copytree(adapter, store / "second"))
    config = (second / "adapter_config.json").read_text(encoding="utf-8")
    (second / "adapter_config.json").write_text(config.replace("../untied", "../adapter"), encoding="utf-8")
    with pytest.raises(UserError, match="itself an adapter"):
        load_model(second)


def test_a_truncated_file_is_refused_before_it_is_read(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut off"):
        load_model(folder)


@pytest.mark.parametrize("name", ["flash_attention_9", "quick"])
def test_an_attention_that_cannot_be_used_is_refused(tiny_model: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}.*use sdpa"):
        load_model(tiny_model, attention=name)


def test_a_configuration_of_an_older_transformers_loads_the_same_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("rope_parameters", "head_dim", "dtype", "attention_bias", "mlp_bias"):
        config.pop(name, None)
    config |= {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert torch.equal(logits(load_model(folder)), logits(load_model(tiny_model)))


def test_models_with_a_tied_head_load_in_several_threads_at_once(tiny_model: Path, tmp_path: Path) -> None:
    """Transformers changes its own classes while it loads; of loads at once one left tied heads unknown for good."""
    folder = tie_embeddings(tmp_path / "tied", tiny_model)
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(load_model, [folder] * 12))
    assert all(model.lm_head.weight is model.model.embed_tokens.weight for model in [*models, load_model(folder)])
