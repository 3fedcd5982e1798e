"""Quantizing and dequantizing rows with llama.cpp."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.inference.backends.llama_cpp.binding import GGML_F32, library


def block_size(kind: int) -> int:
    """How many values of a row a block of this ggml type holds."""
    return int(library().ggml_blck_size(kind))


def row_bytes(kind: int, columns: int) -> int:
    """Bytes of a row of `columns` weights in the ggml type `kind`."""
    return int(library().ggml_row_size(kind, columns))


def quantize_rows(
    kind: int, rows: NDArray[np.float32], into: NDArray[np.uint8], importance: NDArray[np.float32] | None = None
) -> None:
    """Quantize float32 `rows` [rows, columns] into the bytes `into` [rows, bytes of a row] by `ggml_quantize_chunk`.

    `importance` [columns] weighs the rounding errors of each column; the lowest types cannot do without, and this is
    the caller's to know, for llama.cpp ends the program. Several threads may do so at once: the call holds no lock.
    """
    count, columns = rows.shape
    if not (rows.flags.c_contiguous and into.flags.c_contiguous) or into.nbytes != count * row_bytes(kind, columns):
        raise ValueError("rows and their bytes must be contiguous and of fitting sizes")
    weights = None
    if importance is not None:
        if importance.shape != (columns,) or importance.dtype != np.float32 or not importance.flags.c_contiguous:
            raise ValueError("importance is one float32 for each column")
        weights = importance.ctypes.data
    written = library().ggml_quantize_chunk(kind, rows.ctypes.data, into.ctypes.data, 0, count, columns, weights)
    if written != into.nbytes:
        raise RuntimeError(f"ggml_quantize_chunk wrote {written} bytes of {into.nbytes}")


def as_float32(stored: NDArray[Any], kind: str) -> NDArray[np.float32]:
    """Stored numbers of `kind` (`BF16` and `F16` as uint16, or `F32`) as float32, exactly; the call holds no lock."""
    if kind == "F32":
        return stored
    into = np.empty(stored.shape, np.float32)
    convert = library().ggml_bf16_to_fp32_row if kind == "BF16" else library().ggml_fp16_to_fp32_row
    convert(stored.ctypes.data, into.ctypes.data, stored.size)
    return into


def dequantize_rows(kind: int, stored: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
    """Stored rows [rows, bytes of a row] of the ggml type `kind` as float32 [rows, columns], by llama.cpp's own code.

    Raises ValueError for a type that holds no weights, and for rows of another size.
    """
    count, size = stored.shape
    if size != row_bytes(kind, columns) or not stored.flags.c_contiguous:
        raise ValueError(f"{size} bytes for a row of {columns}")
    if kind == GGML_F32:
        return stored.view(np.float32)
    to_float = library().ggml_get_type_traits(kind).contents.to_float
    if not to_float:
        raise ValueError(f"no weights are stored in the type {kind}")
    into = np.empty((count, columns), np.float32)
    to_float(stored.ctypes.data, into.ctypes.data, count * columns)
    return into
