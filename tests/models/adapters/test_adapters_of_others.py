"""Adapters as PEFT and programs around it save them: merged they have PEFT's logits, or are refused by name."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import EvaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from hanlin.config.settings.model import Merge
from hanlin.config.settings.surgery.import_checkpoint import ImportCheckpoint
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.inference.backends.transformers.engine import Adapters
from hanlin.models import merge
from hanlin.models.folder.adapter import check_adapter_folder, normalize_key
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.layouts import import_checkpoint
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import logits, perturb_trainable
from tiny_llama import tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own, on tied embeddings and on embeddings that it saves
ATTENTION = ["q_proj", "v_proj"]
Save = Callable[..., Path]


@pytest.fixture
def save(store: Path, tiny_tokenizer: Path) -> Save:
    """Saves a trained adapter of these settings by PEFT alone, beside its base."""
    tokenizer = Tokenizer.load(tiny_tokenizer)
    tokenizer.save(tiny_llama(store / "biased", tokenizer, seed=3, attention_bias=True, mlp_bias=True))

    def save_with_peft(base: str = "untied", **config: Any) -> Path:
        settings = LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "target_modules": ATTENTION, **config})
        perturb_trainable(get_peft_model(load_model(store / base), settings)).save_pretrained(str(store / "adapter"))
        edit_config(store / "adapter", base_model_name_or_path=f"../{base}")
        return store / "adapter"

    return save_with_peft


def edit_config(adapter: Path, **values: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def rename_tensors(adapter: Path, rename: Callable[[str], str]) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({rename(key): tensor for key, tensor in load_file(file).items()}, file)


def merge_one(adapter: Path, out: Path) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return merge.run(Merge(adapter=("./a",)), Inputs({"adapter": (adapter,)}), out, StageContext())


@pytest.mark.parametrize(
    ("base", "config"),
    [
        ("untied", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
        ("tied", {"target_modules": ["embed_tokens", "q_proj"]}),
        ("tied", {"target_modules": ["embed_tokens", "lm_head"]}),
        ("tied", {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
        ("biased", {"bias": "all"}),
        ("biased", {"bias": "lora_only", "use_dora": True}),
        ("biased", {"lora_bias": True, "use_rslora": True}),
        ("untied", {"target_modules": ["model.layers.1.self_attn.q_proj"], "modules_to_save": ["layers.0"]}),
        ("untied", {"init_lora_weights": "eva", "eva_config": EvaConfig(), "rank_pattern": {"q_proj": 3}}),
        ("untied", {"target_modules": ["v_proj"], "target_parameters": ["mlp.up_proj.weight", "lm_head.weight"]}),
    ],
)
def test_what_peft_saves_beside_its_matrices_is_merged_as_peft_reads_it(
    save: Save, store: Path, tmp_path: Path, base: str, config: dict[str, Any]
) -> None:
    adapter = save(base, **config)
    merge_one(adapter, tmp_path / "merged")
    expected = logits(PeftModel.from_pretrained(load_model(store / base), str(adapter)).eval())
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), expected, rtol=0, atol=1e-5)
    assert float((expected - logits(load_model(store / base))).abs().max()) > 0.01


@pytest.mark.parametrize(
    "key",
    [
        "module.base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
        "base_model.model._orig_mod.model.layers.0.mlp.up_proj.lora_A.weight",
        "base_model.model.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.mlp.up_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight",
        "model.layers.0.mlp.up_proj.lora_A.weight",
    ],
)
def test_wrappers_around_the_model_leave_the_name_of_a_tensor_alone(key: str) -> None:
    assert normalize_key(key) == "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"


def test_an_adapter_saved_out_of_wrappers_is_merged(save: Save, tmp_path: Path) -> None:
    adapter = save(modules_to_save=["lm_head"])
    expected = logits(load_model(adapter))
    rename_tensors(adapter, lambda key: "_orig_mod." + key.replace("layers.0.", "layers.0._fsdp_wrapped_module."))
    assert torch.equal(logits(load_model(adapter)), expected)
    merge_one(adapter, tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("base", "names"), [("untied", ["embed_tokens", "lm_head"]), ("tied", ["embed_tokens"])])
def test_an_adapter_trained_with_more_rows_than_its_base_brings_them(
    save: Save, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, base: str, names: list[str]
) -> None:
    rows = check_model_folder(store / base).vocabulary_rows + 9
    model = load_model(store / base)
    model.resize_token_embeddings(rows)
    settings = LoraConfig(
        task_type="CAUSAL_LM", target_modules=ATTENTION, modules_to_save=names, ensure_weight_tying=base == "tied"
    )
    trained = perturb_trainable(get_peft_model(model, settings))
    trained.save_pretrained(str(store / "adapter"))
    edit_config(store / "adapter", base_model_name_or_path=f"../{base}")
    merge_one(store / "adapter", tmp_path / "merged")
    assert f"trained with {rows} rows of the vocabulary, its base has {rows - 9}" in caplog.text
    merged = load_model(tmp_path / "merged")
    assert merged.config.vocab_size == rows and merged.config.tie_word_embeddings == (base == "tied")
    torch.testing.assert_close(logits(merged), logits(trained), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("base", "weights"), [("tied", None), ("tied", (0.5, 0.5)), ("untied", None)])
def test_adapters_over_the_embeddings_are_not_mixed_with_others_unsaid(
    save: Save, tmp_path: Path, base: str, weights: tuple[float, ...] | None
) -> None:
    adapter = save(base, target_modules=["embed_tokens", "q_proj"])
    other = Path(shutil.copytree(adapter, adapter.parent / "other"))
    edit_config(other, lora_alpha=1)
    (tmp_path / "merged").mkdir()
    settings, inputs = Merge(adapter=("./a", "./b"), weights=weights), Inputs({"adapter": (adapter, other)})
    with pytest.raises(UserError, match=r"over model\.embed_tokens can be merged only by itself"):
        merge.run(settings, inputs, tmp_path / "merged", StageContext())
    assert not any((tmp_path / "merged").iterdir())


def test_two_tensors_of_one_name_that_differ_are_refused(save: Save) -> None:
    adapter = save()
    tensors = load_file(adapter / "adapter_model.safetensors")
    key, tensor = next(iter(tensors.items()))
    save_file({**tensors, f"module.{key}": tensor + 1}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="two tensors are both for base_model"):
        check_adapter_folder(adapter)


@pytest.mark.parametrize(
    ("config", "edit", "said"),
    [
        ({"lora_bias": True}, {}, r"adds biases \(lora_bias\), and model.layers.0.self_attn.q_proj has none"),
        ({"target_modules": ["embed_tokens"], "use_dora": True}, {}, "DoRA over the embeddings is not supported"),
        ({}, {"init_lora_weights": "loftq"}, "initialized by loftq belongs to a changed base"),
    ],
)
def test_what_cannot_be_merged_is_named(
    save: Save, tmp_path: Path, config: dict[str, Any], edit: dict[str, Any], said: str
) -> None:
    adapter = save(**config)
    edit_config(adapter, **edit)
    with pytest.raises(UserError, match=said):
        merge_one(adapter, tmp_path / "merged")


def test_settings_that_peft_does_not_know_are_said(
    save: Save, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = save()
    edit_config(adapter, use_newer_method=True, newer_default=None)
    with caplog.at_level(logging.WARNING):
        merge_one(adapter, tmp_path / "merged")
    assert "settings that PEFT does not know have no effect: use_newer_method" in caplog.text


def test_an_adapter_that_replaces_weights_of_its_base_is_not_switched(save: Save, store: Path) -> None:
    adapter = save("biased", bias="all")
    with pytest.raises(UserError, match="replaces weights of its base"):
        Adapters(load_model(store / "biased"), store / "biased", {"one": adapter})


def test_a_pickled_adapter_where_a_model_is_imported_is_told_apart(save: Save, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this is an adapter") as caught:
        import_adapter(save(), tmp_path / "out", holds="model")
    assert caught.value.hint == "set `holds: adapter`"
    with pytest.raises(UserError, match="no adapter with pickled weights"):
        import_adapter(save(), tmp_path / "out")


@pytest.mark.slow
def test_a_pickled_adapter_is_converted_to_the_bit(save: Save, tmp_path: Path) -> None:
    adapter = save()
    expected = logits(load_model(adapter))
    tensors = load_file(adapter / "adapter_model.safetensors")
    torch.save(tensors, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="pickled") as caught:
        check_adapter_folder(adapter)
    assert "holds: adapter" in str(caught.value.hint)
    metrics = import_adapter(adapter, tmp_path / "out")
    assert metrics == {"layout": "adapter", "files": 1, "dtype": "float32", "tensors_verified": len(tensors)}
    assert torch.equal(logits(load_model(tmp_path / "out")), expected)


def import_adapter(adapter: Path, out: Path, holds: str = "adapter") -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    settings = ImportCheckpoint.model_validate({"checkpoint": "./c", "holds": holds})
    return import_checkpoint.run(settings, Inputs({"checkpoint": (adapter,)}), out, StageContext())


def test_a_tensor_of_a_format_that_weights_do_not_have_is_named(save: Save, tmp_path: Path) -> None:
    adapter = save()
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: tensor.double() for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="is stored as F64"):
        merge_one(adapter, tmp_path / "merged")
