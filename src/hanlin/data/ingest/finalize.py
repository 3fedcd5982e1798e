"""Write the final files of a stage from its shards: kept, validation and dropped rows, and the ledger.

In memory are some numbers for each record; texts stay on disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.core.discover import VALIDATION_FILE
from hanlin.core.files import partial_path, write_json
from hanlin.data.dedup.cluster import Indices
from hanlin.data.ingest.deduplicate import DedupResult
from hanlin.data.ingest.shard_index import LOCATION, ShardIndex, ShardOffset
from hanlin.data.ledger import FileStats, most_frequent_cut_lines

_DROPPED_FILE = "dropped.jsonl"


def write_records(index: ShardIndex, result: DedupResult, out: Path) -> list[FileStats]:
    """Write the records that are kept, those of the validation split, and the dropped rows.

    `dropped.jsonl` has of each file first the rows that a rule dropped, then the duplicates.

    Args:
        index: All shards.
        result: What becomes of each record.
        out: The stage's folder.

    Returns:
        The row counts of each file.
    """
    stats_of_file: dict[str, FileStats] = {}
    shards_of_file: dict[str, list[ShardOffset]] = {}
    for offset in index.own:
        shards_of_file.setdefault(offset.shard.stats.file, []).append(offset)
    ids = _RecordIds(index, result.row_numbers)
    with _OutputFiles(out, index.worker.spec.file_name) as files:
        for name, offsets in shards_of_file.items():
            for offset in offsets:
                files.write_dropped(_read_dropped(offset))
            first = offsets[0].shard.stats
            stats = stats_of_file[name] = FileStats(name, first.format, first.encoding, first.license)
            for offset in offsets:
                stats.add(offset.shard.stats)
                _write_shard(offset, result, ids, stats, files)
    return list(stats_of_file.values())


def _read_dropped(offset: ShardOffset) -> bytes:
    """Read the dropped rows of a shard, with line numbers that count from the beginning of the file."""
    rows = offset.shard.path(".dropped.jsonl").read_bytes()
    if not offset.lines_before:
        return rows
    return b"".join(
        LOCATION.sub(lambda match: b'%s%d"' % (match[1], int(match[2]) + offset.lines_before), row, count=1)
        for row in rows.splitlines(keepends=True)
    )


class _RecordIds:
    """The ids of records that others duplicate, in JSON."""

    def __init__(self, index: ShardIndex, row_numbers: Indices) -> None:
        self._index, self._row_numbers = index, row_numbers

    def dump(self, record: int) -> bytes:
        if record < self._index.num_reference:
            record_id = json.loads(self._index.read_line(record))["id"]
        else:
            record_id = f"{self._index.locate(record).shard.stats.file}#{self._row_numbers[record]}"
        return json.dumps(record_id, ensure_ascii=False).encode("utf-8")


def _write_shard(
    offset: ShardOffset, result: DedupResult, ids: _RecordIds, stats: FileStats, files: _OutputFiles
) -> None:
    """Write the records of a shard and count them; row and line numbers are made to count from the file's beginning."""
    arrays = offset.shard.load_arrays()
    duplicate_of, is_validation = result.duplicate_of[offset.records], result.is_validation[offset.records]
    is_kept = duplicate_of < 0
    stats.rows_kept += int(is_kept.sum())
    stats.rows_validation += int(is_validation.sum())
    stats.characters += int(arrays["characters"][is_kept].sum())
    if not offset.num_records:
        return
    data = offset.shard.records_path.read_bytes()
    is_first = not offset.rows_before and not offset.lines_before
    if is_kept.all() and not is_validation.any() and is_first:
        files.write_kept([data])
        return
    is_near, is_contained = result.is_near[offset.records].tolist(), result.is_contained[offset.records].tolist()
    name = json.dumps(stats.file, ensure_ascii=False).encode("utf-8")[:-1]
    id_prefix = b'{"id": ' + name + b"#"
    kept: list[bytes] = []
    validation: list[bytes] = []
    columns = (arrays[column].tolist() for column in ("offset", "num_bytes", "tail_bytes", "row", "line"))
    for record, (start, size, tail, row, line_number) in enumerate(zip(*columns, strict=True)):
        end = start + size
        line = data[start:end]
        if not is_first:
            line = b"%s%d%s%d%s" % (
                id_prefix,
                row + offset.rows_before,
                data[start + len(id_prefix) + len(str(row)) : end - tail - len(str(line_number))],
                line_number + offset.lines_before,
                data[end - tail : end],
            )
        if is_kept[record]:
            (validation if is_validation[record] else kept).append(line)
            continue
        reason = "contained" if is_contained[record] else "near_duplicate" if is_near[record] else "duplicate"
        stats.dropped[reason] += 1
        original = ids.dump(int(duplicate_of[record]))
        files.write_dropped(
            b'{"reason": "%s", "location": %s:%d", "duplicate_of": %s, "row": %s}\n'
            % (reason.encode(), name, line_number + offset.lines_before, original, line[:-1])
        )
    files.write_kept(kept)
    files.write_validation(validation)


class _OutputFiles:
    """The final files, which appear under their names together when all are complete."""

    def __init__(self, out: Path, file_name: str) -> None:
        self._paths = {name: out / name for name in (file_name, VALIDATION_FILE, _DROPPED_FILE)}
        self._file_name = file_name
        self._has_validation = False

    def __enter__(self) -> _OutputFiles:
        self._files = {name: partial_path(path).open("wb") for name, path in self._paths.items()}
        return self

    def write_kept(self, lines: Sequence[bytes]) -> None:
        self._files[self._file_name].writelines(lines)

    def write_validation(self, lines: Sequence[bytes]) -> None:
        self._has_validation = self._has_validation or bool(lines)
        self._files[VALIDATION_FILE].writelines(lines)

    def write_dropped(self, lines: bytes) -> None:
        self._files[_DROPPED_FILE].write(lines)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for file in self._files.values():
            file.close()
        for name, path in self._paths.items():
            partial = partial_path(path)
            if kind is not None or (name == VALIDATION_FILE and not self._has_validation):
                partial.unlink()
                if kind is None:
                    path.unlink(missing_ok=True)
            else:
                partial.replace(path)


def write_ledger(stats_of_files: Sequence[FileStats], skipped: Sequence[str], out: Path) -> FileStats:
    """Write `ledger.json`.

    Args:
        stats_of_files: Row counts of each file.
        skipped: Names of files that were not read.
        out: The stage's folder.

    Returns:
        The sums over all files.
    """
    total = FileStats("", "", "")
    for stats in stats_of_files:
        total.add(stats)
    ledger: dict[str, Any] = {**total.counts(), "files": [stats.to_json() for stats in stats_of_files]}
    if total.cut_lines:
        ledger["cut_lines"] = most_frequent_cut_lines(total.cut_lines)
    if skipped:
        ledger["files_skipped"] = list(skipped)
    write_json(out / "ledger.json", ledger, shared=True)
    return total
