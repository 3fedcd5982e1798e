"""Input splits: pieces of a file that are processed by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from hanlin.data.formats.detect import detect_format
from hanlin.data.ingest.executor import Meter
from hanlin.data.ingest.spec import Course
from hanlin.data.io.input_file import WHOLE_FILE, ByteRange, InputFile
from hanlin.data.io.layout import Layout, is_splittable
from hanlin.data.io.sources import SourceFile

PIECE_BYTES = 1 << 24


BREAKS = frozenset({"broken_json", "undecodable", "line_too_long", "broken_csv"})


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a file told: its layout, which of the sieve's formats its rows have, its size and whether it can
    be read from the middle, and what shows that it was not changed since."""

    layout: Layout
    format: str
    divisible: bool
    size: int
    changed: int

    def pieces(self) -> list[ByteRange]:
        if not self.divisible or self.size <= PIECE_BYTES:
            return [WHOLE_FILE]
        starts = range(0, self.size, PIECE_BYTES)
        return [ByteRange(start, start + PIECE_BYTES if start + PIECE_BYTES < self.size else None) for start in starts]


def look(course: Course, file: SourceFile, meter: Meter) -> Look:
    """Find out how a file is written. Raises UserError as `how_written` does, and where it changes meanwhile."""
    with InputFile(file.path) as tape:
        status, packed = file.path.stat(), tape.is_compressed
        written = detect_format(file, course.sieve.formats(file), course.sieve.other_formats)
        tape.check_unchanged()
    divisible = not packed and is_splittable(written.layout)
    return Look(written.layout, written.format.name, divisible, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Piece:
    """Lines of a file to sift, into parts whose names begin with `name`; of them `limit` rows at the most. `known` are
    the records of another stage, which are not judged but only compared with."""

    file: SourceFile
    look: Look
    span: ByteRange
    name: str
    limit: int | None = None
    known: bool = False

    @property
    def bytes(self) -> int:
        return (self.look.size if self.span.stop is None else self.span.stop) - self.span.start
