"""Files of any format become one file in the format of another tool, with an account of every row.

Owns the output files. Does not own what is written for a record (`writers`) or read from a row (`chats`, `pairs`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.registry import FORMATS_BY_STAGE
from hanlin.data.formats.writers import OUTPUT_FORMATS, OutputFormat
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile, find_files
from hanlin.data.ledger import Drop, dump_json_line, format_dropped_row

"""The formats of each stage; what fits several is taken for the first."""


@dataclass(slots=True)
class ConversionStats:
    """What became of the rows of one file. `lost_parts` counts the records that were written without a part."""

    path: str
    format: str
    encoding: str
    rows_in: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lost_parts: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        row = {"path": self.path, "format": self.format, "encoding": self.encoding, "rows_in": self.rows_in}
        counts = {"kept": self.kept, "dropped": dict(sorted(self.dropped.items()))}
        return row | counts | {"lost_parts": dict(sorted(self.lost_parts.items()))}


def convert(
    paths: Sequence[str], to: str, out: Path, settings: Mapping[str, Any] | None = None
) -> list[ConversionStats]:
    """Write every record of the files into `out` (`.jsonl`, or `.json` for one list), at once or not at all.

    Rows that cannot be read or written stand with their reasons in `<out>.dropped.jsonl`. Raises UserError for an
    unknown target or ending, an `out` that is there already, files that cannot be read, and a full disk.
    """
    target = OUTPUT_FORMATS.get(to)
    if target is None:
        raise UserError(
            say(f"no format '{to}' to write", f"没有可写的格式“{to}”"), None, did_you_mean(to, OUTPUT_FORMATS)
        )
    if out.suffix not in (".jsonl", ".json"):
        raise UserError(say("the name must end with .jsonl or .json", "文件名须以 .jsonl 或 .json 结尾"), out)
    if out.exists():
        raise UserError(say("already exists", "已存在"), out, say("name a new file", "请换一个新文件"))
    accounts = []
    with _open_output(out) as file, _open_output(out.with_name(out.name + ".dropped.jsonl"), empty=False) as aside:
        rows = _JsonWriter(file, is_list=out.suffix == ".json")
        for source in find_files(paths, settings).files:
            accounts.append(_convert_file(source, target, rows, aside))
        rows.close()
    return accounts


def _convert_file(file: SourceFile, target: OutputFormat, rows: _JsonWriter, aside: BinaryIO) -> ConversionStats:
    other_formats = {stage: formats for stage, formats in FORMATS_BY_STAGE.items() if stage != target.stage}
    with InputFile(file.path) as tape:
        opened = open_records(file, tape, FORMATS_BY_STAGE[target.stage], other_formats)
        account = ConversionStats(str(file.path), opened.format, opened.encoding)
        for found in opened.rows:
            account.rows_in += 1
            written = found.item if isinstance(found.item, Drop) else target.write(found.item)
            if isinstance(written, Drop):
                account.dropped[written.reason] += 1
                line = format_dropped_row(written, f"{file.name}:{found.line}", found.row)
                aside.write((line + "\n").encode("utf-8"))
            else:
                rows.add(written.row)
                account.kept += 1
                account.lost_parts.update(written.lost_parts)
            if found.record_number == file.settings.limit:
                break
        else:
            tape.check_unchanged()
    return account


class _JsonWriter:
    """Rows of JSON written one below the other, as lines or as one list."""

    def __init__(self, file: BinaryIO, is_list: bool) -> None:
        self._file = file
        self._is_list = is_list
        self._before = "[\n" if is_list else ""

    def add(self, row: Mapping[str, Any]) -> None:
        self._file.write((self._before + dump_json_line(row) + ("" if self._is_list else "\n")).encode("utf-8"))
        self._before = ",\n" if self._is_list else ""

    def close(self) -> None:
        if self._is_list:
            self._file.write(("\n]\n" if self._before == ",\n" else "[]\n").encode("utf-8"))


@contextmanager
def _open_output(path: Path, empty: bool = True) -> Iterator[BinaryIO]:
    """A file that appears under its name when all of it is written; without a byte only if it may be `empty`."""
    aside = path.with_name(path.name + ".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            yield file
            size = file.tell()
        if size or empty:
            os.replace(aside, path)
    except OSError as error:
        message = say(f"cannot be written: {error.strerror}", f"无法写入：{error.strerror}")
        raise UserError(message, path) from error
    finally:
        aside.unlink(missing_ok=True)
