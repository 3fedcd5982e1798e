"""Input splits: pieces of a file that are processed by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from hanlin.data.formats.detect import how_written
from hanlin.data.ingest.executor import Meter
from hanlin.data.ingest.spec import Course
from hanlin.data.io.input_file import WHOLE, Span, Tape
from hanlin.data.io.layout import Layout, can_be_divided
from hanlin.data.io.sources import SourceFile

PIECE_BYTES = 1 << 24


BREAKS = frozenset({"broken_json", "undecodable", "endless_line", "broken_csv"})


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a file told: its layout, which of the sieve's formats its rows have, its size and whether it can
    be read from the middle, and what shows that it was not changed since."""

    layout: Layout
    format: str
    divisible: bool
    size: int
    changed: int

    def pieces(self) -> list[Span]:
        if not self.divisible or self.size <= PIECE_BYTES:
            return [WHOLE]
        starts = range(0, self.size, PIECE_BYTES)
        return [Span(start, start + PIECE_BYTES if start + PIECE_BYTES < self.size else None) for start in starts]


def look(course: Course, file: SourceFile, meter: Meter) -> Look:
    """Find out how a file is written. Raises UserError as `how_written` does, and where it changes meanwhile."""
    with Tape(file.path) as tape:
        status, packed = file.path.stat(), tape.packed
        written = how_written(file, course.sieve.formats(file), course.sieve.elsewhere)
        tape.check_unchanged()
    divisible = not packed and can_be_divided(written.layout)
    return Look(written.layout, written.format.name, divisible, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Piece:
    """Lines of a file to sift, into parts whose names begin with `name`; of them `limit` rows at the most. `known` are
    the records of another stage, which are not judged but only compared with."""

    file: SourceFile
    look: Look
    span: Span
    name: str
    limit: int | None = None
    known: bool = False

    @property
    def bytes(self) -> int:
        return (self.look.size if self.span.stop is None else self.span.stop) - self.span.start
