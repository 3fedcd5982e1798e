"""Process an input split: read it, process each row, and write shards.

A killed run goes on after its last finished shard. A split is a file, or the lines of it that begin in a byte range.
At which row and line of the file a range begins is not known while it is processed: ids and locations in its shards
count from the beginning of the range, the shards say where in a line these numbers are, and `finalize` corrects them.
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

from hanlin.config.reasons import describe_reason
from hanlin.core.errors import UserError
from hanlin.core.files import changed_while_read, file_state, write_bytes
from hanlin.core.i18n import tr
from hanlin.data.formats.base import ParsedRow
from hanlin.data.formats.detect import DetectedFormat, find_others, read_records
from hanlin.data.formats.documents import ParsedText
from hanlin.data.ingest.executor import ProgressCounter
from hanlin.data.ingest.shards import SHARD_BYTES, SHARD_ROWS, Shard, ShardArrayBuilder, load_finished_shards
from hanlin.data.ingest.spec import Origin, WorkerContext
from hanlin.data.ingest.splits import READ_ERRORS, InputSplit
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.lines import MAX_LINE_LENGTH
from hanlin.data.ledger import (
    Drop,
    FileStats,
    count_cut_lines,
    count_unread_fields,
    format_dropped_row,
)
from hanlin.data.overlay import OVERLAY_NOTE_RULE, OVERLAY_RULE

_REPORT_ROWS = 500
_encode_json = json.JSONEncoder(ensure_ascii=False).encode
_CUT_NO_LINES = frozenset({"mojibake", "unicode", "control_characters", "whitespace", "convert"})
"""Rules, and the setting `convert`, that change the characters of a text and cut none of its lines."""
_REWRITE = frozenset({"html", OVERLAY_RULE})
"""What puts another text in the place of a row's: lines that are missing in it were not cut by a rule."""


def process_split(worker: WorkerContext, split: InputSplit, progress: ProgressCounter) -> list[Shard]:
    """Write the shards of a split that are not finished yet.

    Args:
        worker: The stage.
        split: The split.
        progress: Counts the bytes.

    Returns:
        All shards of the split, in order.

    Raises:
        UserError: The file cannot be read, or changed since it was probed; with file and line.
    """
    if split.is_reference:
        shards = load_finished_shards(worker, split) or [index_reference_split(worker, split)]
        progress.add(split.num_bytes)
        return shards
    return _SplitProcessor(worker, split, progress).run()


