"""The first pass of a data stage: a piece of a file is read, each row judged, and what is found written aside in parts.

Owns what a part is and that a killed run goes on after its last whole one. Does not own which pieces there are, nor
what becomes of the parts (`sifting`, `joining`).

A piece is a file, or the lines of it that begin in a range of bytes. Where a range begins is known, but not at which
row: ids and places in its parts count from the range's beginning, and the parts say where in a line they stand, so that
they are set right when the parts are joined.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import write_bytes
from hanlin.core.i18n import say
from hanlin.data.formats.base import ParsedRow
from hanlin.data.formats.detect import DetectedFormat, read_records
from hanlin.data.ingest.executor import Meter
from hanlin.data.ingest.shards import PART_CHARACTERS, PART_ROWS, Columns, Part, finished_parts
from hanlin.data.ingest.spec import Course, Origin
from hanlin.data.ingest.splits import BREAKS, Piece
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.lines import MAX_LINE_LENGTH
from hanlin.data.ledger import Drop, FileStats, describe_reason, format_dropped_row

"""Bytes of a piece. The number of cores must not count: a run that goes on with other cores finds the same pieces."""
_TOLD_ROWS = 500


# --- pieces -----------------------------------------------------------------------------------------------------------


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
        self._written = DetectedFormat(piece.look.layout, next(one for one in formats if one.name == piece.look.format))

    def parts(self) -> list[Part]:
        piece = self._piece
        parts = finished_parts(self._course, piece)
        if parts and parts[-1].last:
            return parts
        self._check_unchanged()
        with InputFile(self._file.path, piece.span) as tape:
            finds: Iterator[ParsedRow[Any]] = read_records(self._file, tape, self._written)
            done = sum(part.account.rows_in for part in parts)
            finds = islice(finds, done, piece.limit if piece.limit is None else max(piece.limit, done))
            while not (parts and parts[-1].last):
                stem = self._course.parts / f"{piece.name}-{len(parts):05d}"
                parts.append(self._sift_part(stem, finds, tape))
                tape.check_unchanged()
        self._meter.add(piece.bytes - self._metered)
        return parts

    def _tell(self, tape: InputFile) -> None:
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

    def _sift_part(self, stem: Path, finds: Iterator[ParsedRow[Any]], tape: InputFile) -> Part:
        """Sift up to a part's worth of rows and write them; the account comes last, and makes the part a whole one."""
        file, written = self._file, self._written
        account = FileStats(file.name, written.name, written.layout.encoding, file.settings.license)
        hits: Counter[str] = Counter()
        kept: list[bytes] = []
        dropped: list[bytes] = []
        columns = Columns(self._sieve, self._course.seed)
        size, last = 0, True
        for found in finds:
            account.rows_in += 1
            origin = Origin(f"{file.name}#{found.record_number}", f"{file.name}:{found.line}", file.settings.license)
            judged = self._judged(found, origin, hits, tape)
            if isinstance(judged, Drop):
                account.dropped[judged.reason] += 1
                dropped.append((format_dropped_row(judged, origin.source, found.row) + "\n").encode("utf-8"))
                size += len(dropped[-1])
            else:
                record, line, tail, changed = judged
                account.changed.update(changed)
                kept.append(line)
                columns.add(record, found.record_number, found.line, len(line), tail)
                size += len(line)
            if account.rows_in % _TOLD_ROWS == 0:
                self._tell(tape)
            if account.rows_in >= PART_ROWS or size >= PART_CHARACTERS:
                last = False
                break
        write_bytes(stem.with_name(stem.name + ".kept.jsonl"), b"".join(kept), shared=True)
        write_bytes(stem.with_name(stem.name + ".dropped.jsonl"), b"".join(dropped), shared=True)
        part = Part(stem, account, hits, last, tape.lines_read)
        columns.write(part)
        _write_account(part)
        return part

    def _judged(
        self, found: ParsedRow[Any], origin: Origin, hits: Counter[str], tape: InputFile
    ) -> tuple[Any, bytes, int, tuple[str, ...]] | Drop:
        """The record with its line, how many bytes of that follow its place, and the rules that changed it."""
        if isinstance(found.item, Drop):
            if found.item.reason in BREAKS and self._course.settings.on_error == "stop":
                hint = say("`on_error: drop` leaves such lines out", "on_error: drop 可跳过这样的行")
                message = f"{describe_reason(found.item.reason)} ({found.item.detail})"
                raise UserError(message, f"{self._file.path}:{tape.count_lines_before() + found.line}", hint)
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
    account = FileStats(piece.file.name, "", "utf-8")
    columns = Columns(course.sieve, course.seed)
    at = []
    with InputFile(piece.file.path, piece.span) as tape:
        for line, size, begins in tape.lines(MAX_LINE_LENGTH):
            account.rows_in += 1
            try:
                record = course.sieve.record.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                kind = course.sieve.record.kind
                message = say(f"not a record of `{kind}`: {error}", f"不是 {kind} 记录：{error}")
                place = f"{piece.file.path}:{tape.count_lines_before() + tape.lines_read}"
                raise UserError(message, place) from error
            columns.add(record, account.rows_in, tape.lines_read, size, 0)
            at.append(begins)
    part = Part(stem, account, {}, True, account.rows_in, piece.file.path)
    columns.write(part, at)
    _write_account(part)
    return part


def _write_account(part: Part) -> None:
    account = part.account
    row = {
        "account": {name: getattr(account, name) for name in type(account).__dataclass_fields__},
        "questions": part.questions,
        "last": part.last,
        "lines": part.lines,
    }
    write_bytes(part.beside(".json"), json.dumps(row, ensure_ascii=False).encode("utf-8"), shared=True)
