"""The weights of a GGUF file: where each tensor is, what it is called in a model folder, and its rows as numbers.

Source: `docs/gguf.md` of ggml. The list of tensors is little-endian and follows the metadata, which
`tokenizer/gguf_metadata` reads. What turns stored rows into numbers is handed in: llama.cpp's own code does.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, tr
from hanlin.core.limits import MAX_TENSORS
from hanlin.models.folder.gguf import list_gguf_parts
from hanlin.models.layouts.row_order import undo_interleaving
from hanlin.models.save import round_weight
from hanlin.tokenizer.gguf_metadata import GgufMetadata, read_gguf_metadata

LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.gate": "ffn_gate_inp",
}
"""What GGUF calls a module of a layer."""
EXPERT_NAMES = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
"""What GGUF calls the tensor [experts, rows, columns] of a matrix of all experts of a layer."""
OUTSIDE_NAMES = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
HEAD_NAMES = {"lm_head.weight": "output.weight"}
ROPE_FACTORS = "rope_freqs.weight"
_NO_WEIGHTS = frozenset({"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"})
"""Types of ggml that no file stores weights in."""
_EXPERT = re.compile(r"block_sparse_moe\.experts\.(?P<expert>\d+)\.(?P<matrix>w[123])")
_MAX_NAME_BYTES, _MAX_DIMENSIONS = 64, 4
"""Limits of ggml itself (`GGML_MAX_NAME`, `GGML_MAX_DIMS`)."""
_CHUNK_WEIGHTS = 1 << 24

Dequantize = Callable[[int, NDArray[np.uint8], int], NDArray[np.float32]]
"""Stored rows [rows, bytes] of a ggml type, and how many numbers a row has, to float32 [rows, columns]."""


@dataclass(frozen=True, slots=True)
class GgufTensorEntry:
    """A tensor of a GGUF file.

    Attributes:
        kind: Its type by ggml's name: `Q4_K`, `F16`.
        kind_id: ggml's number of that type.
        shape: As in a model folder: rows, then columns.
        start: Where its bytes begin in the file.
        size: How many bytes it has.
        file: The file that holds it.
    """

    kind: str
    kind_id: int
    shape: tuple[int, ...]
    start: int
    size: int
    file: Path

    @property
    def weights(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def read_gguf_tensors(metadata: GgufMetadata) -> dict[str, GgufTensorEntry]:
    """Read the list of tensors of a GGUF file, and of the other files of its model, and check that these hold them all.

    Args:
        metadata: What `read_gguf_metadata` read of the file, the first one of its model.

    Raises:
        UserError: A file is cut off or missing, or a tensor has a name, shape or type that none has.
    """
    count = metadata.values.get("split.count")
    if count in (None, 0, 1):
        return _read_file(metadata)
    parts = list_gguf_parts(metadata.path)
    if len(parts) != count or parts[0] != metadata.path:
        what = tr("this is one of {count} parts of a model, but not named as the first of them", count=count)
        raise UserError(what, metadata.path, tr("the names must be those of `llama-gguf-split`"))
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        what = tr("{count} files of the model are missing: {names}", count=len(missing), names=_shorten(missing))
        raise UserError(what, metadata.path, tr("put them beside it"))
    entries: dict[str, GgufTensorEntry] = {}
    for index, part in enumerate(parts):
        other = metadata if index == 0 else read_gguf_metadata(part)
        found = _read_file(other)
        if other.values.get("split.no") != index or other.values.get("split.count") != count or entries.keys() & found:
            raise UserError(
                tr("it is not part {index} of this model", index=index + 1), part, tr("copy it again from its source")
            )
        entries |= found
    total = metadata.values.get("split.tensors.count", len(entries))
    if total != len(entries):
        what = tr("the files of the model hold {count:,} tensors instead of {total}", count=len(entries), total=total)
        raise UserError(what, metadata.path, tr("copy or download it again"))
    return entries


def _read_file(metadata: GgufMetadata) -> dict[str, GgufTensorEntry]:
    path, values = metadata.path, metadata.values
    if metadata.tensors > MAX_TENSORS:
        what = tr("{count:,} tensors, but at most {limit:,} are read", count=metadata.tensors, limit=MAX_TENSORS)
        raise UserError(what, path)
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise _broken(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            rows, end = _read_list(data, metadata)
        except (struct.error, UnicodeDecodeError, OverflowError) as error:
            raise _broken(path) from error
        data_start = -(-end // alignment) * alignment
        return {name: _locate(name, *row, data_start, alignment, len(data), path) for name, row in rows.items()}


def _read_list(data: mmap.mmap, metadata: GgufMetadata) -> tuple[dict[str, tuple[tuple[int, ...], int, int]], int]:
    """Name to sizes (the innermost first), type and offset of each tensor, and where the list ends."""
    rows: dict[str, tuple[tuple[int, ...], int, int]] = {}
    offset = metadata.end
    for _ in range(metadata.tensors):
        (length,) = struct.unpack_from("<Q", data, offset)
        if length > _MAX_NAME_BYTES:
            raise OverflowError(length)
        name = data[offset + 8 : offset + 8 + length].decode("utf-8")
        offset += 8 + length
        (dimensions,) = struct.unpack_from("<I", data, offset)
        if not 1 <= dimensions <= _MAX_DIMENSIONS or name in rows:
            raise OverflowError(dimensions)
        *sizes, kind, start = struct.unpack_from(f"<{dimensions}QIQ", data, offset + 4)
        offset += 4 + 8 * dimensions + 12
        rows[name] = (tuple(sizes), kind, start)
    return rows, offset


def _locate(
    name: str,
    sizes: tuple[int, ...],
    kind_id: int,
    start: int,
    data_start: int,
    alignment: int,
    file_size: int,
    path: Path,
) -> GgufTensorEntry:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(kind_id)
        block, block_bytes = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError):
        kind, block, block_bytes = None, 1, 1
    if kind is None or kind.name in _NO_WEIGHTS:
        shown = kind_id if kind is None else kind.name
        what = tr("'{name}' is stored in a type that is not read here: {kind}", name=name, kind=shown)
        raise UserError(what, path, tr("use another file of the model, of a type such as Q8_0 or F16"))
    size = math.prod(sizes) // block * block_bytes
    if min(sizes) < 1 or sizes[0] % block or start % alignment:
        raise _broken(path)
    if data_start + start + size > file_size:
        what = tr(
            "the file is cut off: {expected:,} bytes expected, {actual:,} found",
            expected=data_start + start + size,
            actual=file_size,
        )
        raise UserError(what, path, tr("copy or download it again"))
    return GgufTensorEntry(kind.name, kind_id, tuple(reversed(sizes)), data_start + start, size, path)


def _broken(path: Path) -> UserError:
    return UserError(tr("the list of tensors in this GGUF file is broken"), path, tr("copy or download it again"))


@dataclass(frozen=True, slots=True)
class _Part:
    """Which tensor of the file a weight is, over how many heads its rows are interleaved, and which of the experts it
    is of in a tensor of all.
    """

    name: str
    heads: int = 0
    expert: int | None = None


class GgufWeights(Mapping[str, torch.Tensor]):
    """The weights of a GGUF file by the names of a model folder; each is read when it is asked for.

    Args:
        path: The file.
        entries: Its tensors.
        shapes: The names and shapes that a model folder of its configuration has.
        config: That configuration.
        dtype: What each weight is rounded to.
        dequantize: What turns stored rows into numbers.
    """

    def __init__(
        self,
        path: Path,
        entries: Mapping[str, GgufTensorEntry],
        shapes: Mapping[str, tuple[int, ...]],
        config: Mapping[str, Any],
        dtype: torch.dtype,
        dequantize: Dequantize,
    ) -> None:
        self._path, self._entries, self._shapes = path, entries, shapes
        self._dtype, self._dequantize = dtype, dequantize
        self._parts = {name: _part_of(name, config) for name in shapes}
        self._experts = int(config.get("num_local_experts") or 0)
        self._squared_error = self._squared_norm = 0.0
        self._check()

    @property
    def rounding_loss(self) -> float:
        """What rounding to the dtype changed in the weights read so far, relative to them (Frobenius norm)."""
        return math.sqrt(self._squared_error / self._squared_norm) if self._squared_norm else 0.0

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, name: str) -> torch.Tensor:
        part, shape = self._parts[name], self._shapes[name]
        entry = self._entries.get(part.name)
        if entry is None:  # a bias that the file leaves out, since it is zero
            return torch.zeros(shape, dtype=self._dtype)
        columns, row_bytes = entry.shape[-1], entry.size // (entry.weights // entry.shape[-1])
        rows = math.prod(shape) // columns
        start = entry.start + (part.expert or 0) * rows * row_bytes
        result = torch.empty((rows, columns), dtype=self._dtype)
        step = max(1, _CHUNK_WEIGHTS // columns)
        for first in range(0, rows, step):
            last = min(rows, first + step)
            stored = np.fromfile(entry.file, np.uint8, (last - first) * row_bytes, offset=start + first * row_bytes)
            exact = torch.from_numpy(self._dequantize(entry.kind_id, stored.reshape(last - first, row_bytes), columns))
            rounded = round_weight(exact, self._dtype, part.name, entry.file)
            result[first:last] = rounded
            if self._dtype != torch.float32:
                self._squared_error += (rounded.float() - exact).double().square().sum().item()
            self._squared_norm += exact.double().square().sum().item()
        result = result.reshape(shape)
        return undo_interleaving(result, part.heads) if part.heads else result

    def _check(self) -> None:
        """Raise UserError unless the file's tensors are those of the configuration, no more and no fewer."""
        missing = [
            part.name
            for name, part in self._parts.items()
            if part.name not in self._entries and not name.endswith(".bias")
        ]
        if missing:
            what = tr("{count} tensors are missing: {names}", count=len(missing), names=_shorten(missing))
            raise UserError(what, self._path, tr("copy or download it again"))
        for name, part in self._parts.items():
            entry, expected = self._entries.get(part.name), self._shapes[name]
            if part.expert is not None:
                expected = (self._experts, *expected)
            if entry is not None and entry.shape != expected:
                what = tr(
                    "'{name}' has shape {shape}, but the metadata require {expected_shape}",
                    name=part.name,
                    shape=list(entry.shape),
                    expected_shape=list(expected),
                )
                raise UserError(what, self._path, tr("copy or download it again"))
        known = {part.name for part in self._parts.values()} | {ROPE_FACTORS}
        extra = [name for name in self._entries if name not in known]
        if extra:
            what = tr(
                "{count} tensors do not belong to a Llama model: {names}", count=len(extra), names=_shorten(extra)
            )
            raise UserError(what, self._path, tr("name a model without additional parts"))


def _part_of(name: str, config: Mapping[str, Any]) -> _Part:
    outside = {**OUTSIDE_NAMES, **HEAD_NAMES}
    if name in outside:
        return _Part(outside[name])
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    if match := _EXPERT.fullmatch(module):
        return _Part(f"blk.{layer}.{EXPERT_NAMES[match['matrix']]}.{kind}", expert=int(match["expert"]))
    heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}.get(module)
    return _Part(f"blk.{layer}.{LAYER_NAMES[module]}.{kind}", int(config[heads]) if heads else 0)


def _shorten(names: list[str]) -> str:
    return join_list([*names[:3], "..."] if len(names) > 3 else names)
