"""What lies in a GGUF file: the model's own numbers in llama.cpp's order, and metadata that llama.cpp reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hanlin.chat.template import ChatTemplate
from hanlin.core.files import read_json
from hanlin.export.gguf.tensors import rope_factors
from hanlin.export.gguf.verify import TEXTS
from hanlin.tokenizer.generation_config import read_sampling_params, write_sampling_params
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_llama import LLAMA3_ROPE

Make = Callable[..., Path]
Export = Callable[..., tuple[Path, dict[str, Any]]]


def tensors_in(file: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def metadata_of(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def test_a_float_file_holds_the_models_own_numbers(plain_model: Path, export: Export) -> None:
    out, _ = export(plain_model, "F32", compare=False)
    source = load_file(plain_model / "model.safetensors")
    written = tensors_in(out / "model-F32.gguf")
    pairs = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.1.attn_v.weight": "model.layers.1.self_attn.v_proj.weight",
        "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
        "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
        "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
    }
    assert len(written) == len(source)
    for name, origin in pairs.items():
        assert np.array_equal(written[name].data, source[origin]), name


def test_query_and_key_rows_are_interleaved_within_each_head(plain_model: Path, export: Export) -> None:
    out, _ = export(plain_model, "F32", compare=False)
    source = load_file(plain_model / "model.safetensors")
    written = tensors_in(out / "model-F32.gguf")
    for name, origin, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        stored = source[f"model.layers.0.self_attn.{origin}.weight"]
        rows = written[f"blk.0.{name}.weight"].data
        size = len(stored) // heads
        for head in range(heads):
            for place in range(size // 2):
                assert np.array_equal(rows[head * size + 2 * place], stored[head * size + place])
                assert np.array_equal(rows[head * size + 2 * place + 1], stored[head * size + size // 2 + place])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_key_value_heads": 4},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 32},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"rope_parameters": LLAMA3_ROPE},
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=["grouped", "ungrouped", "tied", "biases", "head_size", "linear", "llama3", "yarn"],
)
def test_a_float32_file_has_the_models_probabilities(make_model: Make, export: Export, config: dict[str, Any]) -> None:
    _, metrics = export(make_model(**config), "F32")
    assert metrics["F32"]["kl"] < 1e-8
    assert metrics["F32"]["same_top_token"] == 1.0
    assert metrics["F32"]["positions"] > 100


@pytest.mark.parametrize(("experts", "packed"), [(4, False), (8, True)], ids=["apart", "packed"])
def test_a_model_of_experts_has_the_probabilities_of_transformers(
    make_model: Make, export: Export, experts: int, packed: bool
) -> None:
    model = make_model(num_local_experts=experts, num_experts_per_tok=2, packed_experts=packed, intermediate_size=96)
    out, metrics = export(model, "F32", "Q8_0")
    assert metrics["F32"]["kl"] < 1e-8
    assert metrics["Q8_0"]["kl"] < 5e-2
    found = metadata_of(out / "model-F32.gguf")
    assert (found["llama.expert_count"], found["llama.expert_used_count"]) == (experts, 2)
    assert found["general.architecture"] == "llama"


def test_rows_that_a_type_cannot_hold_get_another_and_the_manifest_says_how_many(
    make_model: Make, export: Export
) -> None:
    out, metrics = export(make_model(hidden_size=96, intermediate_size=80), "Q4_K_M", compare=False)
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors_in(out / "model-Q4_K_M.gguf").items()}
    assert kinds["blk.0.attn_q.weight"] == "Q5_0"  # rows of 96: no blocks of 256, but of 32
    assert kinds["blk.0.ffn_down.weight"] == "F16"  # rows of 80: neither
    narrow = metrics["Q4_K_M"]["fallback_types"]
    assert sum(narrow.values()) == metrics["Q4_K_M"]["fallback_tensors"] == 16
    assert narrow["F16"] == 2


def test_bfloat16_weights_stay_as_they_are_in_a_bfloat16_file(make_model: Make, export: Export) -> None:
    model = make_model(dtype=torch.bfloat16)
    out, _ = export(model, "BF16", compare=False)
    with (model / "model.safetensors").open("rb") as file:
        stored = file.read()
    values = tensors_in(out / "model-BF16.gguf")["blk.0.ffn_up.weight"]
    assert values.tensor_type == gguf.GGMLQuantizationType.BF16
    assert values.data.tobytes() in stored


def test_tied_embeddings_are_written_once(make_model: Make, export: Export) -> None:
    out, _ = export(make_model(tie_word_embeddings=True), "F16", compare=False)
    names = tensors_in(out / "model-F16.gguf")
    assert "token_embd.weight" in names
    assert "output.weight" not in names


def test_the_vocabulary_is_filled_to_the_embedding_rows(make_model: Make, export: Export, tiny_tokenizer: Path) -> None:
    size = len(Tokenizer.load(tiny_tokenizer))
    out, metrics = export(make_model(more_rows=24), "F32", compare=False)
    tokens = metadata_of(out / "model-F32.gguf")["tokenizer.ggml.tokens"]
    assert len(tokens) == size + 24 == metrics["tokenizer"]["vocabulary"]
    assert tokens[size] == f"[PAD{size}]"


def test_llama_31s_rotary_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=4096, num_attention_heads=32, rope_parameters=rope)
    factors = rope_factors(config.to_dict())
    assert factors is not None
    plain = 500000.0 ** -(np.arange(0, 128, 2) / 128)
    expected = LlamaRotaryEmbedding(config).inv_freq.numpy()
    assert np.allclose(plain / factors, expected, rtol=1e-6)


def test_metadata_says_what_the_configuration_says(plain_model: Path, export: Export) -> None:
    out, _ = export(plain_model, "Q8_0", compare=False, name="小翰", license="apache-2.0")
    found = metadata_of(out / "model-Q8_0.gguf")
    expected = {
        "general.architecture": "llama",
        "general.name": "小翰",
        "general.license": "apache-2.0",
        "general.file_type": 7,
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
    }
    assert {name: found[name] for name in expected} == expected


def test_the_files_beside_are_the_whole_tokenizer(plain_model: Path, export: Export) -> None:
    out, _ = export(plain_model, "F16", compare=False)
    here, there = Tokenizer.load(out), Tokenizer.load(plain_model)
    assert here.encode_batch(TEXTS) == there.encode_batch(TEXTS)
    assert (out / "chat_template.jinja").read_bytes() == (plain_model / "chat_template.jinja").read_bytes()
    said, told = (read_json(folder / "generation_config.json") for folder in (plain_model, out))
    stops = set(ChatTemplate.load(plain_model).stop_ids)
    assert set(told["eos_token_id"]) == stops
    assert {**said, **told} == told


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0.0, "repetition_penalty": 1.1}, {"temperature": 0.7, "top_k": 40}]
)
def test_sampling_defaults_are_in_the_file(
    sampling: dict[str, float], plain_model: Path, export: Export, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(plain_model, model)
    write_sampling_params(model, sampling)
    out, _ = export(model, "F16", compare=False)
    assert read_sampling_params(out / "model-F16.gguf") == read_sampling_params(out) == sampling


def test_equal_input_gives_equal_bytes(plain_model: Path, export: Export) -> None:
    one, _ = export(plain_model, "Q4_K_M", compare=False)
    other, _ = export(plain_model, "Q4_K_M", compare=False)
    assert (one / "model-Q4_K_M.gguf").read_bytes() == (other / "model-Q4_K_M.gguf").read_bytes()


def test_a_killed_run_goes_on_with_the_types_that_lack(plain_model: Path, export: Export, tmp_path: Path) -> None:
    whole, _ = export(plain_model, "F16", "Q8_0", compare=False)
    broken = tmp_path / "broken"
    (broken / ".work").mkdir(parents=True)
    (broken / "model-F16.gguf").write_bytes((whole / "model-F16.gguf").read_bytes())
    (broken / ".work" / "model-Q8_0.gguf").write_bytes((whole / "model-Q8_0.gguf").read_bytes()[:5000])
    before = (broken / "model-F16.gguf").stat().st_mtime_ns
    export(plain_model, "F16", "Q8_0", compare=False, out=broken)
    assert (broken / "model-F16.gguf").stat().st_mtime_ns == before
    assert (broken / "model-Q8_0.gguf").read_bytes() == (whole / "model-Q8_0.gguf").read_bytes()


def test_files_shrink_with_their_bits(make_model: Make, export: Export) -> None:
    types = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
    _, metrics = export(make_model(hidden_size=256, intermediate_size=256), *types)
    bits = [metrics[name]["bits_per_weight"] for name in types]
    assert bits == sorted(bits, reverse=True)
    assert metrics["F32"]["bits_per_weight"] == 32
    assert 8.5 <= metrics["Q8_0"]["bits_per_weight"] < 8.6
    divergences = [metrics[name]["kl"] for name in ("F32", "F16", "Q8_0", "Q4_K_M", "Q2_K")]
    assert divergences == sorted(divergences)
