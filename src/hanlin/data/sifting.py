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
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from hanlin.data.decontaminate import FILE as CONTAMINATION
from hanlin.data.decontaminate import Questions
from hanlin.data.dedup import copy_key, exact_copies, exact_key, near_copies, salted, signatures
from hanlin.data.formats import Format, Found, open_records
from hanlin.data.ledger import COPIES, Drop, FileAccount, dropped_line, reason_text
from hanlin.data.sources import Listing, SourceFile, listing
from hanlin.data.tape import Tape
from hanlin.errors import UserError
from hanlin.job import Inputs, Job, Progress
from hanlin.language import say
from hanlin.records import HELD_OUT, Conversation, Document, Judgement, Preference
from hanlin.settings.data import Dedup, Reading

PART_ROWS = 20_000
PART_CHARACTERS = 1 << 24
_BREAKS = frozenset({"broken_json", "undecodable", "endless_line", "broken_csv"})
_OPEN_FILES = 64

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
    makes two records copies, `text` all that a person reads of one, `near` what near copies are compared by (none: its
    `text`), `side` what must not stand on both sides of the held-out split.
    """

    record: type[Record]
    file_name: str
    formats: Callable[[SourceFile], Sequence[Format[Item]]]
    elsewhere: Mapping[str, Sequence[Format[Any]]]
    judge: Callable[[Item, Origin], tuple[Record, tuple[str, ...]] | Drop]
    content: Callable[[Record], str]
    text: Callable[[Record], str]
    side: Callable[[Record], str]
    characters: Callable[[Record], int]
    dedup: Dedup
    heldout_share: float = 0.0
    near: Callable[[Record], str] | None = None

    def compared(self, record: Record) -> str:
        return (self.near or self.text)(record)


def sift(sieve: Sieve[Item, Record], settings: Reading, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Run the stage; write its files into `out` and return its metrics.

    Raises UserError for what cannot be read, for a source without a record, and when too much was dropped.
    """
    files = listing(settings.sources, inputs)
    questions = None if settings.decontaminate is None else Questions.read(settings.decontaminate, inputs)
    sizes = [file.path.stat().st_size if file.path.exists() else 0 for file in files.files]
    parts: list[_Part] = []
    read: Counter[int] = Counter()
    for number, file in enumerate(files.files):
        report = partial(_report, job.progress, sum(sizes[:number]), sum(sizes))
        reader = _FileReader(sieve, settings, questions, file, job, job.scratch(out) / f"{number:05d}", report)
        mine = reader.parts(read[file.place])
        parts += mine
        read[file.place] += sum(part.account.rows_in for part in mine)
    for place, source in enumerate(settings.sources):
        if not read[place]:
            paths = [file.path for file in files.files if file.place == place]
            where = paths[0] if len(paths) == 1 else source.path
            raise UserError(say("there is no record in it", "其中没有任何记录"), where)
    metrics = _finish(sieve, settings, parts, files, out)
    if questions is not None:
        metrics |= _write_contamination(questions, parts, out)
    return metrics


def _write_contamination(questions: Questions, parts: Sequence[_Part], out: Path) -> dict[str, int]:
    hits: Counter[str] = Counter()
    for part in parts:
        hits.update(part.questions)
    account = questions.account(hits)
    _write_whole(out / CONTAMINATION, (json.dumps(account, ensure_ascii=False, indent=1) + "\n").encode("utf-8"))
    return {
        "contaminated_questions": sum(len(row["contaminated"]) for row in account["sets"]),
        "clean_questions": sum(len(row["clean"]) for row in account["sets"]),
        "unsearched_questions": sum(len(row["unsearched"]) for row in account["sets"]),
    }


def _report(progress: Progress, before: int, total: int, position: int) -> None:
    progress.at(before + position, total, "bytes")


