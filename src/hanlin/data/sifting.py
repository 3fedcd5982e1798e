"""The common course of the data stages: read files row by row, judge each row, drop copies, hold out, keep account.

Owns shards, resuming and the final files. Does not own formats or what is judged (`corpus`, `conversations`,
`preferences`, `judgements`).

Rows are sifted in parts of a bounded size. A part's files are written aside and its account last, so a run that was
killed goes on after its last whole part; copies are then found over all parts, which needs only their signatures. The
final bytes depend on sources, settings and seed alone.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from hanlin.data.dedup import exact_copies, exact_key, near_copies, salted, signatures
from hanlin.data.formats import Format, Found, open_records
from hanlin.data.ledger import COPIES, Drop, FileAccount, dropped_line, reason_text
from hanlin.data.sources import Listing, SourceFile, listing
from hanlin.data.tape import Tape
from hanlin.errors import UserError
from hanlin.job import Inputs, Job, Progress
from hanlin.language import say
from hanlin.records import Conversation, Document, Judgement, Preference
from hanlin.settings.data import Dedup, Reading

PART_ROWS = 20_000
PART_CHARACTERS = 1 << 24
_BREAKS = frozenset({"broken_json", "undecodable", "endless_line", "broken_csv"})

Item = TypeVar("Item")
Record = TypeVar("Record", Document, Conversation, Preference, Judgement)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a record is called and where it stood."""

    id: str
    source: str
    licence: str

    def meta(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return {**found, "licence": self.licence} if self.licence else dict(found)


@dataclass(frozen=True, slots=True)
class Sieve(Generic[Item, Record]):
    """What differs between the stages.

    `judge` makes a record of what was found, with the names of the rules that changed it, or a Drop. `content` is what
    makes two records copies, `side` what must not stand on both sides of the held-out split.
    """

    file_name: str
    formats: Callable[[SourceFile], Sequence[Format[Item]]]
    elsewhere: Mapping[str, Sequence[Format[Any]]]
    judge: Callable[[Item, Origin], tuple[Record, tuple[str, ...]] | Drop]
    content: Callable[[Record], str]
    side: Callable[[Record], str]
    characters: Callable[[Record], int]
    dedup: Dedup
    heldout_share: float = 0.0


def sift(sieve: Sieve[Item, Record], settings: Reading, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Run the stage; write its files into `out` and return its metrics.

    Raises UserError for what cannot be read, for a source without a record, and when too much was dropped.
    """
    files = listing(settings.sources, inputs)
    sizes = [file.path.stat().st_size if file.path.exists() else 0 for file in files.files]
    parts: list[_Part] = []
    read: Counter[int] = Counter()
    for number, file in enumerate(files.files):
        report = partial(_report, job.progress, sum(sizes[:number]), sum(sizes))
        reader = _FileReader(sieve, settings, file, job, job.scratch(out) / f"{number:05d}", report)
        mine = reader.parts(read[file.place])
        parts += mine
        read[file.place] += sum(part.account.rows_in for part in mine)
    for place, source in enumerate(settings.sources):
        if not read[place]:
            paths = [file.path for file in files.files if file.place == place]
            where = paths[0] if len(paths) == 1 else source.path
            raise UserError(say("there is no record in it", "其中没有任何记录"), where)
    return _finish(sieve, settings, parts, files, out)


def _report(progress: Progress, before: int, total: int, position: int) -> None:
    progress.at(before + position, total, "bytes")


# --- first pass: one file, part by part ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A finished part on disk."""

    stem: Path
    account: FileAccount
    last: bool

    @property
    def kept(self) -> Path:
        return self.stem.with_name(self.stem.name + ".kept.jsonl")

    @property
    def dropped(self) -> Path:
        return self.stem.with_name(self.stem.name + ".dropped.jsonl")

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        with np.load(self.stem.with_name(self.stem.name + ".npz"), allow_pickle=False) as data:
            return {name: data[name] for name in data.files}


@dataclass(slots=True)
class _FileReader(Generic[Item, Record]):
    sieve: Sieve[Item, Record]
    settings: Reading
    file: SourceFile
    job: Job
    stem: Path
    report: Callable[[int], None]

    def parts(self, read_before: int) -> list[_Part]:
        """All parts of the file; those that an earlier run finished are taken as they are."""
        parts: list[_Part] = []
        while (part := self._finished(len(parts))) is not None:
            parts.append(part)
            if part.last:
                return parts
        limit = self.file.settings.limit
        left = None if limit is None else max(0, limit - read_before)
        with Tape(self.file.path) as tape:
            opened = open_records(self.file, tape, self.sieve.formats(self.file), self.sieve.elsewhere)
            done = sum(part.account.rows_in for part in parts)
            finds = islice(opened.finds, done, left if left is None else max(left, done))
            last = False
            while not last:
                account = FileAccount(self.file.name, opened.format, opened.encoding, self.file.settings.licence)
                last = self._sift_part(self._stem(len(parts)), finds, account, tape)
                tape.check_unchanged()
                parts.append(_Part(self._stem(len(parts)), account, last))
        return parts

    def _stem(self, part: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{part:05d}")

    def _finished(self, part: int) -> _Part | None:
        stem = self._stem(part)
        try:
            row = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        last = row.pop("last")
        row.pop("rows_dropped")
        account = FileAccount(**{**row, "dropped": Counter(row["dropped"]), "changed": Counter(row["changed"])})
        return _Part(stem, account, last)

    def _sift_part(self, stem: Path, finds: Iterator[Found[Item]], account: FileAccount, tape: Tape) -> bool:
        """Sift up to a part's worth of rows and write them; True when the file is read to its end."""
        kept: list[str] = []
        dropped: list[str] = []
        records: list[Record] = []
        numbers: list[int] = []
        size, last = 0, True
        for found in finds:
            account.rows_in += 1
            origin = Origin(
                f"{self.file.name}#{found.number}", f"{self.file.name}:{found.line}", self.file.settings.licence
            )
            judged = self._judged(found, origin)
            if isinstance(judged, Drop):
                account.dropped[judged.reason] += 1
                dropped.append(dropped_line(judged, origin.source, found.row))
                size += len(dropped[-1])
            else:
                record, line, changed = judged
                account.changed.update(changed)
                kept.append(line)
                records.append(record)
                numbers.append(found.number)
                size += len(line)
            if account.rows_in % 1000 == 0:
                self.report(tape.position)
            if account.rows_in >= PART_ROWS or size >= PART_CHARACTERS:
                last = False
                break
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **self._arrays(records, numbers))
        _write_whole(stem.with_name(stem.name + ".kept.jsonl"), _joined(kept))
        _write_whole(stem.with_name(stem.name + ".dropped.jsonl"), _joined(dropped))
        _write_whole(stem.with_name(stem.name + ".npz"), packed.getvalue())
        row = json.dumps({**account.to_json(), "licence": account.licence, "last": last}, ensure_ascii=False)
        _write_whole(stem.with_suffix(".json"), row.encode("utf-8"))
        self.report(tape.position)
        return last

    def _judged(self, found: Found[Item], origin: Origin) -> tuple[Record, str, tuple[str, ...]] | Drop:
        if isinstance(found.item, Drop):
            if found.item.reason in _BREAKS and self.settings.on_broken == "stop":
                hint = say("`on_broken: drop` leaves such lines out", "on_broken: drop 可跳过这样的行")
                message = f"{reason_text(found.item.reason)} ({found.item.detail})"
                raise UserError(message, f"{self.file.path}:{found.line}", hint)
            return found.item
        judged = self.sieve.judge(found.item, origin)
        if isinstance(judged, Drop):
            return judged
        record, changed = judged
        line = json.dumps(record.to_json(), ensure_ascii=False)
        try:
            line.encode("utf-8")
        except UnicodeEncodeError as error:
            return Drop("broken_characters", f"U+{ord(line[error.start]):04X}")
        return record, line, changed

    def _arrays(self, records: Sequence[Record], numbers: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        sieve = self.sieve
        contents = [sieve.content(record) for record in records]
        keys = [exact_key(content) for content in contents]
        sides = [
            key if (side := sieve.side(record)) is content else exact_key(side)
            for record, content, key in zip(records, contents, keys, strict=True)
        ]
        arrays: dict[str, npt.NDArray[Any]] = {
            "number": np.array(numbers, dtype=np.int64),
            "characters": np.array([sieve.characters(record) for record in records], dtype=np.int64),
            "key": np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2),
            "side": np.array([salted(side, self.job.seed) for side in sides], dtype=np.uint64),
        }
        if sieve.dedup.method == "minhash":
            arrays["signature"] = signatures(contents, sieve.dedup, self.job.seed)
        return arrays


def _joined(lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode("utf-8")


def _write_whole(path: Path, data: bytes) -> None:
    aside = path.with_name(path.name + ".writing")
    aside.write_bytes(data)
    os.replace(aside, path)


# --- second pass: copies, the held-out side, the final files --------------------------------------------------------


def _finish(
    sieve: Sieve[Item, Record], settings: Reading, parts: Sequence[_Part], files: Listing, out: Path
) -> dict[str, Any]:
    columns: dict[str, npt.NDArray[Any]] = {}
    arrays = [part.arrays() for part in parts]
    for name in arrays[0]:
        columns[name] = np.concatenate([part[name] for part in arrays])
    copies, near = _copies(columns, sieve.dedup)
    heldout = _heldout(columns["side"], copies < 0, sieve.heldout_share)
    owners = np.repeat(np.arange(len(parts)), [len(part["number"]) for part in arrays])
    writer = _Writer(out, sieve.file_name)
    accounts: dict[str, FileAccount] = {}
    place = 0
    with writer:
        for part in parts:
            account = accounts.setdefault(
                part.account.file,
                FileAccount(part.account.file, part.account.format, part.account.encoding, part.account.licence),
            )
            account.add(part.account)
            writer.copy_dropped(part.dropped)
            with part.kept.open("rb") as lines:
                for line in lines:
                    if copies[place] >= 0:
                        drop = Drop("near_duplicate" if near[place] else "duplicate")
                        of = int(copies[place])
                        first = f"{parts[owners[of]].account.file}#{columns['number'][of]}"
                        record = json.loads(line)
                        writer.drop(dropped_line(drop, record["source"], record, first))
                        account.dropped[drop.reason] += 1
                    else:
                        writer.keep(line, bool(heldout[place]))
                        account.rows_kept += 1
                        account.rows_heldout += bool(heldout[place])
                        account.characters += int(columns["characters"][place])
                    place += 1
    whole = FileAccount("", "", "")
    for account in accounts.values():
        whole.add(account)
    ledger = {**whole.counts(), "files": [account.to_json() for account in accounts.values()]}
    if files.skipped:
        ledger["files_skipped"] = list(files.skipped)
    _write_whole(out / "ledger.json", (json.dumps(ledger, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
    _check(whole, settings, files, out)
    formats = Counter(account.format for account in accounts.values())
    return {**whole.counts(), "files": len(accounts), "formats": dict(sorted(formats.items()))}


def _copies(
    columns: Mapping[str, npt.NDArray[Any]], dedup: Dedup
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each record the place of the one that it copies, or -1, and whether it is only a near copy."""
    count = len(columns["number"])
    if dedup.method == "none":
        return np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.bool_)
    copies = exact_copies(columns["key"])
    near = np.zeros(count, dtype=np.bool_)
    if dedup.method == "minhash":
        similar = near_copies(columns["signature"], dedup, copies >= 0)
        near = similar >= 0
        copies = np.where(near, similar, copies)
        # The first of a group of equal texts may itself be a near copy: then all of them copy the same kept text.
        of_dropped = (copies >= 0) & (copies[copies] >= 0)
        copies[of_dropped] = copies[copies[of_dropped]]
        near |= of_dropped
    return copies, near


def _heldout(sides: npt.NDArray[np.uint64], stays: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.bool_]:
    """Which of the staying records are held out: those whose content's hash lies in the lowest share of all hashes.

    It depends on the content alone, so that it stays the same when files are added or come in another order. Where
    there are two or more records, at least one is held out and at least one is not.
    """
    held = np.zeros(len(sides), dtype=np.bool_)
    places = np.flatnonzero(stays)
    values = sides[places]
    if share <= 0 or len(np.unique(values)) < 2:
        return held
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    if not (values < limit).any():
        limit = values.min() + np.uint64(1)
    elif (values < limit).all():
        limit = values.max()
    held[places[values < limit]] = True
    return held


class _Writer:
    """The final files, written aside and put in place together."""

    def __init__(self, out: Path, file_name: str) -> None:
        self._paths = {name: out / name for name in (file_name, "heldout.jsonl", "dropped.jsonl")}
        self._file_name = file_name
        self._held = False

    def __enter__(self) -> _Writer:
        self._files = {name: path.with_name(path.name + ".writing").open("wb") for name, path in self._paths.items()}
        return self

    def keep(self, line: bytes, heldout: bool) -> None:
        self._held = self._held or heldout
        self._files["heldout.jsonl" if heldout else self._file_name].write(line)

    def drop(self, line: str) -> None:
        self._files["dropped.jsonl"].write((line + "\n").encode("utf-8"))

    def copy_dropped(self, path: Path) -> None:
        self._files["dropped.jsonl"].write(path.read_bytes())

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for file in self._files.values():
            file.close()
        for name, path in self._paths.items():
            aside = path.with_name(path.name + ".writing")
            if kind is not None or (name == "heldout.jsonl" and not self._held):
                aside.unlink()
                if kind is None:
                    path.unlink(missing_ok=True)
            else:
                os.replace(aside, path)


def _check(whole: FileAccount, settings: Reading, files: Listing, out: Path) -> None:
    """Refuse a result from which too much was dropped: a wrong format or field looks just like that."""
    lost = sum(count for reason, count in whole.dropped.items() if reason not in COPIES)
    if whole.rows_kept and lost <= settings.max_dropped * whole.rows_in:
        return
    commonest = max((reason for reason in whole.dropped if reason not in COPIES), key=lambda r: whole.dropped[r])
    with (out / "dropped.jsonl").open(encoding="utf-8") as lines:
        first = next(row for row in map(json.loads, lines) if row["reason"] == commonest)
    detail = f" ({first['detail']})" if "detail" in first else ""
    why = f"{reason_text(commonest)}{detail}"
    kept = f"{lost} / {whole.rows_in}"
    hint = say(
        f"every dropped row is in {out / 'dropped.jsonl'}; `max_dropped` sets the limit",
        f"被丢弃的行都在 {out / 'dropped.jsonl'}；上限由 max_dropped 设置",
    )
    message = say(f"too many rows are dropped ({kept}), as this one: {why}", f"丢弃的行过多（{kept}），例如此行：{why}")
    name, _, line = first["place"].rpartition(":")
    path = next(file.path for file in files.files if file.name == name)
    raise UserError(message, f"{path}:{line}", hint)
