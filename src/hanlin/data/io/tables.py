"""Rows of tables: CSV and tab-separated text, Parquet, and Arrow files as `datasets` keeps them.

Owns columns to fields. Does not own what a row means.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.io.lines import MAX_LINE_LENGTH, Row, bounded_lines, normalize_newlines
from hanlin.data.ledger import Drop

_BATCH_ROWS = 1024
_ARROW_MAGIC = b"ARROW1"


def read_csv_rows(path: Path, pieces: Iterator[str], delimiter: str) -> Iterator[Row]:
    """A row for each record below the header; one with other columns comes as a Drop.

    Raises UserError where quotes are broken: what follows cannot be told apart.
    """
    csv.field_size_limit(MAX_LINE_LENGTH)
    reader = csv.reader(_read_csv_lines(path, pieces), delimiter=delimiter, strict=True)
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
        hint = say("a quote in a field is written twice", "字段中的引号须写两次")
        raise UserError(say(f"not CSV: {error}", f"不是合法 CSV：{error}"), f"{path}:{line}", hint) from error


def _read_csv_lines(path: Path, pieces: Iterator[str]) -> Iterator[str]:
    last = 0
    for row in bounded_lines(normalize_newlines(pieces), MAX_LINE_LENGTH):
        if row.line == last:
            message = say(f"a line of more than {MAX_LINE_LENGTH} characters", f"一行超过 {MAX_LINE_LENGTH} 个字符")
            raise UserError(message, f"{path}:{row.line}")
        last = row.line
        yield row.value + "\n"


def _check_header(path: Path, header: list[str]) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(say(f"two columns are called '{twice}'", f"有两列都叫“{twice}”"), f"{path}:1")


def read_parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file. Raises UserError when it is broken."""
    parquet = _import_pyarrow(path, "parquet")

    def batches() -> Iterator[Any]:
        with parquet.ParquetFile(path) as table:
            yield from table.iter_batches(batch_size=_BATCH_ROWS)

    return _read_batches(path, "Parquet", batches())


def read_arrow_rows(path: Path) -> Iterator[Row]:
    """The rows of an Arrow file, written as a stream (as `datasets` does) or for random access (Feather).

    Raises UserError when it is broken or cut short.
    """
    ipc = _import_pyarrow(path, "ipc")

    def batches() -> Iterator[Any]:
        with path.open("rb") as file:
            is_list = file.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
            file.seek(0)
            if is_list:
                with ipc.open_file(file) as table:
                    for number in range(table.num_record_batches):
                        yield table.get_batch(number)
            else:
                with ipc.open_stream(file) as stream:
                    yield from stream

    return _read_batches(path, "Arrow", batches())


def _import_pyarrow(path: Path, module: str) -> Any:
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        message = say("pyarrow is needed to read it", "读取该文件需要 pyarrow")
        raise UserError(message, path, "pip install pyarrow") from error
    return getattr(pyarrow, module)


def _read_batches(path: Path, kind: str, batches: Iterator[Any]) -> Iterator[Row]:
    from pyarrow import ArrowException

    number = 0
    try:
        for batch in batches:
            batch.validate(full=True)
            twice = next((name for name in batch.schema.names if batch.schema.names.count(name) > 1), None)
            if twice is not None:
                raise UserError(say(f"two columns are called '{twice}'", f"有两列都叫“{twice}”"), path)
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for value in batch.slice(start, _BATCH_ROWS).to_pylist():
                    number += 1
                    yield Row(number, {name: _to_json_value(item) for name, item in value.items()})
    except MemoryError as error:
        raise UserError(
            say(f"not {kind}: it asks for too much memory", f"不是合法 {kind}：所需内存过大"), path
        ) from error
    except (ArrowException, OSError, ValueError, TypeError, NotImplementedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(say(f"not {kind}: {first}", f"不是合法 {kind}：{first}"), path) from error


def _to_json_value(value: Any) -> Any:
    """A cell as JSON knows it: bytes are text where they are UTF-8 and nothing else, NaN is nothing, dates are text."""
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