# --- first pass: one file, part by part ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A finished part on disk."""

    stem: Path
    account: FileAccount
    questions: Mapping[str, int]
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
    questions: Questions | None
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
                hits: Counter[str] = Counter()
                last = self._sift_part(self._stem(len(parts)), finds, account, hits, tape)
                tape.check_unchanged()
                parts.append(_Part(self._stem(len(parts)), account, hits, last))
        return parts

    def _stem(self, part: int) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{part:05d}")

    def _finished(self, part: int) -> _Part | None:
        stem = self._stem(part)
        try:
            row = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        last, hits = row.pop("last"), row.pop("questions")
        row.pop("rows_dropped")
        account = FileAccount(**{**row, "dropped": Counter(row["dropped"]), "changed": Counter(row["changed"])})
        return _Part(stem, account, hits, last)

    def _sift_part(
        self, stem: Path, finds: Iterator[Found[Item]], account: FileAccount, hits: Counter[str], tape: Tape
    ) -> bool:
        """Sift up to a part's worth of rows and write them; True when the file is read to its end. `hits` counts for
        each question the records that hold it."""
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
            judged = self._judged(found, origin, hits)
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
        np.savez(packed, allow_pickle=False, **self._arrays(records, numbers, kept))
        _write_whole(stem.with_name(stem.name + ".kept.jsonl"), _joined(kept))
        _write_whole(stem.with_name(stem.name + ".dropped.jsonl"), _joined(dropped))
        _write_whole(stem.with_name(stem.name + ".npz"), packed.getvalue())
        row = {**account.to_json(), "licence": account.licence, "questions": hits, "last": last}
        _write_whole(stem.with_suffix(".json"), json.dumps(row, ensure_ascii=False).encode("utf-8"))
        self.report(tape.position)
        return last

    def _judged(
        self, found: Found[Item], origin: Origin, hits: Counter[str]
    ) -> tuple[Record, str, tuple[str, ...]] | Drop:
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
        if self.questions is not None and (held := self.questions.found(self.sieve.text(record))):
            hits.update(question.key for question in held)
            ids = list(dict.fromkeys(question.id for question in held))
            if self.questions.settings.action == "drop":
                return Drop("contaminated", "、".join(ids[:5]))
            record = replace(record, meta={**record.meta, "contaminated": ids})
        line = json.dumps(record.to_json(), ensure_ascii=False)
        try:
            line.encode("utf-8")
        except UnicodeEncodeError as error:
            return Drop("broken_characters", f"U+{ord(line[error.start]):04X}")
        return record, line, changed

    def _arrays(
        self, records: Sequence[Record], numbers: Sequence[int], lines: Sequence[str]
    ) -> dict[str, npt.NDArray[Any]]:
        sieve = self.sieve
        across = sieve.dedup.across_scripts
        found = [(copy_key(sieve.content(record), across), exact_key(sieve.side(record))) for record in records]
        keys, sides = [key for key, _ in found], [side for _, side in found]
        arrays: dict[str, npt.NDArray[Any]] = {
            "number": np.array(numbers, dtype=np.int64),
            "characters": np.array([sieve.characters(record) for record in records], dtype=np.int64),
            "key": np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2),
            "side": np.array([salted(side, self.job.seed) for side in sides], dtype=np.uint64),
        }
        if sieve.dedup.method == "minhash":
            arrays["signature"] = signatures([sieve.compared(record) for record in records], sieve.dedup, self.job.seed)
            arrays["bytes"] = np.array([len(line.encode("utf-8")) + 1 for line in lines], dtype=np.int64)
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
    owners = np.repeat(np.arange(len(parts)), [len(part["number"]) for part in arrays])
    with _Texts(lambda row: sieve.compared(sieve.record.from_json(row)), parts, columns, owners) as texts:
        copies, near = _copies(columns, sieve.dedup, texts.at)
    heldout = _heldout(columns["side"], copies < 0, sieve.heldout_share)
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


class _Texts:
    """The texts of records by their places, read again from the parts: few are asked for."""

    def __init__(
        self,
        read: Callable[[Any], str],
        parts: Sequence[_Part],
        columns: Mapping[str, npt.NDArray[Any]],
        owners: npt.NDArray[np.int64],
    ) -> None:
        self._read, self._parts, self._owners = read, parts, owners
        sizes = columns.get("bytes", np.empty(0, dtype=np.int64))
        before = np.cumsum(sizes) - sizes
        self._firsts = np.searchsorted(owners, np.arange(len(parts)))
        self._before = before
        self._files: dict[int, BinaryIO] = {}

    def __enter__(self) -> _Texts:
        return self

    def at(self, place: int) -> str:
        part = int(self._owners[place])
        if part not in self._files:
            if len(self._files) > _OPEN_FILES:
                self._close()
            self._files[part] = self._parts[part].kept.open("rb")
        file = self._files[part]
        file.seek(int(self._before[place] - self._before[self._firsts[part]]))
        return self._read(json.loads(file.readline()))

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def __exit__(self, *exc: object) -> None:
        self._close()


def _copies(
    columns: Mapping[str, npt.NDArray[Any]], dedup: Dedup, text_of: Callable[[int], str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For each record the place of the one that it copies, or -1, and whether it is only a near copy."""
    count = len(columns["number"])
    if dedup.method == "none":
        return np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.bool_)
    copies = exact_copies(columns["key"])
    near = np.zeros(count, dtype=np.bool_)
    if dedup.method == "minhash":
        similar = near_copies(columns["signature"], dedup, copies >= 0, text_of)
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
        self._paths = {name: out / name for name in (file_name, HELD_OUT, "dropped.jsonl")}
        self._file_name = file_name
        self._held = False

    def __enter__(self) -> _Writer:
        self._files = {name: path.with_name(path.name + ".writing").open("wb") for name, path in self._paths.items()}
        return self

    def keep(self, line: bytes, heldout: bool) -> None:
        self._held = self._held or heldout
        self._files[HELD_OUT if heldout else self._file_name].write(line)

    def drop(self, line: str) -> None:
        self._files["dropped.jsonl"].write((line + "\n").encode("utf-8"))

    def copy_dropped(self, path: Path) -> None:
        self._files["dropped.jsonl"].write(path.read_bytes())

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
