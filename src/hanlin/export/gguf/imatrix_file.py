"""An importance matrix: how strongly each column of each matrix is used, in llama.cpp's two file formats.

Source: llama.cpp, `tools/imatrix/imatrix.cpp` and `common/imatrix-loader.cpp`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, partial_path
from hanlin.core.i18n import tr

IMATRIX_FILES = ("imatrix.gguf", "imatrix.dat")
"""What a matrix is called in an artifact, in the new format and in the old."""

_LARGEST_NAME = 1 << 10
_LARGEST_COUNT = 1 << 20


@dataclass(frozen=True, slots=True)
class InputSums:
    """The inputs of one matrix, summed over positions. Of stacked experts the columns of each follow one another.

    Attributes:
        in_sum2: The sums of their squares [columns].
        count: Positions.
        in_sum: The sums of the inputs themselves, if known.
        expert_counts: Of stacked experts, the positions of each.
    """

    in_sum2: NDArray[np.float32]
    count: int
    in_sum: NDArray[np.float32] | None = None
    expert_counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """`used` by each tensor's name in a GGUF file. `datasets` says what was read, in `chunks` of `chunk_size` ids."""

    used: Mapping[str, InputSums]
    datasets: tuple[str, ...]
    chunks: int
    chunk_size: int

    def weights(self, name: str, columns: int, parts: int = 1) -> NDArray[np.float32] | None:
        """The mean square [parts, columns] of a tensor's inputs, `parts` being its experts; None where it was not
        measured. An expert that was never chosen has ones.

        Raises UserError when the matrix belongs to a model of another width.
        """
        used = self.used.get(name)
        if used is None:
            return None
        if len(used.in_sum2) != parts * columns:
            if name == "token_embd.weight":
                return None  # of a tied output matrix, measured elsewhere
            what = tr(
                "the importance matrix has {count} columns for '{name}', the model {parts}",
                count=len(used.in_sum2),
                name=name,
                parts=parts * columns,
            )
            hint = tr("it was collected on another model")
            raise UserError(what, None, hint)
        return _means(used, parts)

    def metadata(self, file: str) -> dict[str, str | int]:
        """What llama.cpp's quantizer writes of the matrix into the files that it makes."""
        row: dict[str, str | int] = {"quantize.imatrix.file": file}
        if self.datasets:
            row["quantize.imatrix.dataset"] = self.datasets[0]
        return {**row, "quantize.imatrix.entries_count": len(self.used), "quantize.imatrix.chunks_count": self.chunks}


def _means(used: InputSums, parts: int) -> NDArray[np.float32]:
    """The mean squares [parts, columns]; ones for a part that has no positions."""
    counts = np.array(used.expert_counts or (used.count,) * parts, np.float32)[:, None]
    means = used.in_sum2.reshape(parts, -1) / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.float32(1.0)).astype(np.float32)


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read either format, told apart by the file's first bytes. Raises UserError when it is neither, or is damaged."""
    if not path.is_file():
        raise UserError(tr("there is no such importance matrix"), path, code="not_found")
    try:
        with path.open("rb") as file:
            imatrix = _read_gguf(path) if file.read(4) == b"GGUF" else _read_legacy(path)
    except (ValueError, KeyError, IndexError, struct.error, UnicodeDecodeError, ArithmeticError, MemoryError) as error:
        what = tr("not an importance matrix of llama.cpp")
        raise UserError(what, path, tr("make one with `imatrix`")) from error
    for name, used in imatrix.used.items():
        if used.count < 0 or not np.isfinite(used.in_sum2).all() or (used.in_sum2 < 0).any():
            what = tr("its values for '{name}' are not sums of squares", name=name)
            raise UserError(what, path)
    return imatrix


def write_imatrix(path: Path, imatrix: ImportanceMatrix) -> None:
    """Write the matrix, in the old format if the name ends in `.dat`, at once or not at all; equal matrices give
    equal bytes.
    """
    if path.suffix == ".dat":
        with open_atomic(path, "wb") as file:
            _write_legacy(file, imatrix)
    else:
        partial = partial_path(path)  # `GGUFWriter` opens the file itself, so `open_atomic` cannot
        _write_gguf(partial, imatrix)
        os.replace(partial, path)


