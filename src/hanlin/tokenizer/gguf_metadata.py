"""The metadata of a GGUF file: keys and values, without the tensors.

Source: `docs/gguf.md` of ggml. Strings and lists are little-endian, with lengths of 8 bytes since version 2.
"""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import check_downloaded, open_regular
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_GGUF_BYTES, MAX_GGUF_ITEMS, MAX_GGUF_KEYS

GGUF_SUFFIX = ".gguf"
_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The formats of `struct` for the types of numbers."""

_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""What `general.file_type` of a GGUF file means (`llama_ftype` of llama.cpp)."""


@dataclass(frozen=True, slots=True)
class GgufMetadata:
    """The values of a GGUF file by key: numbers, texts and lists of them.

    Attributes:
        path: The file.
        values: The value of each key.
        tensors: How many tensors the file says that it has.
        end: Where the metadata ends and the list of tensors begins, in bytes.
    """

    path: Path
    values: Mapping[str, Any]
    tensors: int = 0
    end: int = 0

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """The value of a key, if it is there and of this kind."""
        value = self.values.get(key)
        return value if isinstance(value, kind) else default

    @property
    def file_type(self) -> str:
        """The type of the file (`Q4_K_M`), or '' if it says none that is known; a file's name may say anything."""
        return _FILE_TYPES.get(self.get("general.file_type", int, -1), "")


def is_gguf_file(path: Path) -> bool:
    """Whether a path is a file whose name ends in `.gguf`."""
    return path.suffix == GGUF_SUFFIX and path.is_file()


def read_gguf_metadata(path: Path) -> GgufMetadata:
    """Read all metadata of a GGUF file; what was read last is kept, until the file changes.

    Raises:
        UserError: It is no GGUF file, it is cut within its metadata, or they are larger than those of any model.
    """
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
    except OverflowError as error:
        what = tr("the metadata of this GGUF file are larger than those of any model")
        raise UserError(what, path, tr("copy it again from its source")) from error
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        what = tr("the metadata of this GGUF file is broken")
        raise UserError(what, path, tr("copy it again from its source")) from error


def read_gguf_template(path: Path) -> str:
    """The chat template of a GGUF file; empty if it has none."""
    return str(read_gguf_metadata(path).get("tokenizer.chat_template", str, ""))


@functools.lru_cache(maxsize=1)
def _read(path: Path, _modified: int, size: int) -> GgufMetadata:
    with open_regular(path) as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            check_downloaded(path)
            raise UserError(tr("not a GGUF file"), path)
        if size < _Reader.HEADER:
            raise struct.error
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            version, tensors, count = reader.numbers("IQQ")
            if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
                what = tr("this GGUF file is big-endian, and files of that kind are not read here")
                raise UserError(what, path, tr("turn it with `gguf-convert-endian FILE little` of llama.cpp's package"))
            if version not in _VERSIONS:
                what = tr("GGUF of version {version} is not read here", version=version)
                raise UserError(what, path, tr("convert it with a current llama.cpp"))
            if count > MAX_GGUF_KEYS:
                raise OverflowError(count)
            values = {reader.text(): reader.value() for _ in range(count)}
            return GgufMetadata(path, values, tensors, reader.offset)


class _Reader:
    """Reads values one after another."""

    HEADER = len(_MAGIC) + struct.calcsize("<IQQ")

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._offset = len(_MAGIC)
        self._end = min(len(data), MAX_GGUF_BYTES)

    @property
    def offset(self) -> int:
        """Where the next value begins."""
        return self._offset

    def numbers(self, layout: str) -> tuple[Any, ...]:
        layout = f"<{layout}"
        self._check(struct.calcsize(layout))
        values = struct.unpack_from(layout, self._data, self._offset)
        self._offset += struct.calcsize(layout)
        return values

    def text(self) -> str:
        return self._bytes().decode("utf-8")

    def value(self) -> Any:
        (kind,) = self.numbers("I")
        if kind == _ARRAY:
            item, count = self.numbers("IQ")
            if count > MAX_GGUF_ITEMS:
                raise OverflowError(count)
            if item == _STRING:
                return self._texts(count)
            self._check(count)
            return list(self.numbers(f"{count}{_NUMBERS[item]}"))
        return self.text() if kind == _STRING else self.numbers(_NUMBERS[kind])[0]

    def _texts(self, count: int) -> list[str]:
        """A list of strings: of tokens, which may hold half a character in files of other converters."""
        self._check(count)
        data, offset, texts, length_of = self._data, self._offset, [], struct.Struct("<Q").unpack_from
        for _ in range(count):
            start = offset + 8
            offset = start + length_of(data, offset)[0]
            self._check(0, offset)
            texts.append(data[start:offset].decode("utf-8", "replace"))
        self._offset = offset
        return texts

    def _bytes(self) -> bytes:
        (length,) = self.numbers("Q")
        start, self._offset = self._offset, self._offset + length
        self._check(length, start)
        return self._data[start : self._offset]

    def _check(self, length: int, start: int | None = None) -> None:
        """Raise unless the file is long enough, before memory is taken for what it says that it holds."""
        end = length + (self._offset if start is None else start)
        if end > len(self._data):
            raise struct.error
        if end > self._end:
            raise OverflowError(end)
