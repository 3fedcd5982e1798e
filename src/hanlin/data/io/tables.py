"""Rows of tables: CSV and tab-separated text, Parquet, and Arrow files as `datasets` writes them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.data.io.lines import MAX_LINE_LENGTH, Row, bounded_lines, normalize_newlines
from hanlin.data.ledger import Drop

_BATCH_ROWS = 1024
_ARROW_MAGIC = b"ARROW1"


def read_csv_rows(path: Path, chunks: Iterator[str], delimiter: str) -> Iterator[Row]:
    """Read a row for each record below the header; one with more or fewer columns becomes a Drop.

    Args:
        path: The file, for messages.
        chunks: Its text; chunks may end anywhere.
        delimiter: A comma or a tab.

    Raises:
        UserError: Quotes are broken, so that the rows after them cannot be told apart, or two columns have one name.
    """
    csv.field_size_limit(MAX_LINE_LENGTH)
    reader = csv.reader(_read_csv_lines(path, chunks), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if header is None:
                header = [cell.lstrip("\ufeff").strip() for cell in cells]
                _check_header(path, header)
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


def _check_header(path: Path, header: list[str]) -> None:
    duplicate = next((name for name in header if header.count(name) > 1), None)
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
            duplicate = next((name for name in batch.schema.names if batch.schema.names.count(name) > 1), None)
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
    """Convert a cell to a JSON value: bytes to text if they are UTF-8, else to None; NaN to None; dates to text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(value, Mapping):
        return {str(name): _to_json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(item) for item in value]
    return str(value)
