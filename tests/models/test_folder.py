"""A folder that cannot be loaded is refused before any weight is read, with the problem, the file and a hint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MixtralConfig

from hanlin.core.errors import UserError
from hanlin.models.folder.adapter import check_adapter_folder, check_base, fingerprint
from hanlin.models.folder.checks import check_model_folder, check_quantized_folder, check_safetensors, read_config
from hanlin.models.folder.config import check_config, read_number
from hanlin.models.folder.rope import read_rope
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.load import load_model


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def change(path: Path, **values: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    data.update(values)
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}), encoding="utf-8")


def refusal(folder: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        check_model_folder(folder)
    return caught.value


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    save_file(weights, folder / "model.safetensors")


def split_in_two(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, inside in halves.items():
        save_file({name: weights[name] for name in inside}, folder / file)
    places = {name: file for file, inside in halves.items() for name in inside}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")


def test_every_tensor_of_a_complete_file_is_listed_with_its_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    listed = check_safetensors(folder / "model.safetensors")
    assert {name: entry.shape for name, entry in listed.items()} == {
        name: tuple(w.shape) for name, w in weights.items()
    }


def test_the_shapes_of_a_configuration_are_those_of_the_model(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert llama_shapes(config) == {name: tuple(weight.shape) for name, weight in weights.items()}


def test_a_quantized_folder_must_be_a_complete_llama(folder: Path) -> None:
    change(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "already quantized" in str(refusal(folder))
    assert check_quantized_folder(folder)["model_type"] == "llama"
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-9])
    with pytest.raises(UserError, match="cut off"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(weights)
    change(folder / "config.json", architectures=["Qwen2ForCausalLM"], model_type="qwen2")
    with pytest.raises(UserError, match="Qwen2ForCausalLM is not supported"):
        load_model(folder)


@pytest.mark.parametrize("left", [0, 5, 100, -1])
def test_a_truncated_file_is_named_with_the_bytes_expected_and_found(folder: Path, left: int) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    error = refusal(folder)
    assert str(error.where) == str(file)
    assert f"{len(whole[:left]):,} found" in error.what


def test_a_file_truncated_within_its_tensors_says_how_long_it_should_be(folder: Path) -> None:
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert f"{len(whole):,} bytes expected" in refusal(folder).what


def test_bytes_after_the_last_tensor_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"more")
    assert "has 4 bytes after" in refusal(folder).what


def test_a_file_of_another_format_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04 the weights of a pickled checkpoint " * 4)
    assert "not a safetensors file" in refusal(folder).what


def test_a_header_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"{{{{")
    assert "not a safetensors file" in refusal(folder).what


def test_tensors_that_overlap_are_refused(folder: Path) -> None:
    rows = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}
    header = json.dumps(rows).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    assert "wrong position" in refusal(folder).what


def test_a_folder_without_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder).what


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "nowhere").what


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_not_opened_and_the_hint_says_how_to_convert(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"never read")
    error = refusal(folder)
    assert name in error.what
    assert error.hint is not None
    assert "import_checkpoint" in error.hint


def test_pickled_weights_beside_safetensors_are_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    check_model_folder(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in refusal(folder).what


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "Qwen2ForCausalLM"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": None, "model_type": "mamba"}, "mamba"),
    ],
)
def test_another_architecture_is_named_and_the_supported_one_too(
    folder: Path, values: dict[str, object], named: str
) -> None:
    change(folder / "config.json", **values)
    error = refusal(folder)
    assert named in error.what
    assert "LlamaForCausalLM" in str(error.hint)


def test_a_model_with_code_of_its_own_is_refused(folder: Path) -> None:
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Model"})
    assert "code of its own" in refusal(folder).what


def test_quantized_weights_are_refused(folder: Path) -> None:
    change(folder / "config.json", quantization_config={"quant_method": "gptq"})
    assert "quantized" in refusal(folder).what


def test_sharded_weights_are_read_by_their_index(folder: Path) -> None:
    whole = check_model_folder(folder)
    split_in_two(folder)
    assert check_model_folder(folder).tensors.keys() == whole.tensors.keys()


def test_a_missing_shard_is_named(folder: Path) -> None:
    split_in_two(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(folder).what


def test_shards_without_their_index_are_refused(folder: Path) -> None:
    split_in_two(folder)
    (folder / "model.safetensors.index.json").unlink()
    assert "index" in refusal(folder).what


def test_an_index_cannot_name_files_outside_the_folder(folder: Path) -> None:
    split_in_two(folder)
    places = dict.fromkeys(["model.norm.weight"], "../model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    assert "are missing" in refusal(folder).what


def test_a_missing_weight_is_named(folder: Path) -> None:
    change_weights(folder, **{"model.norm.weight": None})
    assert "model.norm.weight" in refusal(folder).what


def test_a_weight_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    change_weights(folder, **{"model.norm.weight": torch.ones(7)})
    assert "[7]" in refusal(folder).what
    assert "[64]" in refusal(folder).what


def test_weights_that_do_not_belong_to_a_llama_are_refused(folder: Path) -> None:
    change_weights(folder, **{"model.layers.0.router.weight": torch.ones(7)})
    assert "model.layers.0.router.weight" in refusal(folder).what


def test_a_tied_model_with_an_output_head_of_its_own_is_refused(folder: Path) -> None:
    change(folder / "config.json", tie_word_embeddings=True)
    assert "tied" in refusal(folder).what


def test_a_tied_model_may_store_its_embeddings_twice(folder: Path) -> None:
    change(folder / "config.json", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    change_weights(folder, **{"lm_head.weight": weights["model.embed_tokens.weight"].clone()})
    check_model_folder(folder)


def test_a_tokenizer_with_more_entries_than_embedding_rows_is_refused(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 9999, "content": "<|new|>"})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert "10000 entries" in refusal(folder).what


def test_an_adapter_of_another_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}), encoding="utf-8")
    with pytest.raises(UserError, match="IA3"):
        check_adapter_folder(tmp_path)


def test_pickled_adapter_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
    (tmp_path / "adapter_model.bin").write_bytes(b"never read")
    with pytest.raises(UserError, match="pickled"):
        check_adapter_folder(tmp_path)


def test_a_fingerprint_does_not_depend_on_how_the_weights_are_sharded(folder: Path) -> None:
    whole = fingerprint(check_model_folder(folder))
    split_in_two(folder)
    assert fingerprint(check_model_folder(folder)) == whole


def test_a_fingerprint_changes_with_the_weights_though_the_configuration_stays(folder: Path) -> None:
    before = fingerprint(check_model_folder(folder))
    weights = load_file(folder / "model.safetensors")
    change_weights(folder, **{"model.norm.weight": weights["model.norm.weight"] + 1})
    assert fingerprint(check_model_folder(folder)) != before


def test_an_adapter_without_a_record_of_its_base_is_accepted(folder: Path, tmp_path: Path) -> None:
    check_base(tmp_path, check_model_folder(folder))


def test_the_checks_import_neither_torch_nor_transformers() -> None:
    code = "import sys, hanlin.models.folder.checks"
    code += "; sys.exit(any(n in sys.modules for n in ('torch', 'transformers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_theta": None},
        {"rope_scaling": None, "rope_theta": 10_000.0},
        {"rope_scaling": {"type": "default", "factor": None}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": None}, "rope_theta": None},
    ],
)
def test_rotary_settings_that_are_null_count_as_left_out(config: dict[str, object]) -> None:
    assert read_rope(config) == {"rope_type": "default", "rope_theta": 10_000.0}


@pytest.mark.parametrize(
    ("rope", "missing"),
    [
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": None}}, "rope_parameters.factor"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters.low_freq_factor"),
    ],
)
def test_rotary_scaling_that_lacks_a_number_is_refused_by_its_name(
    folder: Path, rope: dict[str, object], missing: str
) -> None:
    change(folder / "config.json", **rope)
    assert f"lacks or has a wrong value for {missing}" in str(refusal(folder))


def test_a_weight_that_two_files_hold_differently_is_refused(folder: Path) -> None:
    split_in_two(folder)
    first, second = (folder / f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
    name, weight = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: weight}, second)
    check_model_folder(folder)
    save_file({**load_file(second), name: weight + 1}, second)
    assert f"'{name}' is in another file of the folder too" in str(refusal(folder))


def test_what_a_mixtral_leaves_out_is_transformers_default_for_it(tmp_path: Path) -> None:
    left_out: dict[str, object] = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(left_out), encoding="utf-8")
    config, expected = read_config(tmp_path), MixtralConfig()
    assert read_rope(config) == expected.rope_parameters
    assert read_number(config, "rms_norm_eps") == expected.rms_norm_eps
    assert read_number(config, "num_experts_per_tok") == expected.num_experts_per_tok
    assert config["max_position_embeddings"] == expected.max_position_embeddings


def test_a_mixtral_that_attends_to_a_window_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "mixtral", "sliding_window": 4096, "max_position_embeddings": 32768}
    with pytest.raises(UserError, match=r"a window of 4096 tokens \(sliding_window\)"):
        check_config(config, tmp_path)
    check_config({**config, "max_position_embeddings": 4096}, tmp_path)
    check_config({**config, "model_type": "llama"}, tmp_path)  # which has no windows
