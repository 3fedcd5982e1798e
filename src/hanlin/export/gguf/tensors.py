"""The tensors of a Llama model as a GGUF file has them: their names, their order, and their rows as float32.

This is what differs between transformers' Llama and llama.cpp's: names, the order of query and key rows, RoPE factors,
where the experts of a Mixtral-shaped model are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.backends.llama_cpp import quants
from hanlin.models.folder.layout import CONFIG, ModelFiles, TensorEntry
from hanlin.models.folder.rope import read_rope
from hanlin.models.folder.shapes import PACKED_EXPERTS
from hanlin.models.layouts.gguf import EXPERT_NAMES, HEAD_NAMES, LAYER_NAMES, OUTSIDE_NAMES, ROPE_FACTORS

_KINDS: dict[str, Any] = {"F32": np.float32, "F16": np.uint16, "BF16": np.uint16}


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows `first` to `first + rows` of a stored tensor seen as a matrix; a vector is one row. Of queries and keys with
    `heads` they are read in llama.cpp's order.
    """

    entry: TensorEntry
    first: int
    rows: int
    columns: int
    heads: int = 0

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Some of these rows as float32 [stop - start, columns]."""
        if not self.heads:
            return self._stored(start, stop)
        if self.rows == 1:
            return self._stored(start, stop)[:, _rope_row_order(self.columns, self.heads)]
        size = self.rows // self.heads
        first, last = start // size, -(-stop // size)  # whole heads
        order = _rope_row_order((last - first) * size, last - first)
        return self._stored(first * size, last * size)[order[start - first * size : stop - first * size]]

    def _stored(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read, not mapped: mapped pages would count as memory of ours, up to the whole model."""
        kind = _KINDS[self.entry.dtype]
        count = (stop - start) * self.columns
        offset = self.entry.start + (self.first + start) * self.columns * np.dtype(kind).itemsize
        values = np.fromfile(self.entry.file, kind, count, offset=offset)
        return quants.as_float32(values, self.entry.dtype).reshape(-1, self.columns)


