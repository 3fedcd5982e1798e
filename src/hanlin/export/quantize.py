"""Which ggml type each tensor of a GGUF file gets, and its bytes in that type.

Owns the mixtures (`Q4_K_M` is Q4_K with its most sensitive tensors in Q6_K). Does not own the quantisers, which are
llama.cpp's, nor the file around the tensors (`gguf`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from gguf import GGMLQuantizationType as Ggml
from gguf import LlamaFileType
from numpy.typing import NDArray

from hanlin.engines import llama_cpp_library

SLAB_BYTES = 32 << 20
"""How much of a tensor, as float32, is in memory at once for each thread."""


@dataclass(frozen=True, slots=True)
class FileType:
    """What a name such as `Q4_K_M` stands for: the number in the file's metadata and the type of an ordinary tensor."""

    number: LlamaFileType
    usual: Ggml


FILE_TYPES = {
    "F32": FileType(LlamaFileType.ALL_F32, Ggml.F32),
    "F16": FileType(LlamaFileType.MOSTLY_F16, Ggml.F16),
    "BF16": FileType(LlamaFileType.MOSTLY_BF16, Ggml.BF16),
    "Q8_0": FileType(LlamaFileType.MOSTLY_Q8_0, Ggml.Q8_0),
    "Q6_K": FileType(LlamaFileType.MOSTLY_Q6_K, Ggml.Q6_K),
    "Q5_K_M": FileType(LlamaFileType.MOSTLY_Q5_K_M, Ggml.Q5_K),
    "Q5_K_S": FileType(LlamaFileType.MOSTLY_Q5_K_S, Ggml.Q5_K),
    "Q5_1": FileType(LlamaFileType.MOSTLY_Q5_1, Ggml.Q5_1),
    "Q5_0": FileType(LlamaFileType.MOSTLY_Q5_0, Ggml.Q5_0),
    "Q4_K_M": FileType(LlamaFileType.MOSTLY_Q4_K_M, Ggml.Q4_K),
    "Q4_K_S": FileType(LlamaFileType.MOSTLY_Q4_K_S, Ggml.Q4_K),
    "Q4_1": FileType(LlamaFileType.MOSTLY_Q4_1, Ggml.Q4_1),
    "Q4_0": FileType(LlamaFileType.MOSTLY_Q4_0, Ggml.Q4_0),
    "IQ4_NL": FileType(LlamaFileType.MOSTLY_IQ4_NL, Ggml.IQ4_NL),
    "IQ4_XS": FileType(LlamaFileType.MOSTLY_IQ4_XS, Ggml.IQ4_XS),
    "Q3_K_L": FileType(LlamaFileType.MOSTLY_Q3_K_L, Ggml.Q3_K),
    "Q3_K_M": FileType(LlamaFileType.MOSTLY_Q3_K_M, Ggml.Q3_K),
    "Q3_K_S": FileType(LlamaFileType.MOSTLY_Q3_K_S, Ggml.Q3_K),
    "Q2_K": FileType(LlamaFileType.MOSTLY_Q2_K, Ggml.Q2_K),
}

_UNQUANTISED = (Ggml.F32, Ggml.F16, Ggml.BF16)

_FALLBACK = {
    Ggml.Q2_K: Ggml.Q4_0,
    Ggml.Q3_K: Ggml.Q4_0,
    Ggml.Q4_K: Ggml.Q5_0,
    Ggml.Q5_K: Ggml.Q5_1,
    Ggml.Q6_K: Ggml.Q8_0,
    Ggml.IQ4_XS: Ggml.IQ4_NL,
}
"""What a K-type with blocks of 256 becomes where a row is no multiple of 256: one with blocks of 32, a bit larger."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the choice of types looks at besides a tensor's name."""

    layers: int
    heads: int
    shared_heads: int
    tied: bool

    @property
    def grouped(self) -> bool:
        """Whether four or more query heads share a value head, so that the value matrix is small: it gets more bits."""
        return self.heads // self.shared_heads >= 4

    @property
    def is_70b(self) -> bool:
        """Llama 2 and 3 70B, for which llama.cpp gives the value matrices more bits still."""
        return self.layers == 80 and self.heads != self.shared_heads


def tensor_type(name: str, file_type: str, shape: Shape, columns: int, dimensions: int) -> Ggml:
    """The type of one tensor: llama.cpp's `llama_tensor_get_type` for the architecture `llama` without an
    importance matrix, so that a file here has the types that `llama-quantize` gives it.

    `name` is the tensor's name in the file, such as `blk.3.attn_v.weight`. Where `columns`, the length of a row, does
    not fit the blocks of the chosen type, a near type with smaller blocks takes its place.
    """
    usual = FILE_TYPES[file_type].usual
    if dimensions < 2 or name.endswith("_norm.weight"):
        return Ggml.F32
    if usual in _UNQUANTISED:
        return usual
    return fitting(_chosen(name, file_type, usual, shape, columns), columns)


