"""Converting files of any format to one file in the format of another tool, with an account of every row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hanlin.core.errors import UserError, did_you_mean, explain_os_error
from hanlin.core.files import partial_path, remove_link
from hanlin.core.i18n import tr
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.registry import FORMATS_BY_STAGE
from hanlin.data.formats.writers import OUTPUT_FORMATS, OutputFormat
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile, find_files
from hanlin.data.ledger import Drop, count_unread_fields, dump_json_line, format_dropped_row


@dataclass(slots=True)
class ConversionStats:
    """Row counts of one input file.

    Attributes:
        lost_parts: Records written without a part, by the part.
        unread_fields: Records that do not carry a field of their row, by its name.
        read_languages: Records of rows in several languages, by the one that was read.
    """

    path: str
    format: str
    encoding: str
    rows_in: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lost_parts: Counter[str] = field(default_factory=Counter)
    unread_fields: Counter[str] = field(default_factory=Counter)
    read_languages: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        row = {"path": self.path, "format": self.format, "encoding": self.encoding, "rows_in": self.rows_in}
        counts = {"kept": self.kept, "dropped": dict(sorted(self.dropped.items()))}
        parts = {"lost_parts": self.lost_parts, "unread_fields": self.unread_fields}
        parts |= {"read_languages": self.read_languages} if self.read_languages else {}
        return row | counts | {name: dict(sorted(counter.items())) for name, counter in parts.items()}


def convert(
    paths: Sequence[str], to: str, out: Path, settings: Mapping[str, Any] | None = None
) -> list[ConversionStats]:
    """Write every record of the files to `out`, completely or not at all.

    Rows that cannot be read or written go to `<out>.dropped.jsonl` with their reasons; without any, there is no such
    file.

    Args:
        paths: Files, folders and globs.
        to: Name of an `OUTPUT_FORMATS`.
        out: A new file, `.jsonl`, or `.json` for one list.
        settings: Settings of a source for all files: format, encoding, fields, limit.

    Raises:
        UserError: Unknown format or suffix, `out` exists, a file cannot be read, or `out` cannot be written.
    """
    target = OUTPUT_FORMATS.get(to)
    if target is None:
        raise UserError(tr("cannot write the format '{to}'", to=to), None, did_you_mean(to, OUTPUT_FORMATS))
    if out.suffix not in (".jsonl", ".json"):
        raise UserError(tr("the file name must end in .jsonl or .json"), out)
    if out.exists():
        raise UserError(tr("already exists"), out, tr("give the name of a new file"), "exists")
    stats = []
    with _open_output(out) as file, _open_output(out.with_name(out.name + ".dropped.jsonl"), empty=False) as dropped:
        writer = _JsonWriter(file, is_list=out.suffix == ".json")
        for source in find_files(paths, settings).files:
            stats.append(_convert_file(source, target, writer, dropped))
        writer.close()
    return stats


def _convert_file(file: SourceFile, target: OutputFormat, writer: _JsonWriter, dropped: BinaryIO) -> ConversionStats:
    other_formats = {stage: formats for stage, formats in FORMATS_BY_STAGE.items() if stage != target.stage}
    with InputFile(file.path) as input_file:
        records = open_records(file, input_file, FORMATS_BY_STAGE[target.stage], lambda: other_formats)
        file_stats = ConversionStats(str(file.path), records.format, records.encoding)
        for parsed in records.rows:
            file_stats.rows_in += 1
            result = parsed.item if isinstance(parsed.item, Drop) else target.write(parsed.item)
            if isinstance(result, Drop):
                file_stats.dropped[result.reason] += 1
                line = format_dropped_row(result, f"{file.name}:{parsed.line}", parsed.row)
                dropped.write((line + "\n").encode("utf-8"))
            else:
                writer.add(result.row)
                file_stats.kept += 1
                file_stats.lost_parts.update(result.lost_parts)
                count_unread_fields(file_stats.unread_fields, parsed.unread)
                file_stats.read_languages.update([parsed.language] if parsed.language else [])
            if parsed.record_number == file.settings.limit:
                break
        else:
            input_file.check_unchanged()
        count_unread_fields(file_stats.unread_fields, tuple(input_file.unread_fields))
    return file_stats


class _JsonWriter:
    """Writes JSON rows, as lines or as one list."""

    def __init__(self, file: BinaryIO, is_list: bool) -> None:
        self._file = file
        self._is_list = is_list
        self._separator = "[\n" if is_list else ""

    def add(self, row: Mapping[str, Any]) -> None:
        self._file.write((self._separator + dump_json_line(row) + ("" if self._is_list else "\n")).encode("utf-8"))
        self._separator = ",\n" if self._is_list else ""

    def close(self) -> None:
        if self._is_list:
            self._file.write(("\n]\n" if self._separator == ",\n" else "[]\n").encode("utf-8"))


@contextmanager
def _open_output(path: Path, empty: bool = True) -> Iterator[BinaryIO]:
    """Open a file that appears at `path` when it is complete; an empty one only if `empty`."""
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_link(partial)
        with partial.open("wb") as file:
            yield file
            size = file.tell()
        if size or empty:
            os.replace(partial, path)
        else:
            path.unlink(missing_ok=True)  # the rows that an earlier run left out
    except OSError as error:
        known = explain_os_error(error)
        what = known.what if known else tr("cannot be written: {strerror}", strerror=error.strerror)
        raise UserError(what, path, known.hint if known else None) from error
    finally:
        partial.unlink(missing_ok=True)
