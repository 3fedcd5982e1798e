"""Model folders of others: every broken or boundless file ends in one sentence, in little time and memory."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.core.files import read_json
from hanlin.core.limits import MAX_HEADER_BYTES
from hanlin.models.folder import checks
from hanlin.models.folder.adapter import check_adapter_folder
from hanlin.models.folder.checks import check_model_folder, check_safetensors, is_quantized
from hanlin.models.folder.shapes import llama_shapes
from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params
from waiting import hang_limit


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """What is refused takes no memory, and it comes to an end."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hang_limit():
        yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def change(path: Path, **values: object) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | values), encoding="utf-8")


@pytest.mark.parametrize(
    "values",
    [
        *({"num_hidden_layers": 10**9}, {"num_hidden_layers": 0}, {"num_hidden_layers": -1}, {"hidden_size": True}),
        *({"hidden_size": 10**500}, {"hidden_size": float("inf")}, {"hidden_size": "256"}, {"hidden_size": [1]}),
        *({"architectures": 5}, {"architectures": [[]]}, {"model_type": ["llama"]}, {"vocab_size": 1e9}),
        *({"quantization_config": {"quant_method": ["a"]}}, {"quantization_config": [1]}, {"num_attention_heads": 0}),
        *({"rope_parameters": {"rope_type": 5}}, {"rope_scaling": "x"}, {"rope_theta": -1}, {"rms_norm_eps": "x"}),
        *(
            {"eos_token_id": {}},
            {"eos_token_id": [1, None]},
            {"bos_token_id": [1]},
            {"tie_word_embeddings": "no"},
            {"hidden_act": 1},
        ),
        {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 10**9},
    ],
    ids=str,
)
def test_a_configuration_with_a_wrong_value_is_refused_by_its_name(folder: Path, values: dict[str, Any]) -> None:
    change(folder / "config.json", **values)
    with pytest.raises(UserError) as caught:
        check_model_folder(folder, experts=True)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '{"a":' * 100_000, '{"a":' * 70 + "1" + "}" * 70, '{"a": ' + "9" * 5000 + "}", "[1]", ""),
        *('{"a": ' + "9" * 60 + "}", '{"a": "\\ud800"}', '{"\\udfff": 1}', "{'a': 1}", '{"a": 1} {"b": 2}'),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_none_or_beyond_limits_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    for read in (lambda: read_json(tmp_path / "config.json"), lambda: is_quantized(tmp_path)):
        with pytest.raises(UserError) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_settings_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(UserError, match="17,179,869,184 bytes"):
        read_json(tmp_path / "config.json")


def write_safetensors(path: Path, header: bytes, data: bytes = b"") -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def test_the_pointer_of_git_lfs_in_place_of_weights_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"pointer of Git LFS.*git lfs pull"):
        check_safetensors(file)


def test_a_header_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((90 << 20).to_bytes(8, "little") + b'{"a')
        file.truncate(91 << 20)
    with pytest.raises(UserError, match=f"at most {MAX_HEADER_BYTES:,}"):
        check_safetensors(path)


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "entry",
    [
        *({"shape": [1] * 9}, {"shape": [10**80]}, {"shape": [-1, -1]}, {"shape": [True]}, {"shape": [1.0]}),
        *({"shape": "1"}, {"shape": None}, {"data_offsets": [0]}, {"data_offsets": [0, 4, 8]}, {"dtype": []}),
        *({"data_offsets": [-4, 0]}, {"data_offsets": [0, 2**70]}, {"data_offsets": "04"}, {"data_offsets": [0.0, 4]}),
    ],
    ids=str,
)
def test_a_tensor_with_impossible_sizes_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, json.dumps({"a": ENTRY | entry}).encode(), bytes(4))
    with pytest.raises(UserError):
        check_safetensors(path)


def test_more_tensors_than_any_model_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_TENSORS", 100)
    path = tmp_path / "model.safetensors"
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write_safetensors(path, json.dumps({str(i): empty for i in range(101)}).encode())
    with pytest.raises(UserError, match="101 tensors"):
        check_safetensors(path)


@pytest.mark.parametrize("names", [["../a"], ["a" * 5000], ["\0"], [""], [5], [f"{i}" for i in range(9000)]])
def test_an_index_names_files_of_its_own_folder_alone(folder: Path, names: list[Any]) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {str(i): name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError):
        check_model_folder(folder)


def test_shapes_of_a_boundless_configuration_are_not_counted() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "vocab_size": 8}
    for more in ({"num_hidden_layers": 10**9}, {"num_hidden_layers": 300, "num_local_experts": 10**6}):
        with pytest.raises(ValueError, match="num_hidden_layers"):
            llama_shapes(sizes | more)


@pytest.mark.parametrize(
    "values",
    [
        *({"temperature": "hot"}, {"top_p": [1]}, {"top_k": 1.5}, {"top_k": -1}, {"temperature": float("nan")}),
        *({"repetition_penalty": {}}, {"temperature": True}, {"eos_token_id": "a"}, {"eos_token_id": [None]}),
        *({"eos_token_id": 10**30}, {"eos_token_id": 1.0}, {"eos_token_id": {}}),
    ],
    ids=str,
)
def test_generation_settings_of_another_kind_are_refused_by_name(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True} | values), encoding="utf-8")
    with pytest.raises(UserError, match=next(iter(values))):
        print(read_sampling_params(tmp_path), read_eos_token_ids(tmp_path))


@pytest.mark.parametrize(
    "values",
    [
        *({"r": 10**9}, {"r": 0}, {"r": "8"}, {"r": 4096}, {"rank_pattern": {"q_proj": 10**9}}, {"rank_pattern": []}),
        *({"target_modules": 5}, {"target_modules": [5]}, {"lora_alpha": "x"}, {"lora_dropout": 7}, {"peft_type": []}),
        *({"use_dora": 1}, {"modules_to_save": "x"}, {"layers_to_transform": [-1]}, {"bias": 1}),
    ],
    ids=str,
)
def test_an_adapter_with_a_wrong_value_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    config = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]} | values
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    header = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ENTRY | {"shape": [1, 1]}}
    write_safetensors(tmp_path / "adapter_model.safetensors", json.dumps(header).encode(), bytes(4))
    with pytest.raises(UserError):
        check_adapter_folder(tmp_path)
