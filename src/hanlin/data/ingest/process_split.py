"""The first pass of a data stage: a piece of a file is read, each row judged, and what is found written aside in parts.

Owns what a part is and that a killed run goes on after its last whole one. Does not own which pieces there are, nor
what becomes of the parts (`sifting`, `joining`).

A piece is a file, or the lines of it that begin in a range of bytes. Where a range begins is known, but not at which
row: ids and places in its parts count from the range's beginning, and the parts say where in a line they stand, so that
they are set right when the parts are joined.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from hanlin.config.settings.data import Dedup, Reading
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Conversation, Document, Judgement, Preference
from hanlin.data.dedup.decontaminate import Questions
from hanlin.data.dedup.keys import band_keys, copy_key, exact_key, salted, signatures
from hanlin.data.formats.detect import Format, Found, Written, how_written, read_records
from hanlin.data.ingest.executor import Meter
from hanlin.data.io.input_file import WHOLE, Span, Tape
from hanlin.data.io.layout import Layout, can_be_divided
from hanlin.data.io.lines import LONGEST_LINE
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop, FileAccount, dropped_line, reason_text

PART_ROWS = 20_000
PART_CHARACTERS = 1 << 24
PIECE_BYTES = 1 << 24
"""Bytes of a piece. The number of cores must not count: a run that goes on with other cores finds the same pieces."""
_SIGNED_AT_ONCE = 1 << 20
_TOLD_ROWS = 500
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


@dataclass(frozen=True)
class Course:
    """All that a worker must know of a stage. `make` builds its sieve from settings and inputs, once in each worker:
    rules do not travel. `parts` is the folder of what is written aside."""

    make: Callable[[Any, Inputs], Sieve[Any, Any]]
    settings: Reading
    inputs: Inputs
    seed: int
    parts: Path

    @cached_property
    def sieve(self) -> Sieve[Any, Any]:
        return self.make(self.settings, self.inputs)

    @cached_property
    def questions(self) -> Questions | None:
        wanted = self.settings.decontaminate
        return None if wanted is None else Questions.read(wanted, self.inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears at `path` when it is whole; two processes may write the same one."""
    aside = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.writing")
    with aside.open("wb") as file:
        yield file
    os.replace(aside, path)


def write_whole(path: Path, data: bytes) -> None:
    with whole_file(path) as file:
        file.write(data)