def fitting(kind: Ggml, columns: int) -> Ggml:
    """`kind`, or what stands in for it in rows of this length; F16 when nothing else fits."""
    for choice in (kind, _FALLBACK.get(kind, kind)):
        if columns % llama_cpp_library.block_size(choice) == 0:
            return choice
    return Ggml.F16


def _chosen(name: str, file_type: str, usual: Ggml, shape: Shape, columns: int) -> Ggml:
    if name == "output.weight" or (name == "token_embd.weight" and shape.tied):
        if columns % llama_cpp_library.block_size(usual) != 0:
            return Ggml.Q8_0
        return usual if usual == Ggml.Q8_0 else Ggml.Q6_K
    if name == "token_embd.weight":
        return usual
    layer = int(name.split(".")[1])
    by_part = {"attn_v": _value_type, "attn_output": _attention_output_type, "ffn_down": _down_type}
    choose = by_part.get(name.split(".")[2])
    return usual if choose is None else choose(file_type, usual, shape, layer)


def _more_bits(layer: int, layers: int) -> bool:
    """The layers that `_M` mixtures spend bits on: the first and last eighth, and each third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _value_type(file_type: str, usual: Ggml, shape: Shape, layer: int) -> Ggml:
    kind = usual
    if file_type == "Q2_K":
        kind = Ggml.Q4_K if shape.grouped else Ggml.Q3_K
    elif file_type == "Q3_K_M":
        kind = Ggml.Q5_K if layer < 2 else Ggml.Q4_K
    elif file_type == "Q3_K_L" or (file_type in ("IQ4_NL", "IQ4_XS") and shape.grouped):
        kind = Ggml.Q5_K
    elif file_type in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, shape.layers):
        kind = Ggml.Q6_K
    elif file_type == "Q4_K_S" and layer < 4:
        kind = Ggml.Q5_K
    return Ggml.Q5_K if shape.is_70b and kind in (Ggml.Q3_K, Ggml.Q4_K) else kind


def _attention_output_type(file_type: str, usual: Ggml, shape: Shape, layer: int) -> Ggml:
    return {"Q2_K": Ggml.Q3_K, "Q3_K_M": Ggml.Q4_K, "Q3_K_L": Ggml.Q5_K}.get(file_type, usual)


def _down_type(file_type: str, usual: Ggml, shape: Shape, layer: int) -> Ggml:
    if file_type == "Q2_K":
        return Ggml.Q3_K
    if file_type == "Q3_K_M":
        return Ggml.Q5_K if layer < shape.layers // 16 else Ggml.Q4_K
    if file_type == "Q3_K_L":
        return Ggml.Q5_K
    if file_type in ("Q4_K_M", "Q5_K_M") and _more_bits(layer, shape.layers):
        return Ggml.Q6_K
    if file_type in ("Q4_K_S", "IQ4_NL", "IQ4_XS") and layer < shape.layers // 8:
        return Ggml.Q5_K
    return usual


def stored_bytes(kind: Ggml, shape: Sequence[int]) -> int:
    """How many bytes a tensor of this shape takes in the file, its padding not counted."""
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    return rows * llama_cpp_library.row_bytes(kind, shape[-1])


class Quantizer:
    """Threads that turn float32 rows into bytes of a ggml type, some slabs at a time and in order."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads)

    def slabs(
        self, kind: Ggml, shape: Sequence[int], read: Callable[[int, int], NDArray[np.float32]]
    ) -> Iterator[NDArray[np.uint8]]:
        """The bytes of a tensor of `shape`, slab by slab; `read(start, stop)` gives its rows as float32."""
        rows, columns = int(np.prod(shape[:-1], dtype=np.int64)), int(shape[-1])
        step = max(1, SLAB_BYTES // (4 * columns))
        starts = range(0, rows, step)

        def work(start: int) -> NDArray[np.uint8]:
            return to_bytes(kind, read(start, min(rows, start + step)))

        for first in range(0, len(starts), self._threads):
            yield from self._pool.map(work, starts[first : first + self._threads])

    def close(self) -> None:
        self._pool.shutdown()


def to_bytes(kind: Ggml, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Float32 `rows` [rows, columns] as the bytes [rows, bytes of a row] of a ggml type."""
    if kind == Ggml.F32:
        return np.ascontiguousarray(rows).view(np.uint8)
    into = np.empty((rows.shape[0], llama_cpp_library.row_bytes(kind, rows.shape[1])), np.uint8)
    llama_cpp_library.quantize_rows(kind, np.ascontiguousarray(rows), into)
    return into
