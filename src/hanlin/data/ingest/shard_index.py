"""An index over all shards of a stage."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanlin.data.dedup.cluster import Places
from hanlin.data.ingest.shards import Part
from hanlin.data.ingest.spec import Course

PLACE = re.compile(rb'("location": "(?:[^"\\]|\\.)*:)(\d+)"')


@dataclass(frozen=True, slots=True)
class Joined:
    """A part with the rows and the lines of its file that lie before its piece, and the place of its first record."""

    part: Part
    rows_before: int
    lines_before: int
    first: int
    count: int


@dataclass(frozen=True)
class Shelf:
    """All parts of a stage; the records of other stages come first, `fixed` in number. A record is known by its place
    among all. `numbers` says which row of its file each is."""

    course: Course
    joined: tuple[Joined, ...]
    fixed: int
    firsts: Places

    @classmethod
    def of(cls, course: Course, pieces: Sequence[Sequence[Part]], known: int) -> Shelf:
        """`pieces` are the parts of each piece, in order; the first `known` pieces are those of other stages."""
        joined: list[Joined] = []
        rows: Counter[str] = Counter()
        lines: Counter[str] = Counter()
        place = fixed = 0
        for number, parts in enumerate(pieces):
            for part in parts:
                count = part.account.rows_in - sum(part.account.dropped.values())
                own = number >= known
                name = part.account.file
                joined.append(Joined(part, rows[name] * own, lines[name] * own, place, count))
                place += count
            if number < known:
                fixed = place
            else:
                rows[parts[0].account.file] += sum(part.account.rows_in for part in parts)
                lines[parts[0].account.file] += parts[-1].lines
        return cls(course, tuple(joined), fixed, np.array([one.first for one in joined], dtype=np.int64))

    @property
    def count(self) -> int:
        return self.joined[-1].first + self.joined[-1].count

    @property
    def own(self) -> list[Joined]:
        return [one for one in self.joined if one.part.texts is None]

    def holder(self, place: int) -> Joined:
        return self.joined[int(np.searchsorted(self.firsts, place, side="right")) - 1]

    def line(self, place: int) -> bytes:
        """The line of a record as it stands in its part."""
        held = self.holder(place)
        with held.part.kept.open("rb") as file:
            file.seek(int(_begins(held.part)[place - held.first]))
            return file.readline()

    def text(self, place: int) -> str:
        sieve = self.course.sieve
        return sieve.compared(sieve.record.from_json(json.loads(self.line(place))))

    def signatures(self, places: Places) -> npt.NDArray[np.uint32]:
        """The signatures of records whose places are in order."""
        holders = np.searchsorted(self.firsts, places, side="right") - 1
        cuts = np.flatnonzero(np.diff(holders)) + 1
        return np.concatenate(
            [
                self.joined[int(holders[mine[0]])].part.signatures()[places[mine] - self.firsts[holders[mine[0]]]]
                for mine in np.split(np.arange(len(places)), cuts)
            ]
        )


@lru_cache(maxsize=512)
def _begins_at(path: Path, changed: int) -> npt.NDArray[np.int64]:
    with np.load(path, allow_pickle=False) as data:
        begins: npt.NDArray[np.int64] = data["at"]
        return begins


def _begins(part: Part) -> npt.NDArray[np.int64]:
    path = part.beside(".npz")
    return _begins_at(path, path.stat().st_mtime_ns)