# --- pieces -----------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part on disk: its account, for each question how many records hold it, and whether the piece is read
    to its end; then `lines` is how many lines the piece has."""

    stem: Path
    account: FileAccount
    questions: Mapping[str, int] = field(default_factory=dict)
    last: bool = True
    lines: int = 0
    texts: Path | None = None

    def beside(self, ending: str) -> Path:
        return self.stem.with_name(self.stem.name + ending)

    @property
    def kept(self) -> Path:
        """Where the lines of its records stand."""
        return self.texts or self.beside(".kept.jsonl")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """A row for each kept record: `number` and `line` count from the piece's beginning; `at`, `bytes` and `tail`
        are where its line begins in `kept`, how long it is, and how many bytes follow its place; `key`, `side` and
        `bands` are what copies are found by."""
        with np.load(self.beside(".npz"), allow_pickle=False) as data:
            return {name: data[name] for name in data.files}

    def signatures(self) -> npt.NDArray[np.uint32]:
        found: npt.NDArray[np.uint32] = np.load(self.beside(".signature.npy"), mmap_mode="r", allow_pickle=False)
        return found


def finished_parts(course: Course, piece: Piece) -> list[Part]:
    """The parts of a piece that an earlier run finished."""
    parts: list[Part] = []
    while not (parts and parts[-1].last):
        stem = course.parts / f"{piece.name}-{len(parts):05d}"
        try:
            row = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            break
        account = FileAccount(
            **{**row["account"], "dropped": Counter(row["account"]["dropped"]),
               "changed": Counter(row["account"]["changed"])}
        )  # fmt: skip
        texts = piece.file.path if piece.known else None
        parts.append(Part(stem, account, row["questions"], row["last"], row["lines"], texts))
    return parts


def sift_piece(course: Course, piece: Piece, meter: Meter) -> list[Part]:
    """All parts of a piece; those that an earlier run finished are taken as they are. Raises UserError for what cannot
    be read, with file and line."""
    if piece.known:
        parts = finished_parts(course, piece) or [known_piece(course, piece)]
        meter.add(piece.bytes)
        return parts
    return _PieceReader(course, piece, meter).parts()


class _PieceReader:
    def __init__(self, course: Course, piece: Piece, meter: Meter) -> None:
        self._course, self._piece, self._meter, self._metered = course, piece, meter, 0
        self._file, self._sieve, self._questions = piece.file, course.sieve, course.questions
        formats = self._sieve.formats(piece.file)
        self._written = Written(piece.look.layout, next(one for one in formats if one.name == piece.look.format))

    def parts(self) -> list[Part]:
        piece = self._piece
        parts = finished_parts(self._course, piece)
        if parts and parts[-1].last:
            return parts
        self._check_unchanged()
        with Tape(self._file.path, piece.span) as tape:
            finds: Iterator[Found[Any]] = read_records(self._file, tape, self._written)
            done = sum(part.account.rows_in for part in parts)
            finds = islice(finds, done, piece.limit if piece.limit is None else max(piece.limit, done))
            while not (parts and parts[-1].last):
                stem = self._course.parts / f"{piece.name}-{len(parts):05d}"
                parts.append(self._sift_part(stem, finds, tape))
                tape.check_unchanged()
        self._meter.add(piece.bytes - self._metered)
        return parts

    def _tell(self, tape: Tape) -> None:
        position = min(self._piece.bytes, max(self._metered, tape.position - self._piece.span.start))
        self._meter.add(position - self._metered)
        self._metered = position

    def _check_unchanged(self) -> None:
        hint = say("run again when nothing writes to it", "请在没有程序写入它时重新运行")
        try:
            status = self._file.path.stat()
            same = (status.st_size, status.st_mtime_ns) == (self._piece.look.size, self._piece.look.changed)
        except FileNotFoundError:
            same, host = False, socket.gethostname()
            hint = say(
                f"it is not there on the machine {host}: keep it in a folder that all machines mount at the same place",
                f"机器 {host} 上没有它：请放在各机器以相同路径挂载的共享文件夹中",
            )
        if not same:
            raise UserError(say("it changed while it was read", "文件在读取过程中被修改"), self._file.path, hint)

    def _sift_part(self, stem: Path, finds: Iterator[Found[Any]], tape: Tape) -> Part:
        """Sift up to a part's worth of rows and write them; the account comes last, and makes the part a whole one."""
        file, written = self._file, self._written
        account = FileAccount(file.name, written.name, written.layout.encoding, file.settings.licence)
        hits: Counter[str] = Counter()
        kept: list[bytes] = []
        dropped: list[bytes] = []
        columns = Columns(self._sieve, self._course.seed)
        size, last = 0, True
        for found in finds:
            account.rows_in += 1
            origin = Origin(f"{file.name}#{found.number}", f"{file.name}:{found.line}", file.settings.licence)
            judged = self._judged(found, origin, hits, tape)
            if isinstance(judged, Drop):
                account.dropped[judged.reason] += 1
                dropped.append((dropped_line(judged, origin.source, found.row) + "\n").encode("utf-8"))
                size += len(dropped[-1])
            else:
                record, line, tail, changed = judged
                account.changed.update(changed)
                kept.append(line)
                columns.add(record, found.number, found.line, len(line), tail)
                size += len(line)
            if account.rows_in % _TOLD_ROWS == 0:
                self._tell(tape)
            if account.rows_in >= PART_ROWS or size >= PART_CHARACTERS:
                last = False
                break
        write_whole(stem.with_name(stem.name + ".kept.jsonl"), b"".join(kept))
        write_whole(stem.with_name(stem.name + ".dropped.jsonl"), b"".join(dropped))
        part = Part(stem, account, hits, last, tape.lines_read)
        columns.write(part)
        _write_account(part)
        return part

    def _judged(
        self, found: Found[Any], origin: Origin, hits: Counter[str], tape: Tape
    ) -> tuple[Any, bytes, int, tuple[str, ...]] | Drop:
        """The record with its line, how many bytes of that follow its place, and the rules that changed it."""
        if isinstance(found.item, Drop):
            if found.item.reason in _BREAKS and self._course.settings.on_broken == "stop":
                hint = say("`on_broken: drop` leaves such lines out", "on_broken: drop 可跳过这样的行")
                message = f"{reason_text(found.item.reason)} ({found.item.detail})"
                raise UserError(message, f"{self._file.path}:{tape.lines_before() + found.line}", hint)
            return found.item
        judged = self._sieve.judge(found.item, origin)
        if isinstance(judged, Drop):
            return judged
        record, changed = judged
        if self._questions is not None and (held := self._questions.found(self._sieve.text(record))):
            hits.update(question.key for question in held)
            ids = list(dict.fromkeys(question.id for question in held))
            if self._questions.settings.action == "drop":
                return Drop("contaminated", "、".join(ids[:5]))
            record = replace(record, meta={**record.meta, "contaminated": ids})
        row = record.to_json()
        text = json.dumps(row, ensure_ascii=False)
        try:
            line = text.encode("utf-8")
        except UnicodeEncodeError as error:
            return Drop("broken_characters", f"U+{ord(text[error.start]):04X}")
        meta = json.dumps(row["meta"], ensure_ascii=False) if "meta" in row else None
        tail = len(b'"}') if meta is None else len(f'", "meta": {meta}}}'.encode())
        return record, line + b"\n", tail + 1, changed


