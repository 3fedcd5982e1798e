"""Quantizing tensors chunk by chunk, in threads, by llama.cpp's own quantizers.

Which type a tensor gets is in `quant_types`, the file around the tensors in `writer`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from gguf import GGMLQuantizationType as Ggml
from numpy.typing import NDArray

from hanlin.core.process import available_cores
from hanlin.inference.backends.llama_cpp import quants

CHUNK_BYTES = 4 << 20
"""How much of a tensor, as float32, a thread works on at a time: near the size of a cache, in memory that is reused."""


def tensor_bytes(kind: Ggml, shape: Sequence[int]) -> int:
    """How many bytes a tensor of this shape takes in the file, without padding."""
    rows = math.prod(shape[:-1])
    return rows * quants.row_bytes(kind, shape[-1])


class Quantizer:
    """Threads that turn float32 rows into bytes of a ggml type, some chunks at a time and in order."""

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or available_cores()
        self._pool = ThreadPoolExecutor(self._threads)

    def quantize_chunks(
        self,
        kind: Ggml,
        shape: Sequence[int],
        read: Callable[[int, int], NDArray[np.float32]],
        imatrix: NDArray[np.float32] | None = None,
    ) -> Iterator[NDArray[np.uint8]]:
        """Quantize a tensor.

        Args:
            kind: The ggml type.
            shape: [rows, columns].
            read: `read(start, stop)` returns rows as float32 [stop - start, columns].
            imatrix: [columns], the weight of each column's rounding error, the same in every row.

        Yields:
            The bytes of the next rows.
        """
        rows, columns = int(np.prod(shape[:-1], dtype=np.int64)), int(shape[-1])
        step = max(1, CHUNK_BYTES // (4 * columns))
        starts = range(0, rows, step)

        def work(start: int) -> NDArray[np.uint8]:
            return encode_rows(kind, read(start, min(rows, start + step)), imatrix)

        waiting: deque[Future[NDArray[np.uint8]]] = deque()
        for start in starts:
            waiting.append(self._pool.submit(work, start))
            if len(waiting) > 2 * self._threads:  # no thread waits while a chunk is written
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def close(self) -> None:
        self._pool.shutdown()


def encode_rows(kind: Ggml, rows: NDArray[np.float32], imatrix: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
    """Float32 `rows` [rows, columns] as the bytes [rows, bytes of a row] of a ggml type."""
    if kind == Ggml.F32:
        return np.ascontiguousarray(rows).view(np.uint8)
    into = np.empty((rows.shape[0], quants.row_bytes(kind, rows.shape[1])), np.uint8)
    quants.quantize_rows(kind, np.ascontiguousarray(rows), into, imatrix)
    return into
