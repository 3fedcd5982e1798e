"""Which type a tensor gets, and that its bytes are those of the quantization formats."""

from __future__ import annotations

from collections import Counter

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Ggml

from hanlin.export.gguf.quant_types import FILE_TYPES, QuantShape, tensor_type
from hanlin.export.gguf.quantize import Quantizer, encode_rows

LLAMA_3_8B = QuantShape(layers=32, heads=32, kv_heads=8, tied=False)
ROWS = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)


def types_of_a_model(file_type: str, shape: QuantShape) -> dict[str, int]:
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = ["token_embd.weight"] + ([] if shape.tied else ["output.weight"])
    names += [f"blk.{layer}.{part}.weight" for layer in range(shape.layers) for part in parts]
    return dict(Counter(tensor_type(name, file_type, shape, 4096, 2).name for name in names))


@pytest.mark.parametrize(
    ("file_type", "expected"),
    [
        ("Q8_0", {"Q8_0": 226}),
        ("Q6_K", {"Q6_K": 226}),
        ("Q5_K_M", {"Q5_K": 193, "Q6_K": 33}),
        ("Q5_K_S", {"Q5_K": 225, "Q6_K": 1}),
        ("Q4_K_M", {"Q4_K": 193, "Q6_K": 33}),
        ("Q4_K_S", {"Q4_K": 217, "Q5_K": 8, "Q6_K": 1}),
        ("Q4_0", {"Q4_0": 225, "Q6_K": 1}),
        ("Q3_K_L", {"Q3_K": 129, "Q5_K": 96, "Q6_K": 1}),
        ("Q3_K_M", {"Q3_K": 129, "Q4_K": 92, "Q5_K": 4, "Q6_K": 1}),
        ("Q3_K_S", {"Q3_K": 225, "Q6_K": 1}),
        ("Q2_K", {"Q2_K": 129, "Q3_K": 64, "Q4_K": 32, "Q6_K": 1}),
    ],
)
def test_llama_3_8b_gets_the_types_that_llama_cpp_gives_it(file_type: str, expected: dict[str, int]) -> None:
    assert types_of_a_model(file_type, LLAMA_3_8B) == expected


def test_tied_embeddings_get_the_type_of_the_output() -> None:
    tied = QuantShape(layers=16, heads=32, kv_heads=8, tied=True)
    assert tensor_type("token_embd.weight", "Q4_K_M", tied, 2048, 2) == Ggml.Q6_K
    assert tensor_type("token_embd.weight", "Q4_K_M", LLAMA_3_8B, 4096, 2) == Ggml.Q4_K


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_norms_and_vectors_stay_float32(file_type: str) -> None:
    for name in ("blk.0.attn_norm.weight", "output_norm.weight", "blk.0.attn_q.bias", "rope_freqs.weight"):
        assert tensor_type(name, file_type, LLAMA_3_8B, 4096, 1) == Ggml.F32


@pytest.mark.parametrize(
    ("file_type", "columns", "expected"),
    [
        ("Q4_K_M", 288, "Q5_0"),
        ("Q5_K_S", 288, "Q5_1"),
        ("Q6_K", 288, "Q8_0"),
        ("Q3_K_S", 288, "Q4_0"),
        ("IQ4_XS", 288, "IQ4_NL"),
        ("Q4_K_M", 100, "F16"),
        ("Q8_0", 100, "F16"),
    ],
)
def test_rows_that_do_not_fit_a_types_blocks_take_a_near_type(file_type: str, columns: int, expected: str) -> None:
    assert tensor_type("blk.5.attn_q.weight", file_type, LLAMA_3_8B, columns, 2).name == expected


@pytest.mark.parametrize("kind", [Ggml.Q8_0, Ggml.Q4_0, Ggml.Q4_1, Ggml.Q5_0, Ggml.Q5_1, Ggml.F16, Ggml.BF16])
def test_simple_types_have_the_bytes_of_the_formats_own_definition(kind: Ggml) -> None:
    assert encode_rows(kind, ROWS).tobytes() == gguf.quants.quantize(ROWS, kind).tobytes()


@pytest.mark.parametrize(
    ("kind", "largest"),
    [(Ggml.Q6_K, 0.05), (Ggml.Q5_K, 0.1), (Ggml.Q4_K, 0.2), (Ggml.IQ4_XS, 0.25), (Ggml.Q3_K, 0.45), (Ggml.Q2_K, 1.0)],
)
def test_k_types_give_back_what_they_were_given_within_their_bits(kind: Ggml, largest: float) -> None:
    back = gguf.quants.dequantize(encode_rows(kind, ROWS), kind)
    assert np.sqrt(((back - ROWS) ** 2).mean()) < largest


def test_slabs_are_the_whole_tensor_whatever_the_threads() -> None:
    rows = np.random.default_rng(1).standard_normal((40_000, 512)).astype(np.float32)
    whole = encode_rows(Ggml.Q4_0, rows).tobytes()
    for threads in (1, 3):
        quantizer = Quantizer(threads)
        quantize_chunks = [
            chunk.tobytes() for chunk in quantizer.quantize_chunks(Ggml.Q4_0, rows.shape, lambda a, b: rows[a:b])
        ]
        quantizer.close()
        assert len(quantize_chunks) > 1
        assert b"".join(quantize_chunks) == whole
