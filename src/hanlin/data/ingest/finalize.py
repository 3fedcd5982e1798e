"""The second pass of a data stage: copies are found over all parts, records held out, the final files written.

Owns the order and the bytes of the final files. Does not own how a row is judged (`parts`) nor which texts are alike
(`copies`). Held in memory are some numbers for each record; texts and signatures stay on disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.core.discover import VALIDATION_FILE
from hanlin.core.files import write_bytes
from hanlin.data.dedup.cluster import Places
from hanlin.data.ingest.deduplicate import Verdicts
from hanlin.data.ingest.shard_index import PLACE, Joined, Shelf
from hanlin.data.ledger import FileStats

"""Bunches of components that are decided before workers would have started."""


# --- copies and the validation split -----------------------------------------------------------------------------------


# --- the final files ------------------------------------------------------------------------------------------------


def write_records(shelf: Shelf, verdicts: Verdicts, out: Path) -> list[FileStats]:
    """Write what is kept, held out and dropped; return what became of each file. Of each file `dropped.jsonl` has the
    rows that were judged first, then the copies."""
    accounts: dict[str, FileStats] = {}
    files: dict[str, list[Joined]] = {}
    for one in shelf.own:
        files.setdefault(one.part.account.file, []).append(one)
    names = _Names(shelf, verdicts.numbers)
    with _Writer(out, shelf.course.sieve.file_name) as writer:
        for file, parts in files.items():
            for one in parts:
                writer.drop(_placed(one))
            first = parts[0].part.account
            account = accounts[file] = FileStats(file, first.format, first.encoding, first.license)
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
        PLACE.sub(lambda found: b'%s%d"' % (found[1], int(found[2]) + one.lines_before), row, count=1)
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


def _write_part(one: Joined, verdicts: Verdicts, names: _Names, account: FileStats, writer: _Writer) -> None:
    arrays = one.part.arrays()
    mine = slice(one.first, one.first + one.count)
    copies, held = verdicts.copies[mine], verdicts.validation[mine]
    stays = copies < 0
    account.rows_kept += int(stays.sum())
    account.rows_validation += int(held.sum())
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
    validation: list[bytes] = []
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
            (validation if held[place] else kept).append(line)
            continue
        reason = "near_duplicate" if near[place] else "duplicate"
        account.dropped[reason] += 1
        writer.drop(
            b'{"reason": "%s", "location": %s:%d", "duplicate_of": %s, "row": %s}\n'
            % (reason.encode(), name, line_number + one.lines_before, names.of(int(copies[place])), line[:-1])
        )
    writer.keep(kept, False)
    writer.keep(validation, True)


class _Writer:
    """The final files, written aside and put in place together."""

    def __init__(self, out: Path, file_name: str) -> None:
        self._paths = {name: out / name for name in (file_name, VALIDATION_FILE, "dropped.jsonl")}
        self._file_name = file_name
        self._held = False

    def __enter__(self) -> _Writer:
        self._files = {name: path.with_name(path.name + ".writing").open("wb") for name, path in self._paths.items()}
        return self

    def keep(self, lines: Sequence[bytes], validation: bool) -> None:
        self._held = self._held or (validation and bool(lines))
        self._files[VALIDATION_FILE if validation else self._file_name].writelines(lines)

    def drop(self, lines: bytes) -> None:
        self._files["dropped.jsonl"].write(lines)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for file in self._files.values():
            file.close()
        for name, path in self._paths.items():
            aside = path.with_name(path.name + ".writing")
            if kind is not None or (name == VALIDATION_FILE and not self._held):
                aside.unlink()
                if kind is None:
                    path.unlink(missing_ok=True)
            else:
                aside.replace(path)


def write_ledger(accounts: Sequence[FileStats], skipped: Sequence[str], out: Path) -> FileStats:
    """Write `ledger.json`; return the sum of all files."""
    whole = FileStats("", "", "")
    for account in accounts:
        whole.add(account)
    ledger: dict[str, Any] = {**whole.counts(), "files": [account.to_json() for account in accounts]}
    if skipped:
        ledger["files_skipped"] = list(skipped)
    write_bytes(
        out / "ledger.json", (json.dumps(ledger, ensure_ascii=False, indent=1) + "\n").encode("utf-8"), shared=True
    )
    return whole