@dataclass(frozen=True, slots=True)
class ComputedRows:
    """Computed rows, which no file holds."""

    values: NDArray[np.float32]

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        return self.values.reshape(1, -1)[start:stop]


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of the file: its name, its shape [rows, columns] or [size], and the one part that its numbers come from;
    of experts [experts, rows, columns], with a part for each.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[StoredRows | ComputedRows, ...]

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of each part."""
        return (1, self.shape[0]) if len(self.shape) == 1 else (self.shape[-2], self.shape[-1])

    @property
    def weights(self) -> int:
        return math.prod(self.shape)


def list_tensors(files: ModelFiles) -> list[GgufTensor]:
    """Every tensor in the order of a file that llama.cpp's quantizer writes: those outside the layers, then layer by
    layer, each by name.
    """
    tensors = [*_outside(files.config, files.tensors)]
    for layer in range(int(files.config["num_hidden_layers"])):
        tensors += sorted(_layer(files, layer), key=lambda tensor: tensor.name)
    return tensors


def _outside(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]) -> Iterator[GgufTensor]:
    head = {} if config.get("tie_word_embeddings") else HEAD_NAMES
    outside = [_plain_tensor(name, tensors[source]) for source, name in {**OUTSIDE_NAMES, **head}.items()]
    factors = rope_factors(config)
    if factors is not None:
        outside.append(GgufTensor(ROPE_FACTORS, factors.shape, (ComputedRows(factors),)))
    yield from sorted(outside, key=lambda tensor: tensor.name)


def _layer(files: ModelFiles, layer: int) -> Iterator[GgufTensor]:
    heads = int(files.config["num_attention_heads"])
    rope_heads = {"attn_q": heads, "attn_k": int(files.config.get("num_key_value_heads") or heads)}
    for module, name in LAYER_NAMES.items():
        for kind in ("weight", "bias"):
            entry = files.tensors.get(f"model.layers.{layer}.{module}.{kind}")
            if entry is not None:
                yield _plain_tensor(f"blk.{layer}.{name}.{kind}", entry, rope_heads.get(name, 0))
    if files.config.get("num_local_experts"):
        yield from _experts(files, layer)


def _experts(files: ModelFiles, layer: int) -> Iterator[GgufTensor]:
    """A layer's experts, each kind of matrix stacked. Packed, an expert's gate rows come before its up rows."""
    count, hidden_size = int(files.config["num_local_experts"]), int(files.config["hidden_size"])
    intermediate_size = int(files.config["intermediate_size"])
    gate_up = files.tensors.get(PACKED_EXPERTS.format(layer))
    for matrix, name in EXPERT_NAMES.items():
        rows, columns = (hidden_size, intermediate_size) if matrix == "w2" else (intermediate_size, hidden_size)
        if gate_up is None:
            name_format = f"model.layers.{layer}.block_sparse_moe.experts.{{}}.{matrix}.weight"
            parts = [StoredRows(files.tensors[name_format.format(expert)], 0, rows, columns) for expert in range(count)]
        elif matrix == "w2":
            entry = files.tensors[f"model.layers.{layer}.mlp.experts.down_proj"]
            parts = [StoredRows(entry, expert * rows, rows, columns) for expert in range(count)]
        else:
            first_row = intermediate_size if matrix == "w3" else 0
            parts = [
                StoredRows(gate_up, 2 * intermediate_size * expert + first_row, rows, columns)
                for expert in range(count)
            ]
        yield GgufTensor(f"blk.{layer}.{name}.weight", (count, rows, columns), tuple(parts))


def _plain_tensor(name: str, entry: TensorEntry, heads: int = 0) -> GgufTensor:
    rows, columns = (1, entry.shape[0]) if len(entry.shape) == 1 else entry.shape
    return GgufTensor(name, entry.shape, (StoredRows(entry, 0, rows, columns, heads),))


def _rope_row_order(rows: int, heads: int) -> NDArray[np.int64]:
    """Which stored row each row of the file is. transformers turns element i of a head together with i + half,
    llama.cpp 2i with 2i + 1; so the rows of queries and keys are interleaved.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings in one form, see `read_rope`. Raises UserError if llama.cpp does not compute them."""
    rope = read_rope(config)
    if rope["rope_type"] in ("llama3", "yarn"):  # as in transformers
        rope.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    if rope["rope_type"] not in ("default", "linear", "llama3", "yarn"):
        kind = rope["rope_type"]
        what = tr("rotary scaling of type {kind!r} cannot be written", kind=kind)
        raise UserError(what, CONFIG, tr("supported: linear, llama3, yarn"))
    if rope["rope_type"] == "yarn" and rope.get("truncate") is False:
        raise UserError(tr("llama.cpp computes YaRN with truncate: true alone"), CONFIG)
    return rope


def yarn_attention_factor(rope: Mapping[str, Any]) -> float | None:
    """What llama.cpp multiplies its own factor of YaRN, 0.1 · ln(factor) + 1, with; None if that is what the model has.

    transformers takes `attention_factor`, or the quotient of two such factors if both `mscale` are given.
    """
    factor = float(rope["factor"])

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    wanted = rope.get("attention_factor")
    if wanted is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        wanted = scale(float(rope["mscale"])) / scale(float(rope["mscale_all_dim"]))
    if wanted is None or math.isclose(float(wanted), scale(1.0), rel_tol=1e-6):
        return None
    return float(wanted) / scale(1.0)


def rope_factors(config: Mapping[str, Any]) -> NDArray[np.float32] | None:
    """By what Llama 3.1's scaling divides each rotary frequency, [head size / 2]; None for other models.

    Low frequencies, whose wave is longer than the context of the first training, are divided by `factor`, high ones by
    1, those between by what lies between (transformers, `_compute_llama3_parameters`). In torch's float32, as
    llama.cpp's converter computes them, to the last bit.
    """
    rope = rope_parameters(config)
    if rope["rope_type"] != "llama3":
        return None
    import torch  # for its rounding alone: most models are written without it

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
