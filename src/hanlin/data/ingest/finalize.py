"""The second pass of a data stage: copies are found over all parts, records held out, the final files written.

Owns the order and the bytes of the final files. Does not own how a row is judged (`parts`) nor which texts are alike
(`copies`). Held in memory are some numbers for each record; texts and signatures stay on disk.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.core.context import Job
from hanlin.core.records import HELD_OUT
from hanlin.data.dedup.cluster import Groups, Places, candidate_groups, components, decided, exact_copies
from hanlin.data.ingest.executor import Meter, Tasks
from hanlin.data.ingest.process_split import Course, Part, write_whole
from hanlin.data.ledger import FileAccount

_PLACE = re.compile(rb'("place": "(?:[^"\\]|\\.)*:)(\d+)"')
_BANDS = "bands"
_FEW_BUNCHES = 8
"""Bunches of components that are decided before workers would have started."""


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


# --- copies and the held-out side -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdicts:
    """For each record the place of the one that it copies, or -1; whether it is only a near copy; whether it is held
    out; and the number of its row."""

    copies: Places
    near: npt.NDArray[np.bool_]
    heldout: npt.NDArray[np.bool_]
    numbers: Places


def judged_together(shelf: Shelf, job: Job, small: bool) -> Verdicts:
    """Find copies among all records, and hold some of the rest out."""
    dedup, count = shelf.course.sieve.dedup, shelf.count
    numbers = np.empty(count, dtype=np.int64)
    keys = np.empty((count, 2), dtype=np.uint64)
    sides = np.empty(count, dtype=np.uint64)
    with (shelf.course.parts / _BANDS).open("wb") as bands:
        for one in shelf.joined:
            arrays = one.part.arrays()
            mine = slice(one.first, one.first + one.count)
            numbers[mine] = arrays["number"] + one.rows_before
            keys[mine], sides[mine] = arrays["key"], arrays["side"]
            for number, column in enumerate(arrays["bands"].T if "bands" in arrays else ()):
                bands.seek(8 * (number * count + one.first))
                bands.write(np.ascontiguousarray(column).tobytes())
    near = np.zeros(count, dtype=np.bool_)
    if dedup.method == "none":
        copies = np.full(count, -1, dtype=np.int64)
    else:
        copies = exact_copies(keys)
    del keys
    if dedup.method == "minhash" and count:
        similar = _near_copies(shelf, job, small, copies < 0)
        near = similar >= 0
        copies = np.where(near, similar, copies)
        # The first of a group of equal texts may itself be a near copy: then all of them copy the same kept text.
        of_dropped = (copies >= 0) & (copies[copies] >= 0)
        copies[of_dropped] = copies[copies[of_dropped]]
        near |= of_dropped
    stays = copies < 0
    stays[: shelf.fixed] = False
    return Verdicts(copies, near, heldout(sides, stays, shelf.course.sieve.heldout_share), numbers)


def _near_copies(shelf: Shelf, job: Job, small: bool, taking: npt.NDArray[np.bool_]) -> Places:
    count, bands = shelf.count, shelf.course.parts / _BANDS
    columns = bands.stat().st_size // (8 * count)
    groups = candidate_groups(
        (np.fromfile(bands, dtype=np.uint64, count=count, offset=8 * count * band) for band in range(columns)), taking
    )
    copies = np.full(count, -1, dtype=np.int64)
    bunches = list(components(groups))
    tasks = Tasks(job, shelf.course.parts, small or len(bunches) <= _FEW_BUNCHES)
    for mine, firsts in tasks.each(_decide, shelf, bunches):
        copies[mine] = firsts
    return copies


def _decide(shelf: Shelf, groups: Groups, meter: Meter) -> tuple[Places, Places]:
    marks = shelf.signatures(np.unique(groups.members))
    return decided(groups, marks, shelf.course.sieve.dedup, shelf.fixed, shelf.text)


def heldout(sides: npt.NDArray[np.uint64], stays: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.bool_]:
    """Which of the staying records are held out: those whose content's hash lies in the lowest share of all hashes.

    It depends on the content alone, so that it stays the same when files are added or come in another order. Where
    there are two or more records, at least one is held out and at least one is not.
    """
    held = np.zeros(len(sides), dtype=np.bool_)
    places = np.flatnonzero(stays)
    values = sides[places]
    if share <= 0 or not len(values) or values.min() == values.max():
        return held
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    if not (values < limit).any():
        limit = values.min() + np.uint64(1)
    elif (values < limit).all():
        limit = values.max()
    held[places[values < limit]] = True
    return held


# --- the final files ------------------------------------------------------------------------------------------------


def write_records(shelf: Shelf, verdicts: Verdicts, out: Path) -> list[FileAccount]:
    """Write what is kept, held out and dropped; return what became of each file. Of each file `dropped.jsonl` has the
    rows that were judged first, then the copies."""
    accounts: dict[str, FileAccount] = {}
    files: dict[str, list[Joined]] = {}
    for one in shelf.own:
        files.setdefault(one.part.account.file, []).append(one)
    names = _Names(shelf, verdicts.numbers)
    with _Writer(out, shelf.course.sieve.file_name) as writer:
        for file, parts in files.items():
            for one in parts:
                writer.drop(_placed(one))
            first = parts[0].part.account
            account = accounts[file] = FileAccount(file, first.format, first.encoding, first.licence)
            for one in parts:
                account.add(one.part.account)
                _write_part(one, verdicts, names, account, writer)
    return list(accounts.values())


def _placed(one: Joined) -> bytes:
    """The dropped rows of a part with their places in the file."""
    rows = one.part.beside(".dropped.jsonl").read_bytes()
    if not one.lines_before:
        return rows
    return b"".join(
        _PLACE.sub(lambda found: b'%s%d"' % (found[1], int(found[2]) + one.lines_before), row, count=1)
        for row in rows.splitlines(keepends=True)
    )


class _Names:
    """The ids of records that others copy, in JSON."""

    def __init__(self, shelf: Shelf, numbers: Places) -> None:
        self._shelf, self._numbers = shelf, numbers

    def of(self, place: int) -> bytes:
        if place < self._shelf.fixed:
            name = json.loads(self._shelf.line(place))["id"]
        else:
            name = f"{self._shelf.holder(place).part.account.file}#{self._numbers[place]}"
        return json.dumps(name, ensure_ascii=False).encode("utf-8")


def _write_part(one: Joined, verdicts: Verdicts, names: _Names, account: FileAccount, writer: _Writer) -> None:
    arrays = one.part.arrays()
    mine = slice(one.first, one.first + one.count)
    copies, held = verdicts.copies[mine], verdicts.heldout[mine]
    stays = copies < 0
    account.rows_kept += int(stays.sum())
    account.rows_heldout += int(held.sum())
    account.characters += int(arrays["characters"][stays].sum())
    if not one.count:
        return
    data = one.part.kept.read_bytes()
    if stays.all() and not held.any() and not one.rows_before and not one.lines_before:
        writer.keep([data], False)
        return
    near = verdicts.near[mine].tolist()
    name = json.dumps(account.file, ensure_ascii=False).encode("utf-8")[:-1]
    head = b'{"id": ' + name + b"#"
    kept: list[bytes] = []
    heldout: list[bytes] = []
    columns = (arrays[column].tolist() for column in ("at", "bytes", "tail", "number", "line"))
    for place, (begin, size, tail, number, line_number) in enumerate(zip(*columns, strict=True)):
        end = begin + size
        line = data[begin:end]
        if one.rows_before or one.lines_before:
            line = b"%s%d%s%d%s" % (
                head,
                number + one.rows_before,
                data[begin + len(head) + len(str(number)) : end - tail - len(str(line_number))],
                line_number + one.lines_before,
                data[end - tail : end],
            )
        if stays[place]:
            (heldout if held[place] else kept).append(line)
            continue
        reason = "near_duplicate" if near[place] else "duplicate"
        account.dropped[reason] += 1
        writer.drop(
            b'{"reason": "%s", "place": %s:%d", "of": %s, "row": %s}\n'
            % (reason.encode(), name, line_number + one.lines_before, names.of(int(copies[place])), line[:-1])
        )
    writer.keep(kept, False)
    writer.keep(heldout, True)


class _Writer:
    """The final files, written aside and put in place together."""

    def __init__(self, out: Path, file_name: str) -> None:
        self._paths = {name: out / name for name in (file_name, HELD_OUT, "dropped.jsonl")}
        self._file_name = file_name
        self._held = False

    def __enter__(self) -> _Writer:
        self._files = {name: path.with_name(path.name + ".writing").open("wb") for name, path in self._paths.items()}
        return self

    def keep(self, lines: Sequence[bytes], heldout: bool) -> None:
        self._held = self._held or (heldout and bool(lines))
        self._files[HELD_OUT if heldout else self._file_name].writelines(lines)

    def drop(self, lines: bytes) -> None:
        self._files["dropped.jsonl"].write(lines)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for file in self._files.values():
            file.close()
        for name, path in self._paths.items():
            aside = path.with_name(path.name + ".writing")
            if kind is not None or (name == HELD_OUT and not self._held):
                aside.unlink()
                if kind is None:
                    path.unlink(missing_ok=True)
            else:
                aside.replace(path)


def write_ledger(accounts: Sequence[FileAccount], skipped: Sequence[str], out: Path) -> FileAccount:
    """Write `ledger.json`; return the sum of all files."""
    whole = FileAccount("", "", "")
    for account in accounts:
        whole.add(account)
    ledger: dict[str, Any] = {**whole.counts(), "files": [account.to_json() for account in accounts]}
    if skipped:
        ledger["files_skipped"] = list(skipped)
    write_whole(out / "ledger.json", (json.dumps(ledger, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
    return whole
