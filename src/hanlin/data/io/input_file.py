"""A file opened for reading: unpacked on the way, a regular file that stays the same while it is read.

Owns bytes. Does not own what encoding they are in (`encodings`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from hanlin.core.errors import UserError
from hanlin.core.i18n import say

CHUNK_SIZE = 1 << 20
_COMPRESSED_CHUNK_SIZE = 1 << 16
Chunk = TypeVar("Chunk")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The lines of a file that begin at byte `start` or later, and before `stop` (none: up to the end)."""

    start: int = 0
    stop: int | None = None


WHOLE_FILE = ByteRange()


class InputFile:
    """A file opened for reading, unpacked on the way (gzip, bzip2, xz, zstandard by their first bytes).

    `stream` gives the unpacked bytes, `head` are the first packed ones, `position` says how far the file itself has
    been read. Of a file that is not packed `lines` can give a span alone. Raises UserError when the file cannot be
    opened or is no regular file (a pipe can be read only once).
    """

    def __init__(self, path: Path, span: ByteRange = WHOLE_FILE) -> None:
        self.path = path
        self.span = span
        self.lines_read = 0
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UserError(say("not a regular file", "不是普通文件"), path)
            self._file = path.open("rb")
            self._state = _file_state(os.fstat(self._file.fileno()))
            head = self._file.read(6)
            self._file.seek(0)
        except OSError as error:
            raise UserError(say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}"), path) from error
        self.head = head
        self.stream: BinaryIO = self._unpacked(head)

    @property
    def is_compressed(self) -> bool:
        return self.stream is not self._file

    def _unpacked(self, head: bytes) -> BinaryIO:
        if head.startswith(b"\x1f\x8b"):
            return cast(BinaryIO, gzip.GzipFile(fileobj=self._file))
        if head.startswith(b"BZh"):
            return cast(BinaryIO, bz2.BZ2File(self._file))
        if head.startswith(b"\xfd7zXZ\x00"):
            return cast(BinaryIO, lzma.LZMAFile(self._file))
        if head.startswith(b"\x28\xb5\x2f\xfd"):
            try:
                import zstandard
            except ImportError as error:
                hint = "pip install zstandard"
                raise UserError(
                    say("zstandard is needed to unpack it", "解压需要 zstandard"), self.path, hint
                ) from error
            return cast(BinaryIO, io.BufferedReader(_ZstdReader(self._file, zstandard.ZstdDecompressor()), CHUNK_SIZE))
        return self._file

    @property
    def position(self) -> int:
        return 0 if self._file.closed else self._file.tell()

    def chunks(self) -> Iterator[bytes]:
        """The unpacked bytes. Raises UserError when the packed file is broken or cut short, or changes meanwhile."""
        return self._guarded(iter(lambda: self.stream.read(CHUNK_SIZE), b""))

    def lines(self, longest: int) -> Iterator[tuple[bytes, int, int]]:
        """The unpacked lines with their line ends, their lengths, and where they begin; of a line that is longer than
        `longest` bytes only its start comes. Raises like `chunks`."""
        return self._guarded(self._lines(longest))

    def _lines(self, longest: int) -> Iterator[tuple[bytes, int, int]]:
        at, stop = self._first_line(), self.span.stop
        while (stop is None or at < stop) and (line := self.stream.readline(longest)):
            length = len(line)
            if length == longest and not line.endswith(b"\n"):
                while rest := self.stream.readline(CHUNK_SIZE):
                    length += len(rest)
                    if rest.endswith(b"\n"):
                        break
            self.lines_read += 1
            yield line, length, at
            at += length

    def _first_line(self) -> int:
        """Go to the first line that begins in the span. Of a line without an end nothing beyond the span is read, so
        that many spans of one endless line cost no more than reading it once."""
        start, stop = self.span.start, self.span.stop
        if not start:
            return 0
        assert not self.is_compressed
        self._file.seek(start - 1)
        at = start - 1
        while stop is None or at < stop:
            piece = self._file.readline(CHUNK_SIZE if stop is None else min(CHUNK_SIZE, stop - at))
            at += len(piece)
            if not piece or piece.endswith(b"\n"):
                break
        return at

    def count_lines_before(self) -> int:
        """How many lines of the file begin before the span."""
        count, left = 0, self.span.start
        with self.path.open("rb") as file:
            while left and (piece := file.read(min(CHUNK_SIZE, left))):
                count += piece.count(b"\n")
                left -= len(piece)
            file.seek(max(0, self.span.start - 1))
            return count + (self.span.start > 0 and file.read(1) != b"\n")

    def _guarded(self, pieces: Iterator[Chunk]) -> Iterator[Chunk]:
        try:
            yield from pieces
        except (EOFError, zlib.error, lzma.LZMAError, OSError, _zstd_error()) as error:
            message = say("cannot be unpacked, is it cut short?", "解压失败，文件是否不完整？")
            raise UserError(message, f"{self.path} ({error})") from error
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise UserError when the file is another now than when it was opened: half of it old, half new is neither."""
        try:
            same = _file_state(self.path.stat()) == self._state
        except OSError:
            same = False
        if not same:
            hint = say("run again when nothing writes to it", "请在没有程序写入它时重新运行")
            raise UserError(say("it changed while it was read", "文件在读取过程中被修改"), self.path, hint)

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stream.close()
        self._file.close()


def _file_state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


class _ZstdReader(io.RawIOBase):
    """Unpacks zstandard frames; raises EOFError where the last one is cut short, which zstandard's own reader hides."""

    def __init__(self, file: BinaryIO, unpacker: Any) -> None:
        self._file = file
        self._unpacker = unpacker
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            packed = b"" if self._frame is None else self._frame.unused_data
            packed = packed or self._file.read(_COMPRESSED_CHUNK_SIZE)
            if not packed:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the last frame is not complete")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._unpacker.decompressobj()
            self._ready = self._frame.decompress(packed)
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _zstd_error() -> type[Exception]:
    try:
        import zstandard
    except ImportError:
        return EOFError
    return cast("type[Exception]", zstandard.ZstdError)
