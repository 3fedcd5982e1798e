"""Lines of a large file by their number, without reading what is before them.

A table counts the line ends before each block of 64 KiB: 8 bytes for each, 61 KB for a file of 500 MB. It grows as far
as a line is asked for, so that the first page needs one block, and is kept in a cache file, which is not beside the
data. Line `n` is then one look into the table and one block.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hanlin.core.files import FileState, file_state, open_regular, write_bytes

BLOCK_BYTES = 1 << 16
_SEARCH_BYTES = 1 << 20
_MAGIC = b"hanlin-lines-1\n"
MAX_LINE_BYTES = 64 << 20
"""Longest line that is shown; a longer one is cut."""


class LineIndex:
    """The lines of one file, counted from 0.

    Args:
        path: The file.
        cache: The folder of the cache file; None: none is kept.
    """

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        self.path = path
        self._cache = cache
        self._lock = threading.Lock()
        self._state: FileState | None = None
        self._start_over(None)
        self.refresh()

    def _start_over(self, state: FileState | None) -> None:
        self._state = state
        self._before = array("q")
        """Line ends before each block that was counted."""
        self._counted = 0
        """Line ends in all blocks that were counted."""
        self._ends_open = False
        """Whether the file's last line has no end."""
        self.is_complete = False

    def refresh(self) -> None:
        """Start over if the file is another than before."""
        with self._lock:
            state = file_state(self.path.stat())
            if state != self._state:
                self._start_over(state)
                self._load(state)

    @property
    def num_bytes(self) -> int:
        return 0 if self._state is None else self._state.size

    @property
    def num_known_lines(self) -> int:
        """The lines that are counted so far; all of them if `is_complete`."""
        return self._counted + (1 if self.is_complete and self._ends_open else 0)

    def count(self) -> int:
        """The number of lines; the file is read to its end unless that was done before."""
        self._extend(None)
        return self.num_known_lines

    def lines(self, first: int, count: int) -> list[bytes]:
        """Up to `count` lines from line `first` on, without their ends."""
        found: list[bytes] = []
        for line in self.iterate(first):
            if len(found) >= count:
                break
            found.append(line)
        return found

    def iterate(self, first: int = 0) -> Iterator[bytes]:
        """The lines from line `first` on, without their ends."""
        with self._open_at(first) as file:
            while file is not None and (line := file.readline(MAX_LINE_BYTES)):
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    _skip_line(file)
                yield line.removesuffix(b"\n")

    def search(self, needle: bytes, first: int = 0) -> Iterator[tuple[int, bytes | None]]:
        """The lines that hold some bytes, with their numbers, from line `first` on; after each chunk that was read, the
        number that was reached and None. A chunk in which nothing is found is not divided into lines.
        """
        number, rest = first, b""
        with self._open_at(first) as file:
            while file is not None and (data := file.read(_SEARCH_BYTES)):
                block = rest + data
                end = block.rfind(b"\n") + 1
                whole, rest = block[:end], block[end:]
                if needle in whole:
                    for line in whole.split(b"\n")[:-1]:
                        if needle in line:
                            yield number, line
                        number += 1
                else:
                    number += whole.count(b"\n")
                yield number, None
        if needle in rest:
            yield number, rest

    @contextmanager
    def _open_at(self, line: int) -> Iterator[BinaryIO | None]:
        """The file, where a line begins; None if it has no such line."""
        self._extend(line)
        if line >= self.num_known_lines and self.is_complete:
            yield None
            return
        block = max(0, bisect_left(self._before, line) - 1)  # it holds the line end before the line
        skip = line - (self._before[block] if self._before else 0)
        with open_regular(self.path) as file:
            file.seek(block * BLOCK_BYTES)
            yield file if all(_skip_line(file) for _ in range(skip)) else None

    def _extend(self, line: int | None) -> None:
        """Count line ends until line `line` is known to have begun, or to the end."""
        with self._lock:
            if self.is_complete or (line is not None and line <= self._counted and self._before):
                return
            with open_regular(self.path) as file:
                file.seek(len(self._before) * BLOCK_BYTES)
                while True:
                    block = file.read(BLOCK_BYTES)
                    if not block:
                        break
                    self._before.append(self._counted)
                    self._counted += block.count(b"\n")
                    self._ends_open = not block.endswith(b"\n")
                    if len(block) < BLOCK_BYTES:
                        break
                    if line is not None and self._counted > line:
                        return
            self.is_complete = True
            self._save()

    # --- cache --------------------------------------------------------------------------------------------------------

    def _cache_file(self) -> Path | None:
        if self._cache is None:
            return None
        name = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:24]
        return self._cache / f"{name}.lines"

    def _header(self, state: FileState) -> bytes:
        return _MAGIC + (" ".join(map(str, state)) + "\n").encode()

    def _load(self, state: FileState) -> None:
        file = self._cache_file()
        if file is None or file.is_symlink():
            return
        try:
            data = file.read_bytes()
        except OSError:
            return
        header = self._header(state)
        body = data[len(header) :]
        if not data.startswith(header) or len(body) % 8 or len(body) < 16:
            return
        numbers = array("q", body)
        blocks = -(-state.size // BLOCK_BYTES)
        if len(numbers) != blocks + 2:
            return
        self._counted, self._ends_open = numbers[-2], bool(numbers[-1])
        self._before = numbers[:-2]
        self.is_complete = True

    def _save(self) -> None:
        file = self._cache_file()
        if file is None or self._state is None or self._state.size <= BLOCK_BYTES:
            return
        numbers = self._before + array("q", [self._counted, int(self._ends_open)])
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, self._header(self._state) + numbers.tobytes(), shared=True)


def _skip_line(file: BinaryIO) -> bool:
    """Read to the end of a line; False at the end of the file."""
    while line := file.readline(MAX_LINE_BYTES):
        if line.endswith(b"\n"):
            return True
    return False
