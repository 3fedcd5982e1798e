"""Rows of one JSON object that holds all of them: by split, under one field, as columns, or by their ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hanlin.data.io.json_rows import StrictDecoder, TextBuffer, expect_mark, json_error, read_value, read_values
from hanlin.data.io.lines import Row
from hanlin.data.ledger import Drop

_ROWS_FIELDS = frozenset((
    *("data", "rows", "records", "items", "examples", "samples", "list", "results", "result", "dataset", "entries"),
    *("train", "test", "valid", "validation", "dev", "train_data", "example", "qa_pairs", "qa", "数据"),
))  # fmt: skip
"""Fields that hold the rows of a file, in lower case."""
_COLUMNS = frozenset((
    *("question", "questions", "query", "prompt", "instruction", "input", "output", "answer", "answers", "response"),
    *("text", "content", "completion", "target", "问题", "回答", "答案", "问", "答", "内容", "正文"),
))  # fmt: skip
"""Names that tell columns of rows from the lists of one record, in lower case."""
_TURN_KEYS = ("role", "from", "speaker")
_MIN_ROWS = 2
_MANY_VALUES = 40


def read_split_rows(path: Path, chunks: Iterator[str]) -> Iterator[Row]:
    """Read the rows of all splits in `{"train": [...], "valid": [...]}`, holding one row at a time."""
    for buffer, decoder, name in _read_fields(path, chunks):
        expect_mark(path, buffer, "[", f"'{name}' is not a list")
        yield from read_values(path, buffer, decoder, closing="]")


def read_wrapped_rows(path: Path, chunks: Iterator[str], field: str) -> Iterator[Row]:
    """Read the rows under one field of an object, holding one at a time; other fields are about the file.

    The rows that a hub's viewer exports, `{"row_idx": 0, "row": {...}, "truncated_cells": []}`, are taken out; one with
    a truncated cell becomes a Drop.
    """
    for buffer, decoder, name in _read_fields(path, chunks):
        if name != field:
            buffer.advance(read_value(path, buffer, decoder)[1])
            continue
        expect_mark(path, buffer, "[", f"'{name}' is not a list")
        yield from map(_take_out, read_values(path, buffer, decoder, closing="]"))


def _take_out(row: Row) -> Row:
    if not isinstance(row.value, Mapping) or not isinstance(row.value.get("row"), Mapping):
        return row
    cut = row.value.get("truncated_cells")
    if cut:
        raw = json.dumps(row.value, ensure_ascii=False)
        return Row(row.line, Drop("truncated_cells", ", ".join(map(str, cut))), raw)
    return Row(row.line, row.value["row"])


def read_column_rows(path: Path, chunks: Iterator[str]) -> Iterator[Row]:
    """Read the rows of an object of columns, or of rows by their ids. The whole object is held in memory."""
    buffer, decoder = TextBuffer(chunks), StrictDecoder()
    if buffer.peek() == "\ufeff":
        buffer.pos += 1
    buffer.peek()
    value, end = read_value(path, buffer, decoder)
    rows = to_rows(value)
    if decoder.errors or rows is None:
        reason = decoder.errors[0] if decoder.errors else "its columns differ in length"
        raise json_error(path, 1, reason)
    buffer.advance(end)
    expect_mark(path, buffer, "", "text after the end of the object")
    for row in rows:
        yield Row(1, row)


def _read_fields(path: Path, chunks: Iterator[str]) -> Iterator[tuple[TextBuffer, StrictDecoder, str]]:
    """Read the names of an object's fields; what is iterated over this reads their values from the buffer."""
    buffer, decoder = TextBuffer(chunks), StrictDecoder()
    if buffer.peek() == "\ufeff":
        buffer.pos += 1
    mark = "{"
    seen: set[str] = set()
    while mark != "}":
        expect_mark(path, buffer, "{" if not seen else ",", "no comma")
        expect_mark(path, buffer, '"', "a field has no name", consume=False)
        name, end = read_value(path, buffer, decoder)
        if name in seen:
            raise json_error(path, buffer.line_at(buffer.pos), f"duplicate key '{name}'")
        seen.add(name)
        buffer.advance(end)
        expect_mark(path, buffer, ":", "no colon")
        buffer.peek()
        yield buffer, decoder, name
        mark = buffer.peek()
    buffer.pos += 1
    expect_mark(path, buffer, "", "text after the end of the object")


# --- which it is ------------------------------------------------------------------------------------------------------


def detect_object(start: str) -> tuple[str, str] | None:
    """Detect how one object holds rows, from the first characters of its text.

    Returns:
        ("json_wrapped", the field of the rows), ("json_columns", ""), or None if the object is a row itself.
    """
    decoder = json.JSONDecoder()
    try:
        value, end = decoder.raw_decode(start)
    except (ValueError, RecursionError):
        return _detect_cut_object(start, decoder)
    if start[end:].strip() or not isinstance(value, dict):
        return None
    field = next((name for name, content in value.items() if _holds_rows(name, content, value)), None)
    if field is not None:
        return "json_wrapped", field
    return None if to_rows(value) is None else ("json_columns", "")


