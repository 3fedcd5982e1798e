"""Rows of tables: CSV and tab-separated text, Parquet, and Arrow files as `datasets` writes them."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.data.io.lines import MAX_LINE_LENGTH, Row, bounded_lines, normalize_newlines
from hanlin.data.ledger import Drop

_BATCH_ROWS = 1024
_ARROW_MAGIC = b"ARROW1"


_HEADINGS = frozenset((
    *("id", "index", "idx", "no", "text", "content", "title", "url", "question", "query", "prompt", "instruction"),
    *("input", "output", "answer", "response", "completion", "target", "context", "label", "source", "category"),
    *("topic", "type", "score", "system", "history", "messages", "conversations", "chosen", "rejected", "author"),
    *("问题", "回答", "答案", "问", "答", "标题", "内容", "正文", "标签", "类别", "编号", "序号", "来源", "作者"),
))  # fmt: skip
"""Usual names of columns, in lower case."""
_DATA_CELL = re.compile(r"[-+]?\d[\d.,%]*|https?://.*|.*[。！？；!?;…，,].*|.*\.", re.S)
_LONG_CELL = re.compile(r"[\u4e00-\u9fff]{16}")
_MAX_HEADING_CHARS = 40
_DELIMITERS = ("\t", ";", "|", ",")
_SEPARATOR = re.compile(r"\ufeff?sep=([^\w\s\"']|\t)[ \t]*(?:\r?\n|\Z)", re.I)
"""The line before a table in which Excel says what separates its columns."""
_SAMPLE_RECORDS = 20
_MIN_RECORDS = 3


def is_heading(cells: Sequence[str], names: Collection[str] = ()) -> bool:
    """Whether the first record of a table names its columns, instead of being data itself.

    Args:
        cells: The record.
        names: Names of columns that the source's settings use; numbers say that there is no heading.
    """
    lower = {cell.lstrip("\ufeff").strip().lower() for cell in cells}
    if any(name.lower() in lower for name in names) or lower & _HEADINGS:
        return True
    if names and all(name.isdecimal() for name in names):
        return False
    return not any(
        len(cell) > _MAX_HEADING_CHARS or _DATA_CELL.fullmatch(cell.strip()) or _LONG_CELL.search(cell)
        for cell in cells
    )


def detect_delimiter(head: str, is_complete: bool, suffix: str) -> str:
    """Detect what separates the columns of a table: what its suffix says unless that leaves each record whole.

    Args:
        head: The beginning of the file.
        is_complete: Whether it is all of the file.
        suffix: `.csv` or `.tsv`.
    """
    named = _SEPARATOR.match(head)
    if named is not None:
        return named[1]
    default = "\t" if suffix == ".tsv" else ","
    if max(_count_columns(head, is_complete, default), default=0) > 1:
        return default
    return next((mark for mark in _DELIMITERS if _is_table(_count_columns(head, is_complete, mark))), default)


def detect_text_table(head: str, is_complete: bool) -> str:
    """Detect a table in a text file: its delimiter, or an empty text if it is no table.

    Records separated by tabs are a table if all have as many columns; by other marks, only below a usual heading.
    """
    first_line = head.lstrip("\ufeff\n").partition("\n")[0]
    for mark in _DELIMITERS:
        if mark not in first_line:
            continue
        columns = _count_columns(head, is_complete, mark)
        names = [cell.strip().lower() for cell in first_line.split(mark)]
        is_named = bool(names[0]) and sum(name in _HEADINGS for name in names) > len(names) / 2
        is_even = mark == "\t" and len(columns) >= _MIN_RECORDS and not re.search(r"^\s", head, re.M)
        if _is_table(columns) and (is_named or is_even):
            return mark
    return ""


_LONG_DELIMITERS = ("_!_", "|||", "+++$+++", "\x01", "##@@##", "[SEP]", "<sep>", "<SEP>")
"""Marks of several characters, or that nobody types, with which sets of texts divide the columns of their lines."""


def find_long_delimiter(head: str, is_complete: bool) -> str:
    """Find the mark of `_LONG_DELIMITERS` that is on each line of a text as often; an empty text if there is none.

    Args:
        head: The beginning of the file.
        is_complete: Whether it is all of the file.
    """
    lines = head.lstrip("\ufeff").splitlines()
    lines = [line for line in (lines if is_complete else lines[:-1]) if line.strip()][:_SAMPLE_RECORDS]
    for mark in _LONG_DELIMITERS:
        counts = {line.count(mark) for line in lines}
        if len(lines) > 1 and len(counts) == 1 and 0 not in counts:
            return mark
    return ""


def _is_table(columns: Sequence[int]) -> bool:
    return len(columns) > 1 and columns[0] > 1 and len(set(columns)) == 1


def _count_columns(head: str, is_complete: bool, delimiter: str) -> list[int]:
    """The numbers of columns of the first records; none if its quotes are broken."""
    lines = head.lstrip("\ufeff").splitlines(keepends=True)
    if not is_complete:
        lines = lines[:-1]
    csv.field_size_limit(MAX_LINE_LENGTH)
    columns: list[int] = []
    try:
        for cells in csv.reader(lines, delimiter=delimiter, strict=True):
            if cells:
                columns.append(len(cells))
            if len(columns) == _SAMPLE_RECORDS:
                break
    except csv.Error:
        if len(columns) < _MIN_RECORDS:
            return []
    return columns


def read_csv_rows(path: Path, chunks: Iterator[str], delimiter: str, names: Collection[str] = ()) -> Iterator[Row]:
    """Read a row for each record below the heading; one with more or fewer columns becomes a Drop.

    The columns of a table without a heading, and those without a name, are called by their numbers: `1`, `2`, ...

    Args:
        path: The file, for messages.
        chunks: Its text; chunks may end anywhere.
        delimiter: What separates columns.
        names: Names of columns that the source's settings use.

    Raises:
        UserError: Quotes are broken, so that the rows after them cannot be told apart, or two columns have one name.
    """
    csv.field_size_limit(MAX_LINE_LENGTH)
    reader = csv.reader(_read_csv_lines(path, chunks), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if header is None and line == 1 and _SEPARATOR.match(delimiter.join(cells)):
                pass
            elif header is None and cells:
                numbers = [str(number + 1) for number in range(len(cells))]
                if not is_heading(cells, names):
                    header = numbers
                    cells[0] = cells[0].removeprefix("\ufeff")
                    yield Row(line, dict(zip(header, cells, strict=True)))
                else:
                    header = [cell.lstrip("\ufeff").strip() for cell in cells]
                    header = [name or number for name, number in zip(header, numbers, strict=True)]
                    _check_header(path, header)
            elif header is None:
                pass
            elif cells and len(cells) != len(header):
                detail = f"{len(cells)} columns instead of {len(header)}"
                yield Row(line, Drop("broken_csv", detail), json.dumps(cells, ensure_ascii=False))
            elif cells:
                yield Row(line, dict(zip(header, cells, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        hint = tr("double a quote inside a quoted field")
        raise UserError(tr("not CSV: {error}", error=error), f"{path}:{line}", hint) from error


def is_numbered(row: Any) -> bool:
    """Whether a row is of a table without a heading, so that its columns are numbered."""
    return isinstance(row, Mapping) and bool(row) and list(row) == [str(number + 1) for number in range(len(row))]


def _read_csv_lines(path: Path, chunks: Iterator[str]) -> Iterator[str]:
    last_line = 0
    for row in bounded_lines(normalize_newlines(chunks), MAX_LINE_LENGTH):
        if row.line == last_line:
            message = tr("a line of more than {max_line_length} characters", max_line_length=MAX_LINE_LENGTH)
            raise UserError(message, f"{path}:{row.line}")
        last_line = row.line
        yield row.value + "\n"


def _find_duplicate(names: list[str]) -> str | None:
    """The first of the names that comes twice, found in one pass: a table may have a hundred thousand columns."""
    counts = Counter(names)
    return next((name for name in names if counts[name] > 1), None) if len(counts) < len(names) else None


def _check_header(path: Path, header: list[str]) -> None:
    duplicate = _find_duplicate(header)
    if duplicate is not None:
        raise UserError(tr("two columns are called '{duplicate}'", duplicate=duplicate), f"{path}:1")


def read_parquet_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a Parquet file. Raises UserError if it is broken."""
    parquet = _import_pyarrow(path, "parquet")

    def batches() -> Iterator[Any]:
        with parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=_BATCH_ROWS)

    return _read_batches(path, "Parquet", batches())


