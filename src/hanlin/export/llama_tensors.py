"""The tensors of a Llama model as a GGUF file has them: their names, their order, and their rows as float32.

Owns what differs between transformers' Llama and llama.cpp's: names, the order of query and key rows, rotary factors.
Does not own their types or bytes in the file (`quantize`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hanlin.errors import UserError
from hanlin.language import say
from hanlin.model_files import CONFIG, ModelFiles, TensorEntry

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_HEAD = {"lm_head.weight": "output.weight"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file: its name, its shape [rows, columns] or [size], and where its numbers come from."""

    name: str
    shape: tuple[int, ...]
    source: TensorEntry | NDArray[np.float32]
    heads: int = 0

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns; a vector is one row."""
        return (1, self.shape[0]) if len(self.shape) == 1 else (self.shape[0], self.shape[1])

    @property
    def weights(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of `matrix` as float32. Of queries and keys they come in llama.cpp's order."""
        if isinstance(self.source, np.ndarray):
            return self.source.reshape(self.matrix)[start:stop]
        stored = _mapped(self.source)
        if self.heads:
            order = _rotary_order(self.shape[0], self.heads)
            stored = stored[order] if len(self.shape) == 1 else stored.reshape(self.matrix)[order[start:stop]]
            return _as_float32(stored.reshape(-1, self.matrix[1]), self.source.dtype)
        return _as_float32(stored.reshape(self.matrix)[start:stop], self.source.dtype)


def tensors_of(files: ModelFiles) -> Iterator[Tensor]:
    """Every tensor of the file in its order there: rotary factors, embeddings, layers from first to last, output."""
    config = files.config
    heads = int(config["num_attention_heads"])
    shared = int(config.get("num_key_value_heads") or heads)
    factors = rotary_factors(config)
    if factors is not None:
        yield Tensor("rope_freqs.weight", factors.shape, factors)
    head = {} if config.get("tie_word_embeddings") else _HEAD
    for source, name in {**_OUTSIDE, **head}.items():
        yield Tensor(name, files.tensors[source].shape, files.tensors[source])
    for layer in range(int(config["num_hidden_layers"])):
        for part, name in PARTS.items():
            for kind in ("weight", "bias"):
                entry = files.tensors.get(f"model.layers.{layer}.{part}.{kind}")
                if entry is not None:
                    turned = {"attn_q": heads, "attn_k": shared}.get(name, 0)
                    yield Tensor(f"blk.{layer}.{name}.{kind}", entry.shape, entry, turned)


def _rotary_order(rows: int, heads: int) -> NDArray[np.int64]:
    """Which stored row each row of the file is. transformers turns element i of a head together with i + half,
    llama.cpp 2i with 2i + 1; so the rows of queries and keys are interleaved."""
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings in one form: transformers 5 has `rope_parameters`, 4 `rope_scaling` and `rope_theta`."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope.setdefault("rope_type", rope.pop("type", "default"))
    rope.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    if rope["rope_type"] not in ("default", "linear", "llama3", "yarn"):
        kind = rope["rope_type"]
        what = say(f"rotary scaling of type {kind!r} cannot be written", f"无法导出 {kind!r} 类型的旋转位置缩放")
        raise UserError(what, CONFIG, say("supported: linear, llama3, yarn", "支持：linear、llama3、yarn"))
    return rope


def rotary_factors(config: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """By what Llama 3.1's scaling divides each rotary frequency, [head size / 2]; None for other models.

    Low frequencies, whose wave is longer than the context of the first training, are divided by `factor`, high ones by
    1, those between by what lies between (transformers, `_compute_llama3_parameters`). In torch's float32, as
    llama.cpp's converter computes them, to the last bit.
    """
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    frequencies = 1.0 / (float(rope["rope_theta"]) ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    waves = 2 * math.pi / frequencies
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    length = rope["original_max_position_embeddings"]
    share = (length / waves - low) / (high - low)
    divisors = 1 / ((1 - share) / factor + share)
    divisors[waves < length / high] = 1.0
    divisors[waves > length / low] = factor
    return divisors.numpy()


def _mapped(entry: TensorEntry) -> NDArray[Any]:
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    count = int(np.prod(entry.shape, dtype=np.int64))
    return np.memmap(entry.file, kinds[entry.dtype], "r", entry.start, (count,))


def _as_float32(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(stored, dtype=np.float32)