def _read_gguf(path: Path) -> ImportanceMatrix:
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: np.array(tensor.data, np.float32).reshape(-1) for tensor in reader.tensors}
    used = {}
    for tensor_name, in_sum2 in tensors.items():
        name, dot, kind = tensor_name.rpartition(".")
        if dot and kind == "in_sum2":
            counts = tuple(round(float(count)) for count in tensors[f"{name}.counts"])
            if len(in_sum2) % len(counts):
                raise ValueError("counts of other experts")
            used[name] = InputSums(
                in_sum2, max(counts), tensors.get(f"{name}.in_sum"), counts if len(counts) > 1 else ()
            )
    if not used:
        raise ValueError("no sums in it")

    def value(key: str) -> Any:
        return reader.fields[key].contents()

    datasets = tuple(str(text) for text in value("imatrix.datasets"))
    return ImportanceMatrix(used, datasets, int(value("imatrix.chunk_count")), int(value("imatrix.chunk_size")))


def _write_gguf(path: Path, imatrix: ImportanceMatrix) -> None:
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # such a file has no architecture
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", list(imatrix.datasets))
    writer.add_uint32("imatrix.chunk_count", imatrix.chunks)
    writer.add_uint32("imatrix.chunk_size", imatrix.chunk_size)
    for name, used in sorted(imatrix.used.items()):
        counts = np.array(used.expert_counts or (used.count,), np.float32)[:, None]
        writer.add_tensor(f"{name}.in_sum2", used.in_sum2.reshape(len(counts), -1))
        writer.add_tensor(f"{name}.counts", counts)
        if used.in_sum is not None:
            writer.add_tensor(f"{name}.in_sum", used.in_sum.reshape(len(counts), -1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_legacy(path: Path) -> ImportanceMatrix:
    """Each entry holds means times the number of chunks, then that number; the size of a chunk is not told."""
    used = {}
    with path.open("rb") as file:
        for _ in range(_read_int(file, _LARGEST_COUNT)):
            name = file.read(_read_int(file, _LARGEST_NAME)).decode("utf-8")
            (chunks,) = struct.unpack("<i", file.read(4))
            columns = _read_int(file, 1 << 28)
            in_sum2 = np.frombuffer(file.read(4 * columns), np.float32)
            if len(in_sum2) != columns:
                raise ValueError("cut off")
            used[name] = InputSums(in_sum2, max(chunks, 1))
        rest = file.read(4)
        total = struct.unpack("<i", rest)[0] if rest else 0
        datasets: tuple[str, ...] = ()
        if rest and (length := file.read(4)):
            datasets = (file.read(struct.unpack("<i", length)[0]).decode("utf-8"),)
    return ImportanceMatrix(used, datasets, total, 0)


def _read_int(file: IO[bytes], limit: int) -> int:
    (value,) = struct.unpack("<i", file.read(4))
    if not 0 < value <= limit:
        raise ValueError(f"{value} where 1 to {limit} may stand")
    return int(value)


def _write_legacy(file: IO[bytes], imatrix: ImportanceMatrix) -> None:
    """Where the size of a chunk is unknown, the matrix came from this format and its counts are chunks already."""
    file.write(struct.pack("<i", len(imatrix.used)))
    for name, used in sorted(imatrix.used.items()):
        chunks = -(-used.count // imatrix.chunk_size) if imatrix.chunk_size else used.count
        chunks = max(chunks, 1)
        text = name.encode()
        file.write(struct.pack("<i", len(text)) + text + struct.pack("<ii", chunks, len(used.in_sum2)))
        file.write((_means(used, len(used.expert_counts) or 1) * np.float32(chunks)).tobytes())
    dataset = (imatrix.datasets[-1] if imatrix.datasets else "").encode()
    file.write(struct.pack("<ii", imatrix.chunks, len(dataset)) + dataset)
