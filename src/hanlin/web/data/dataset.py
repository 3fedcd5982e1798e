"""A data artifact as the page shows it: pages of kept, validation and dropped rows; search and filters.

Nothing is read that is not shown: the numbers of rows are in the ledger, and a page is one look into the table of
lines. A search goes through the file until a page is full or its time is up; it then says how far it came, and goes on
from there.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.core.discover import VALIDATION_FILE, record_files, record_kind
from hanlin.core.errors import UserError
from hanlin.core.files import load_json_object, parse_json
from hanlin.core.i18n import tr
from hanlin.data.report.excerpts import count_characters
from hanlin.web.data.lines import LineIndex

DROPPED_FILE, LEDGER_FILE = "dropped.jsonl", "ledger.json"
PAGE_ROWS = 50
SEARCH_SECONDS = 0.8
"""What one request searches; the reader goes on from where it ended."""
SAMPLE_ROWS = 2_000
"""Records that a histogram is made of."""
MAX_LEDGER_BYTES = 64 << 20
_REASON = re.compile(rb'\{"reason": "([a-z_]+)"')
PARTS = ("kept", "validation", "dropped")


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for.

    Attributes:
        text: Characters that are in the row, as they are written.
        reason: Of dropped rows, their reason.
        least: Characters that a record has at least; None: any number.
        most: Characters that it has at most.
        turns: Turns that a conversation has at least.
        source: What the place in the source begins with, as a file's name.
    """

    text: str = ""
    reason: str = ""
    least: int | None = None
    most: int | None = None
    turns: int | None = None
    source: str = ""

    @property
    def is_empty(self) -> bool:
        return self == Query()

    def needle(self) -> bytes:
        """The bytes that a line holds in which the text is; JSON escapes quotes, backslashes and controls."""
        return json.dumps(self.text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")

    def matches(self, line: bytes, needle: bytes) -> bool:
        """Whether a line is wanted; its JSON is read only if that is needed."""
        if needle and needle not in line:
            return False
        if self.reason and not line.startswith(b'{"reason": "%s"' % self.reason.encode()):
            return False
        if self.least is None and self.most is None and self.turns is None and not self.source:
            return True
        try:
            row = parse_json(line)
        except ValueError:
            return False
        if not isinstance(row, dict):
            return False
        if self.source and not str(row.get("source") or row.get("location") or "").startswith(self.source):
            return False
        content = row.get("row", row) if "reason" in row else row
        if self.turns is not None and _count_turns(content) < self.turns:
            return False
        if self.least is None and self.most is None:
            return True
        size = count_characters(content)
        return (self.least is None or size >= self.least) and (self.most is None or size <= self.most)


def _count_turns(row: Any) -> int:
    turns = row.get("messages") or row.get("prompt") if isinstance(row, Mapping) else None
    return len(turns) if isinstance(turns, list) else 0


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A row of a file: its number in the part, from 0, and what it holds; `problem` if that is no JSON."""

    number: int
    data: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a part.

    Attributes:
        rows: The rows.
        next: The number from which the next page begins; None at the end.
        searched: Of a search, rows up to which was searched.
        is_partial: Whether the time was up before the page was full.
    """

    rows: tuple[DatasetRow, ...]
    next: int | None
    searched: int
    is_partial: bool = False


class Dataset:
    """The rows of a data artifact.

    Args:
        folder: The artifact.
        cache: The folder of the tables of lines.

    Raises:
        UserError: It holds no records.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self.folder = folder
        kind = record_kind(folder)
        if kind is None:
            raise UserError(tr("there are no records in this folder"), folder.name)
        self.kind = kind
        self.ledger = _read_ledger(folder)
        files = {
            "kept": record_files(folder, kind),
            "validation": [folder / VALIDATION_FILE],
            "dropped": [folder / DROPPED_FILE],
        }
        self._indices = {
            part: [LineIndex(file, cache) for file in paths if file.is_file()] for part, paths in files.items()
        }

    def refresh(self) -> None:
        """Look whether the files are still those that they were."""
        for indices in self._indices.values():
            for index in indices:
                index.refresh()

    def size(self, part: str) -> int | None:
        """The number of rows of a part: from the ledger, else from the table of lines if that is complete."""
        ledger = self.ledger
        numbers: dict[str, Any] = {
            "kept": ledger.get("rows_written", _difference(ledger.get("rows_kept"), ledger.get("rows_validation", 0))),
            "validation": ledger.get("rows_validation", 0),
            "dropped": ledger.get("rows_dropped"),
        }
        known = numbers[part]
        if isinstance(known, int):
            return known
        indices = self._indices[part]
        return sum(index.num_known_lines for index in indices) if all(i.is_complete for i in indices) else None

    def count_lines(self, part: str) -> int:
        """The number of rows of a part, counted."""
        return sum(index.count() for index in self._indices[part])

    def row(self, part: str, number: int) -> DatasetRow:
        """One row. Raises UserError if there is none of this number."""
        line = next(self._lines(part, number), None) if number >= 0 else None
        if line is None:
            raise UserError(tr("there is no row {number}", number=number + 1), self.folder.name)
        return _parse(number, line)

    def page(self, part: str, first: int, query: Query = Query(), count: int = PAGE_ROWS) -> Page:
        """A page of rows.

        Args:
            part: `kept`, `validation` or `dropped`.
            first: The number of the row to begin with.
            query: What is looked for.
            count: Rows of the page.
        """
        rows: list[DatasetRow] = []
        number = first - 1
        needle = query.needle()
        deadline = time.monotonic() + SEARCH_SECONDS
        for number, line in self._candidates(part, first, needle):
            if len(rows) >= count and line is not None:
                return Page(tuple(rows), number, number)
            if line is not None and (query.is_empty or query.matches(line, needle)):
                rows.append(_parse(number, line))
            elif (line is None or number % 64 == 0) and time.monotonic() > deadline:
                reached = number + (line is not None)
                return Page(tuple(rows), reached, reached, True)
        return Page(tuple(rows), None, number + 1)

    def _candidates(self, part: str, first: int, needle: bytes) -> Iterator[tuple[int, bytes | None]]:
        """The lines that may be wanted, with their numbers; None where nothing was found up to a number."""
        if not needle:
            yield from enumerate(self._lines(part, first), start=first)
            return
        for before, index, begin in self._from(part, first):
            for number, line in index.search(needle, begin):
                yield before + number, line

    def _lines(self, part: str, first: int) -> Iterator[bytes]:
        """The lines of all files of a part, from line `first` on."""
        for _, index, begin in self._from(part, first):
            yield from index.iterate(begin)

    def _from(self, part: str, first: int) -> Iterator[tuple[int, LineIndex, int]]:
        """The files of a part from line `first` on: lines in the files before, the file, and the line to begin with."""
        before = 0
        for position, index in enumerate(self._indices[part]):
            is_last = position == len(self._indices[part]) - 1
            if first > 0 and not is_last and first >= before + index.count():
                before += index.count()
                continue
            yield before, index, max(0, first - before)
            if not is_last:
                before += index.count()

    def find_id(self, record_id: str) -> DatasetRow | None:
        """The kept record of an id, in the training or the validation split; None if it is in neither."""
        start = b'{"id": %s,' % json.dumps(record_id, ensure_ascii=False).encode("utf-8", "surrogatepass")
        for part in ("kept", "validation"):
            before = 0
            for index in self._indices[part]:
                number = _find_line(index.path, start)
                if number is not None:
                    return _parse(before + number, index.lines(number, 1)[0])
                before += index.count()
        return None

    def sample(self, part: str, count: int = SAMPLE_ROWS, seed: int = 0) -> list[Mapping[str, Any]]:
        """Rows of a part, drawn uniformly; all of them if there are no more."""
        total = self.count_lines(part)
        if total <= count:
            return [row.data for row in (_parse(n, line) for n, line in enumerate(self._lines(part, 0))) if row.data]
        numbers = sorted(random.Random(seed).sample(range(total), count))
        rows = []
        for index in self._indices[part]:
            own = index.count()
            for number in numbers:
                if 0 <= number < own:
                    rows.append(_parse(number, index.lines(number, 1)[0]))
            numbers = [number - own for number in numbers]
        return [row.data for row in rows if row.data]

    def reasons(self) -> list[tuple[str, int]]:
        """The reasons of dropped rows and how many each has, the most frequent first."""
        dropped = self.ledger.get("dropped")
        counts = dropped if isinstance(dropped, dict) else {}
        pairs = [(str(name), count) for name, count in counts.items() if isinstance(count, int)]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def _difference(left: Any, right: Any) -> int | None:
    return left - right if isinstance(left, int) and isinstance(right, int) else None


def _read_ledger(folder: Path) -> dict[str, Any]:
    try:
        return load_json_object(folder / LEDGER_FILE, MAX_LEDGER_BYTES)
    except (OSError, UserError):  # records without a ledger, as an upload has them
        return {}


def _parse(number: int, line: bytes) -> DatasetRow:
    try:
        data = parse_json(line)
    except ValueError as error:
        return DatasetRow(number, {}, tr("this line cannot be read as JSON: {problem}", problem=error))
    return DatasetRow(number, data) if isinstance(data, dict) else DatasetRow(number, {}, tr("not a JSON object"))


def _find_line(path: Path, start: bytes, chunk_bytes: int = 8 << 20) -> int | None:
    """The number of the first line that begins with some bytes; None if there is none."""
    number, rest = 0, b""
    with path.open("rb") as file:
        while data := file.read(chunk_bytes):
            block = rest + data
            end = block.rfind(b"\n") + 1
            if block.startswith(start):
                return number
            position = block.find(b"\n" + start, 0, end + len(start))
            if position >= 0:
                return number + block.count(b"\n", 0, position + 1)
            number += block.count(b"\n", 0, end)
            rest = block[end:]
    return number if rest.startswith(start) else None


@dataclass(slots=True)
class DatasetCache:
    """The datasets that were opened last, so that each table of lines is read once.

    Attributes:
        cache: The folder of the tables of lines.
        limit: How many are kept.
    """

    cache: Path
    limit: int = 12
    _opened: dict[Path, tuple[tuple[int, int] | None, Dataset]] = field(default_factory=dict)
    """By folder the dataset, and the folder's inode and time: a stage that runs again makes another folder there."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self, folder: Path) -> Dataset:
        """The dataset of an artifact. Raises UserError if it holds no records."""
        state = _folder_state(folder)
        with self._lock:
            known, dataset = self._opened.pop(folder, (None, None))
        if dataset is None or state is None or known != state:
            dataset = Dataset(folder, self.cache)
            # the rest of the table is counted while the reader looks at the first page
            threading.Thread(target=_complete, args=(dataset,), name="lines", daemon=True).start()
        else:
            dataset.refresh()
        with self._lock:
            self._opened[folder] = (state, dataset)
            while len(self._opened) > self.limit:
                del self._opened[next(iter(self._opened))]
        return dataset


def _folder_state(folder: Path) -> tuple[int, int] | None:
    """The inode and the time of a folder in nanoseconds; None if it is not there."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _complete(dataset: Dataset) -> None:
    try:
        for part in PARTS:
            dataset.count_lines(part)
    except OSError:  # the artifact was deleted meanwhile
        pass


def histogram(values: Sequence[int], max_bins: int = 24) -> list[tuple[int, int, int]]:
    """How many values are in each of some bins, whose limits are round numbers on a scale of logarithms.

    Args:
        values: Whole numbers, 0 or more.
        max_bins: The most bins that are wanted.

    Returns:
        Of each bin its first value, the first one beyond it, and how many values it has.
    """
    if not values:
        return []
    edges = list(range(11))
    while edges[-1] <= max(values):
        scale = edges[-1]
        edges += [scale * tenths // 10 for tenths in (15, 20, 30, 40, 50, 70, 100)]
    counts = [0] * (len(edges) - 1)
    for value in values:
        counts[bisect_right(edges, value) - 1] += 1
    bins = [(edges[index], edges[index + 1], count) for index, count in enumerate(counts)]
    while bins and bins[0][2] == 0:
        bins.pop(0)
    while bins and bins[-1][2] == 0:
        bins.pop()
    while len(bins) > max_bins:
        bins = [
            (pair[0][0], pair[-1][1], sum(item[2] for item in pair))
            for pair in (bins[i : i + 2] for i in range(0, len(bins), 2))
        ]
    return bins
