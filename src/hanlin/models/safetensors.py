"""Read and write safetensors files, tensor by tensor: no file is held in memory."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from safetensors.torch import save_file

from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, partial_path
from hanlin.core.i18n import tr
from hanlin.models.folder.layout import TensorEntry

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def save_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file at once or not at all; the library itself opens the file, so `open_atomic` cannot."""
    partial = partial_path(path)
    partial.touch()
    mode = partial.stat().st_mode
    save_file(tensors, str(partial), metadata={"format": "pt"})
    partial.chmod(mode)  # the library makes it readable by the owner only
    os.replace(partial, path)


def read_rows(entry: TensorEntry, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Read rows `start` to `stop` of the first dimension of a tensor, in its dtype; by default all.

    The bytes are copied, not mapped: a mapped file counts as memory of the process until it is closed.

    Args:
        entry: The tensor.
        start: Index of the first row.
        stop: Index behind the last one.

    Raises:
        UserError: The file became shorter since its header was checked.
    """
    dtype = _TYPES[entry.dtype]
    rows = entry.shape[0] if entry.shape else 1
    stop = rows if stop is None else min(stop, rows)
    shape = (max(0, stop - start), *entry.shape[1:]) if entry.shape else ()
    row_bytes = math.prod(entry.shape[1:]) * dtype.itemsize
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.numel():
        with entry.file.open("rb", buffering=0) as file:
            file.seek(entry.start + start * row_bytes)
            _fill(_bytes_of(tensor), file, entry)
    return tensor


def read_pieces(entry: TensorEntry, rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Read a tensor from its first row to its last, in pieces of `rows` rows, with the index of the first row of each.

    All pieces take the same memory, since fresh memory costs more than reading does: each is to be used before the next
    is asked for.

    Args:
        entry: The tensor, of one dimension or more.
        rows: Rows of a piece; the last one may have fewer.

    Raises:
        UserError: The file became shorter since its header was checked.
    """
    memory = torch.empty((min(rows, entry.shape[0]), *entry.shape[1:]), dtype=_TYPES[entry.dtype])
    buffer = _bytes_of(memory) if memory.numel() else memoryview(b"")
    row_bytes = len(buffer) // max(1, len(memory))
    with entry.file.open("rb", buffering=0) as file:
        file.seek(entry.start)
        for start in range(0, entry.shape[0], rows):
            count = min(rows, entry.shape[0] - start)
            _fill(buffer[: count * row_bytes], file, entry)
            yield start, memory[:count]


def _fill(buffer: memoryview, file: IO[bytes], entry: TensorEntry) -> None:
    """Fill `buffer` with what comes next in the file of a tensor."""
    done = 0
    while done < len(buffer):
        count = cast(Any, file).readinto(buffer[done:])
        if not count:
            raise UserError(tr("the file became shorter while it was read"), entry.file)
        done += count


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: torch.dtype | Mapping[str, torch.dtype],
    make: Callable[[str], Iterable[torch.Tensor]],
    *,
    threads: int = 1,
) -> None:
    """Write a safetensors file at once or not at all, while its tensors are made; the bytes are the library's.

    Args:
        path: The file.
        shapes: Name and shape of every tensor.
        dtype: Dtype of all of them, or of each by its name.
        make: Gives the tensor of a name in pieces that follow each other; they are written as soon as they are made.
        threads: How many tensors are made and written at the same time; `make` is called by these threads.

    Raises:
        RuntimeError: The pieces of a tensor are not what its shape says.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    offset = 0
    dtypes = dict.fromkeys(shapes, dtype) if isinstance(dtype, torch.dtype) else dtype
    # the library's order: the widest numbers first, so that each tensor begins at a multiple of its own
    for name in sorted(shapes, key=lambda name: (-dtypes[name].itemsize, name)):
        starts[name], end = offset, offset + math.prod(shapes[name]) * dtypes[name].itemsize
        header[name] = {"dtype": _NAMES[dtypes[name]], "shape": list(shapes[name]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    failed = threading.Event()

    with open_atomic(path, "wb") as file:
        file.write(head)
        file.flush()
        write_at = _positioned_writer(file)

        def write(name: str) -> None:
            position = len(head) + starts[name]
            count = 0
            for piece in make(name):
                if failed.is_set():
                    return
                data = piece.detach().to("cpu", dtypes[name]).contiguous()
                buffer = _bytes_of(data)
                write_at(buffer, position)
                position += len(buffer)
                count += data.numel()
            if count != math.prod(shapes[name]):
                raise RuntimeError(f"{name} has {count} entries instead of {math.prod(shapes[name])}")

        if threads == 1:
            for name in starts:
                write(name)
            return
        with _one_torch_thread(), ThreadPoolExecutor(threads) as pool:
            try:
                for done in as_completed([pool.submit(write, name) for name in starts]):
                    done.result()
            except BaseException:
                failed.set()
                pool.shutdown(cancel_futures=True)
                raise


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Each thread that is started in the block computes alone: pieces of a megabyte are too small to be divided."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _positioned_writer(file: IO[bytes]) -> Callable[[memoryview, int], None]:
    """A function that writes bytes at a position of a file, which several threads may call."""
    lock = threading.Lock()

    def seek_and_write(data: memoryview, position: int) -> None:
        with lock:
            file.seek(position)
            file.write(data)

    def write(data: memoryview, position: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(file.fileno(), data[done:], position + done)

    return write if hasattr(os, "pwrite") else seek_and_write  # which Windows does not have


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor, which may be written to."""
    return memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy()))