def _detect_cut_object(start: str, decoder: json.JSONDecoder) -> tuple[str, str] | None:
    """Detect the same from the beginning of an object that goes on."""
    pos, begin, name = start.find("{") + 1, -1, ""
    seen: dict[str, Any] = {}
    while True:
        pos = _skip_blanks(start, pos)
        try:
            begin, (name, pos) = -1, decoder.raw_decode(start, pos)
            pos = _skip_blanks(start, pos)
            if not isinstance(name, str) or start[pos : pos + 1] != ":":
                return None
            begin = _skip_blanks(start, pos + 1)
            value, pos = decoder.raw_decode(start, begin)
        except (ValueError, RecursionError):
            break
        if _holds_rows(name, value, seen):
            return "json_wrapped", name
        seen[name] = value
        pos = _skip_blanks(start, pos)
        if start[pos : pos + 1] != ",":
            return None
        pos += 1
    if len(seen) > _MIN_ROWS and to_rows(seen) is not None:
        return "json_columns", ""
    if begin < 0 or start[begin : begin + 1] != "[":
        return None
    first = _first_values(start, begin + 1, decoder)
    if _holds_rows(name, first, seen):
        return "json_wrapped", name
    is_column = name.lower() in _COLUMNS and len(first) >= _MANY_VALUES and all(isinstance(item, str) for item in first)
    return ("json_columns", "") if is_column else None


def _first_values(text: str, pos: int, decoder: json.JSONDecoder) -> list[Any]:
    """The first complete values of a list that begins before `pos`."""
    values: list[Any] = []
    while len(values) < _MANY_VALUES:
        try:
            value, pos = decoder.raw_decode(text, _skip_blanks(text, pos))
        except (ValueError, RecursionError):
            break
        values.append(value)
        pos = _skip_blanks(text, pos)
        if text[pos : pos + 1] != ",":
            break
        pos += 1
    return values


def _skip_blanks(text: str, pos: int) -> int:
    while pos < len(text) and text[pos] in " \t\r\n":
        pos += 1
    return pos


def _holds_rows(name: str, value: Any, others: Mapping[str, Any]) -> bool:
    """Whether a field holds rows: a list of objects that are no turns, under a name that says so.

    Args:
        name: The field.
        value: What is in it.
        others: The fields beside it: LMFlow has `type` beside `instances`, a row of Self-Instruct its instruction.
    """
    is_known = name.lower() in _ROWS_FIELDS or (name == "instances" and others.keys() - {name} == {"type"})
    if not is_known or not isinstance(value, list) or not value:
        return False
    first = value[0]
    return isinstance(first, dict) and bool(first) and not any(key in first for key in _TURN_KEYS)


def to_rows(value: Any) -> list[dict[str, Any]] | None:
    """The rows of an object of columns or of rows by their ids; None for any other object.

    Example:
        {"question": ["a", "b"], "answer": ["c", "d"]}, {"question": {"0": "a", "1": "b"}, ...},
        {"columns": ["question", "answer"], "data": [["a", "c"], ["b", "d"]]} and
        {"q1": {"question": "a", "answer": "c"}, "q2": {...}} are two rows each.
    """
    if not isinstance(value, dict) or not value or any(key in value for key in _TURN_KEYS):
        return None
    names, cells = value.get("columns", value.get("header")), value.get("data", value.get("rows"))
    if isinstance(names, list) and isinstance(cells, list) and cells:
        if all(isinstance(row, list) and len(row) == len(names) for row in cells):
            return [dict(zip(map(str, names), row, strict=True)) for row in cells]
        return None
    columns = list(value.values())
    if len(value) > 1 and all(isinstance(column, list) for column in columns):
        return _join_columns(value, columns)
    if not all(isinstance(column, dict) and column for column in columns):
        return None
    keys = list(columns[0])
    if any(list(column) != keys for column in columns[1:]):
        return None
    if len(value) > 1 and keys == [str(number) for number in range(len(keys))] and len(keys) >= _MIN_ROWS:
        return _join_columns(value, [list(column.values()) for column in columns])
    if len(value) >= _MIN_ROWS and any(key.lower() in _COLUMNS for key in keys):
        return [{**({} if "id" in row else {"id": name}), **row} for name, row in value.items()]
    return None


def _join_columns(value: dict[str, Any], columns: list[list[Any]]) -> list[dict[str, Any]] | None:
    is_named = any(
        name.lower() in _COLUMNS and all(isinstance(cell, str) for cell in column)
        for name, column in zip(value, columns, strict=True)
    )
    if not is_named or len(columns[0]) < _MIN_ROWS or len({len(column) for column in columns}) > 1:
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