def read_arrow_rows(path: Path) -> Iterator[Row]:
    """Read the rows of an Arrow file, in the stream format (as `datasets` writes) or the file format (Feather).

    Raises UserError if it is broken or truncated.
    """
    ipc = _import_pyarrow(path, "ipc")

    def batches() -> Iterator[Any]:
        with path.open("rb") as file:
            is_file_format = file.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
            file.seek(0)
            if is_file_format:
                with ipc.open_file(file) as table:
                    for row_number in range(table.num_record_batches):
                        yield table.get_batch(row_number)
            else:
                with ipc.open_stream(file) as stream:
                    yield from stream

    return _read_batches(path, "Arrow", batches())


def _import_pyarrow(path: Path, module: str) -> Any:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        message = tr("reading it needs pyarrow")
        raise UserError(message, path, "pip install pyarrow") from error
    return getattr(pyarrow, module)


def _read_batches(path: Path, kind: str, batches: Iterator[Any]) -> Iterator[Row]:
    from pyarrow import ArrowException

    row_number = 0
    try:
        for batch in batches:
            batch.validate(full=True)
            duplicate = _find_duplicate(batch.schema.names)
            if duplicate is not None:
                raise UserError(tr("two columns are called '{duplicate}'", duplicate=duplicate), path)
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for value in batch.slice(start, _BATCH_ROWS).to_pylist():
                    row_number += 1
                    yield Row(row_number, {name: _to_json_value(item) for name, item in value.items()})
    except MemoryError as error:
        raise UserError(tr("not {kind}: reading it needs too much memory", kind=kind), path) from error
    except (ArrowException, OSError, ValueError, TypeError, NotImplementedError) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(tr("not {kind}: {value}", kind=kind, value=message), path) from error


def _to_json_value(value: Any) -> Any:
    """Convert a cell to a JSON value: bytes to text if they are UTF-8, else to their number in an object, so that a
    picture or a text in another encoding is seen and named; NaN to None; dates to text.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"bytes": len(value)}
    if isinstance(value, Mapping):
        return {str(name): _to_json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item) for item in value]
    return str(value)