def known_piece(course: Course, piece: Piece) -> Part:
    """The records of another stage in a span of its file, to compare with."""
    stem = course.parts / f"{piece.name}-00000"
    account = FileAccount(piece.file.name, "", "utf-8")
    columns = Columns(course.sieve, course.seed)
    at = []
    with Tape(piece.file.path, piece.span) as tape:
        for line, size, begins in tape.lines(LONGEST_LINE):
            account.rows_in += 1
            try:
                record = course.sieve.record.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                noun = course.sieve.record.noun
                message = say(f"not a {noun} as Hanlin writes it: {error}", f"不是 Hanlin 的 {noun}：{error}")
                place = f"{piece.file.path}:{tape.lines_before() + tape.lines_read}"
                raise UserError(message, place) from error
            columns.add(record, account.rows_in, tape.lines_read, size, 0)
            at.append(begins)
    part = Part(stem, account, {}, True, account.rows_in, piece.file.path)
    columns.write(part, at)
    _write_account(part)
    return part


class Columns:
    """The arrays of a part, filled record by record; signatures are made of many texts at once, but not of all."""

    def __init__(self, sieve: Sieve[Any, Any], seed: int) -> None:
        self._sieve, self._seed = sieve, seed
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._keys: list[bytes] = []
        self._sides: list[int] = []
        self._texts: list[str] = []
        self._length = 0
        self._signed: list[npt.NDArray[np.uint32]] = []

    def add(self, record: Any, number: int, line: int, size: int, tail: int) -> None:
        sieve = self._sieve
        self._rows.append((number, line, size, tail, sieve.characters(record)))
        self._keys.append(copy_key(sieve.content(record), sieve.dedup.across_scripts))
        self._sides.append(salted(exact_key(sieve.side(record)), self._seed))
        if sieve.dedup.method == "minhash":
            self._texts.append(sieve.compared(record))
            self._length += len(self._texts[-1])
            if self._length >= _SIGNED_AT_ONCE:
                self._sign()

    def _sign(self) -> None:
        self._signed.append(signatures(self._texts, self._sieve.dedup, self._seed))
        self._texts.clear()
        self._length = 0

    def write(self, part: Part, at: Sequence[int] | None = None) -> None:
        """Write them beside the part; `at` says where lines begin, if not one after another."""
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 5)
        arrays: dict[str, npt.NDArray[Any]] = dict(
            zip(("number", "line", "bytes", "tail", "characters"), rows.T, strict=True)
        )
        arrays["at"] = np.cumsum(rows[:, 2]) - rows[:, 2] if at is None else np.array(at, dtype=np.int64)
        arrays["key"] = np.frombuffer(b"".join(self._keys), dtype="<u8").reshape(-1, 2)
        arrays["side"] = np.array(self._sides, dtype=np.uint64)
        if self._sieve.dedup.method == "minhash":
            self._sign()
            marks = np.concatenate(self._signed)
            arrays["bands"] = band_keys(marks, self._sieve.dedup)
            with whole_file(part.beside(".signature.npy")) as file:
                np.save(file, marks, allow_pickle=False)
        with whole_file(part.beside(".npz")) as file:
            np.savez(file, allow_pickle=False, **arrays)


def _write_account(part: Part) -> None:
    account = part.account
    row = {
        "account": {name: getattr(account, name) for name in type(account).__dataclass_fields__},
        "questions": part.questions,
        "last": part.last,
        "lines": part.lines,
    }
    write_whole(part.beside(".json"), json.dumps(row, ensure_ascii=False).encode("utf-8"))
