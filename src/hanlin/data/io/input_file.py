"""An input file opened for reading: decompressed on the way, and checked to stay the same while it is read."""

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
from hanlin.core.files import changed_while_read, file_state
from hanlin.core.i18n import tr

CHUNK_SIZE = 1 << 20
_COMPRESSED_CHUNK_SIZE = 1 << 16
Chunk = TypeVar("Chunk")


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The lines of a file that begin at byte `start` or later and before byte `stop` (None: up to the end)."""

    start: int = 0
    stop: int | None = None


WHOLE_FILE = ByteRange()


class InputFile:
    """A file opened for reading, decompressed on the way (gzip, bzip2, xz, zstandard, told by the first bytes).

    Args:
        path: The file.
        byte_range: The lines that `lines` reads; other than the whole file only if it is not compressed.

    Attributes:
        stream: The decompressed bytes.
        head: The first 6 bytes of the file itself.
        state: The state of the file when it was opened.
        lines_read: Lines that `lines` has read so far.
        unread_fields: Names of the fields around the rows of the file, such as its version, that were passed so far.

    Raises:
        UserError: The file cannot be opened or is no regular file (a pipe can be read only once).
    """

    def __init__(self, path: Path, byte_range: ByteRange = WHOLE_FILE) -> None:
        self.path = path
        self.byte_range = byte_range
        self.lines_read = 0
        self.unread_fields: dict[str, None] = {}
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UserError(tr("not a regular file"), path)
            self._file = path.open("rb")
            self.state = file_state(os.fstat(self._file.fileno()))
            head = self._file.read(6)
            self._file.seek(0)
        except OSError as error:
            raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
        self.head = head
        self.stream: BinaryIO = self._decompress(head)

    @property
    def is_compressed(self) -> bool:
        """Whether the file is read through a decompressor."""
        return self.stream is not self._file

    def _decompress(self, head: bytes) -> BinaryIO:
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
                raise UserError(tr("decompressing it needs zstandard"), self.path, hint) from error
            return cast(BinaryIO, io.BufferedReader(_ZstdReader(self._file, zstandard.ZstdDecompressor()), CHUNK_SIZE))
        return self._file

    @property
    def position(self) -> int:
        """How many bytes of the file itself have been read."""
        return 0 if self._file.closed else self._file.tell()

    def chunks(self) -> Iterator[bytes]:
        """Read the decompressed bytes in chunks of 1 MiB.

        Raises:
            UserError: The compressed file is broken or truncated, or the file changed while it was read.
        """
        return self._translate_errors(iter(lambda: self.stream.read(CHUNK_SIZE), b""))

    def lines(self, max_bytes: int) -> Iterator[tuple[bytes, int, int]]:
        """Read the decompressed lines of the byte range.

        Args:
            max_bytes: Of a longer line only the first `max_bytes` bytes are returned.

        Yields:
            (line with its line end, length in bytes, offset of its first byte).

        Raises:
            UserError: As in `chunks`.
        """
        return self._translate_errors(self._read_lines(max_bytes))

    def _read_lines(self, max_bytes: int) -> Iterator[tuple[bytes, int, int]]:
        offset, stop = self._seek_first_line(), self.byte_range.stop
        while (stop is None or offset < stop) and (line := self.stream.readline(max_bytes)):
            length = len(line)
            if length == max_bytes and not line.endswith(b"\n"):
                while rest := self.stream.readline(CHUNK_SIZE):
                    length += len(rest)
                    if rest.endswith(b"\n"):
                        break
            self.lines_read += 1
            yield line, length, offset
            offset += length

    def _seek_first_line(self) -> int:
        """Seek to the first line that begins in the byte range, and return its offset.

        Of a line without an end nothing beyond the range is read, so that many ranges of one endless line cost no more
        than reading it once.
        """
        start, stop = self.byte_range.start, self.byte_range.stop
        if not start:
            return 0
        assert not self.is_compressed
        self._file.seek(start - 1)
        offset = start - 1
        while stop is None or offset < stop:
            chunk = self._file.readline(CHUNK_SIZE if stop is None else min(CHUNK_SIZE, stop - offset))
            offset += len(chunk)
            if not chunk or chunk.endswith(b"\n"):
                break
        return offset

    def count_lines_before(self) -> int:
        """Count the lines of the file that begin before the byte range."""
        count, remaining = 0, self.byte_range.start
        with self.path.open("rb") as file:
            while remaining and (chunk := file.read(min(CHUNK_SIZE, remaining))):
                count += chunk.count(b"\n")
                remaining -= len(chunk)
            file.seek(max(0, self.byte_range.start - 1))
            return count + (self.byte_range.start > 0 and file.read(1) != b"\n")

    def _translate_errors(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        try:
            yield from chunks
        except (EOFError, zlib.error, lzma.LZMAError, OSError, _zstd_error()) as error:
            message = tr("cannot be decompressed; it may be truncated")
            raise UserError(message, f"{self.path} ({error})") from error
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Raise UserError if the file changed since it was opened: half old and half new is neither file."""
        try:
            same = file_state(self.path.stat()) == self.state
            same = same and (self._file.closed or file_state(os.fstat(self._file.fileno())) == self.state)
        except OSError:
            same = False
        if not same:
            raise changed_while_read(self.path)

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stream.close()
        self._file.close()


class _ZstdReader(io.RawIOBase):
    """Decompresses zstandard frames; raises EOFError if the last one is truncated, which zstandard's reader hides."""

    def __init__(self, file: BinaryIO, decompressor: Any) -> None:
        self._file = file
        self._decompressor = decompressor
        self._frame: Any = None
        self._decompressed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decompressed:
            compressed = b"" if self._frame is None else self._frame.unused_data
            compressed = compressed or self._file.read(_COMPRESSED_CHUNK_SIZE)
            if not compressed:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the last frame is not complete")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            self._decompressed = self._frame.decompress(compressed)
        count = min(len(buffer), len(self._decompressed))
        buffer[:count] = self._decompressed[:count]
        self._decompressed = self._decompressed[count:]
        return count


def _zstd_error() -> type[Exception]:
    try:
        import zstandard
    except ImportError:
        return EOFError
    return cast("type[Exception]", zstandard.ZstdError)