class _SplitProcessor:
    def __init__(self, worker: WorkerContext, split: InputSplit, progress: ProgressCounter) -> None:
        self._worker, self._split, self._progress = worker, split, progress
        self._reported_bytes = 0
        self._file, self._spec, self._questions = split.file, worker.spec, worker.questions
        self._overlay = worker.overlay
        formats = self._spec.formats(split.file)
        self._detected = DetectedFormat(
            split.probe.layout,
            next(candidate for candidate in formats if candidate.name == split.probe.format),
            find_others(split.file, formats),
            split.probe.is_joined,
            classes=split.probe.classes,
        )

    def run(self) -> list[Shard]:
        split = self._split
        shards = load_finished_shards(self._worker, split)
        if shards and shards[-1].is_last:
            return shards
        self._check_unchanged()
        with InputFile(self._file.path, split.byte_range) as file:
            if not split.probe.is_unchanged(file.state):
                raise changed_while_read(self._file.path)
            rows: Iterator[ParsedRow[Any]] = read_records(self._file, file, self._detected)
            done = sum(shard.stats.rows_in for shard in shards)
            rows = islice(rows, done, split.limit if split.limit is None else max(split.limit, done))
            while not (shards and shards[-1].is_last):
                stem = self._worker.shard_folder / f"{split.name}-{len(shards):05d}"
                shards.append(self._write_shard(stem, rows, file))
                file.check_unchanged()
        self._progress.add(split.num_bytes - self._reported_bytes)
        return shards

    def _report_progress(self, file: InputFile) -> None:
        position = file.position - self._split.byte_range.start
        position = min(self._split.num_bytes, max(self._reported_bytes, position))
        self._progress.add(position - self._reported_bytes)
        self._reported_bytes = position

    def _check_unchanged(self) -> None:
        hint = tr("run again when no program writes to it")
        try:
            is_same = self._split.probe.is_unchanged(file_state(self._file.path.stat()))
        except FileNotFoundError:
            is_same, host = False, socket.gethostname()
            hint = tr(
                "it is missing on the machine {host}: keep it in a folder that all machines mount at the same path",
                host=host,
            )
        if not is_same:
            raise UserError(tr("it changed while it was read"), self._file.path, hint)

    def _write_shard(self, stem: Path, rows: Iterator[ParsedRow[Any]], file: InputFile) -> Shard:
        """Process rows for one shard and write it; the summary comes last and marks the shard as finished."""
        source, detected = self._file, self._detected
        stats = FileStats(source.name, detected.name, detected.layout.encoding, source.settings.license)
        hits: Counter[str] = Counter()
        corrections: Counter[str] = Counter()
        kept: list[bytes] = []
        dropped: list[bytes] = []
        arrays = ShardArrayBuilder(self._spec, self._worker.seed)
        size, is_last = 0, True
        for row in rows:
            stats.rows_in += 1
            origin = Origin(f"{source.name}#{row.record_number}", f"{source.name}:{row.line}", source.settings.license)
            processed = self._process_row(row, origin, hits, corrections, file)
            if isinstance(processed, Drop):
                stats.dropped[processed.reason] += 1
                dropped.append((format_dropped_row(processed, origin.source, row.row) + "\n").encode("utf-8"))
                size += len(dropped[-1])
            else:
                record, line, tail_bytes, changed = processed
                stats.changed.update(changed)
                may_cut = not _CUT_NO_LINES.issuperset(changed) and not _REWRITE.intersection(changed)
                if isinstance(row.item, ParsedText) and may_cut:
                    count_cut_lines(stats.cut_lines, row.item.text, record.text)
                if row.unread:
                    count_unread_fields(stats.unread_fields, row.unread)
                if row.language:
                    stats.read_languages[row.language] += 1
                kept.append(line)
                arrays.append(record, row.record_number, row.line, len(line), tail_bytes)
                size += len(line)
            if stats.rows_in % _REPORT_ROWS == 0:
                self._report_progress(file)
            if stats.rows_in >= SHARD_ROWS or size >= SHARD_BYTES:
                is_last = False
                break
        if is_last:
            count_unread_fields(stats.unread_fields, tuple(file.unread_fields))
        shard = Shard(stem, stats, hits, is_last, file.lines_read, corrections=corrections)
        write_bytes(shard.path(".kept.jsonl"), b"".join(kept), shared=True)
        write_bytes(shard.path(".dropped.jsonl"), b"".join(dropped), shared=True)
        arrays.write(shard)
        shard.write_summary()
        return shard

    def _process_row(
        self,
        row: ParsedRow[Any],
        origin: Origin,
        hits: Counter[str],
        corrections: Counter[str],
        file: InputFile,
    ) -> tuple[Any, bytes, int, tuple[str, ...]] | Drop:
        """Process a row.

        Args:
            row: The parsed row.
            origin: Id and location of the record.
            hits: Counts the evaluation questions that it contains.
            corrections: Counts the entries of the overlay that are applied, by their hash.
            file: The file, to name the line of an error.

        Returns:
            The record, its line, the number of bytes after the line number in that line, and the names of the rules
            that changed it; or a Drop.
        """
        if isinstance(row.item, Drop):
            if row.item.reason in READ_ERRORS and self._worker.settings.on_error == "stop":
                hint = tr("`on_error: drop` skips such lines")
                message = f"{describe_reason(row.item.reason)} ({row.item.detail})"
                raise UserError(message, f"{self._file.path}:{file.count_lines_before() + row.line}", hint)
            return row.item
        processed = self._spec.process(row.item, origin)
        if isinstance(processed, Drop):
            return processed
        record, changed = processed
        if self._overlay is not None and (corrected := self._overlay.apply(record)) is not None:
            entry, record = corrected
            corrections[entry.sha256] += 1
            if isinstance(record, Drop):
                return record
            changed = (*changed, OVERLAY_RULE if entry.action == "fix" else OVERLAY_NOTE_RULE)
        if self._questions is not None and (contained := self._questions.find(self._spec.full_text(record))):
            hits.update(question.key for question in contained)
            ids = list(dict.fromkeys(question.id for question in contained))
            if self._questions.settings.action == "drop":
                return Drop("contaminated", "、".join(ids[:5]))
            record = replace(record, meta={**record.meta, "contaminated": ids})
        try:
            line, tail_bytes = dump_record(record)
        except UnicodeEncodeError as error:
            return Drop("broken_characters", f"U+{ord(error.object[error.start]):04X}")
        return record, line, tail_bytes, changed


def dump_record(record: Any) -> tuple[bytes, int]:
    """Serialize a record to its line in a shard.

    Returns:
        The line, and the number of bytes after the line number in it.

    Raises:
        UnicodeEncodeError: It has a lone surrogate.
    """
    fields = record.to_json()
    meta = fields.pop("meta", None)  # the last field
    line = _encode_json(fields).encode("utf-8")
    tail = b"}" if meta is None else b', "meta": ' + _encode_json(meta).encode("utf-8") + b"}"
    return line[:-1] + tail + b"\n", len(b'"') + len(tail) + 1


def index_reference_split(worker: WorkerContext, split: InputSplit) -> Shard:
    """Write the arrays for the records of another stage in a split of its file, to compare with.

    Raises:
        UserError: A line is not such a record.
    """
    stem = worker.shard_folder / f"{split.name}-00000"
    stats = FileStats(split.file.name, "", "utf-8")
    arrays = ShardArrayBuilder(worker.spec, worker.seed)
    offsets = []
    with InputFile(split.file.path, split.byte_range) as file:
        for line, size, start in file.lines(MAX_LINE_LENGTH):
            if not line.strip():
                continue
            stats.rows_in += 1
            try:
                record = worker.spec.record_type.from_json(json.loads(line))
                arrays.append(record, stats.rows_in, file.lines_read, size, 0)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                kind = worker.spec.record_type.kind
                message = tr("not a record of `{kind}`: {error}", kind=kind, error=error)
                location = f"{split.file.path}:{file.count_lines_before() + file.lines_read}"
                raise UserError(message, location) from error
            offsets.append(start)
    shard = Shard(stem, stats, {}, True, stats.rows_in, split.file.path)
    arrays.write(shard, offsets)
    shard.write_summary()
    return shard
