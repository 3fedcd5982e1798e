"""Rows of one JSON object that holds all of them: by split, under one field, as columns, or by their ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.data.io.json_rows import StrictDecoder, TextBuffer, expect_mark, json_error, read_value, read_values
from hanlin.data.io.lines import Row
from hanlin.data.ledger import Drop

_ROWS_FIELDS = frozenset((
    *("data", "rows", "records", "items", "examples", "samples", "list", "results", "result", "dataset", "entries"),
    *("train", "test", "valid", "validation", "dev", "train_data", "example", "qa_pairs", "qa", "intents", "数据"),
))  # fmt: skip
"""Fields that hold the rows of a file, in lower case."""
_COLUMNS = frozenset((
    *("question", "questions", "query", "prompt", "instruction", "input", "output", "answer", "answers", "response"),
    *("text", "content", "completion", "target", "problem", "solution"),
    *("q", "a", "问题", "回答", "答案", "问", "答", "内容", "正文"),
))  # fmt: skip
"""Names that tell columns of rows from the lists of one record, in lower case."""
_NESTED_FIELDS = frozenset((
    *("conversations", "conversation", "messages", "dialogues", "dialogs", "chats", "sessions", "questions"),
    "contents",
    *("itemlist", "item_list", "datalist", "data_list", "rowlist", "row_list", "列表", "对话", "结果", "记录"),
))  # fmt: skip
"""Further fields that hold the rows of a file below an object, in lower case."""
SPLITS = ("train", "valid", "validation", "dev", "test")
"""Fields of an object that hold the rows of its splits."""
_MAX_OUTER = 2
_TURN_KEYS = ("role", "from", "speaker")
_MIN_ROWS = 2
_MANY_VALUES = 40


def read_split_rows(path: Path, chunks: Iterator[str], unread: dict[str, None]) -> Iterator[Row]:
    """Read the rows of all splits in `{"train": [...], "valid": [...]}`, holding one row at a time.

    Args:
        path: The file, for messages.
        chunks: Its text.
        unread: The fields that are no list are added to it as they are passed; empty ones do not count.
    """
    buffer, decoder = _open_object(chunks)
    for name in _read_field_names(path, buffer, decoder):
        if buffer.peek() == "[" or name in SPLITS:
            expect_mark(path, buffer, "[", f"'{name}' is not a list")
            yield from read_values(path, buffer, decoder, closing="]")
        else:
            _skip_field(path, buffer, decoder, name, unread)
    expect_mark(path, buffer, "", "text after the end of the object")


def read_wrapped_rows(
    path: Path, chunks: Iterator[str], names: Sequence[str], unread: dict[str, None]
) -> Iterator[Row]:
    """Read the rows under one field of an object, or of objects in it, holding one at a time.

    The rows that a hub's viewer exports, `{"row_idx": 0, "row": {...}, "truncated_cells": []}`, are taken out; one with
    a truncated cell becomes a Drop.

    Args:
        path: The file, for messages.
        chunks: Its text.
        names: The field that holds the rows, after those of the objects around it, the outermost first.
        unread: The fields beside the rows are added to it as they are passed, as `outer.field`; empty ones do not
            count.
    """
    buffer, decoder = _open_object(chunks)

    def read_level(level: int) -> Iterator[Row]:
        for name in _read_field_names(path, buffer, decoder):
            if name != names[level]:
                _skip_field(path, buffer, decoder, ".".join((*names[:level], name)), unread)
            elif level + 1 < len(names):
                yield from read_level(level + 1)
            else:
                expect_mark(path, buffer, "[", f"'{name}' is not a list")
                yield from map(_take_out, read_values(path, buffer, decoder, closing="]"))

    yield from read_level(0)
    expect_mark(path, buffer, "", "text after the end of the object")


def _open_object(chunks: Iterator[str]) -> tuple[TextBuffer, StrictDecoder]:
    buffer = TextBuffer(chunks)
    if buffer.peek() == "\ufeff":
        buffer.pos += 1
    return buffer, StrictDecoder()


def _skip_field(path: Path, buffer: TextBuffer, decoder: StrictDecoder, name: str, unread: dict[str, None]) -> None:
    """Step over the value of a field that holds no rows, and name it unless it is empty."""
    value, end = read_value(path, buffer, decoder)
    if value not in (None, "", [], {}):
        unread[name] = None
    buffer.advance(end)


def _take_out(row: Row) -> Row:
    if not isinstance(row.value, Mapping) or not isinstance(row.value.get("row"), Mapping):
        return row
    cut = row.value.get("truncated_cells")
    if cut:
        raw = json.dumps(row.value, ensure_ascii=False)
        return Row(row.line, Drop("truncated_cells", ", ".join(map(str, cut))), raw)
    return Row(row.line, row.value["row"])


def read_column_rows(path: Path, chunks: Iterator[str], unread: dict[str, None]) -> Iterator[Row]:
    """Read the rows of an object of columns, or of rows by their ids. The whole object is held in memory.

    Args:
        path: The file, for messages.
        chunks: Its text.
        unread: Fields beside a list of columns and one of rows are added to it, but for the row numbers of pandas.
    """
    buffer, decoder = _open_object(chunks)
    buffer.peek()
    value, end = read_value(path, buffer, decoder)
    rows = to_rows(value)
    if decoder.errors or rows is None:
        reason = decoder.errors[0] if decoder.errors else "its columns differ in length"
        raise json_error(path, 1, reason)
    buffer.advance(end)
    expect_mark(path, buffer, "", "text after the end of the object")
    if _find_table(value) is not None:
        others = (name for name in value if name not in (*_TABLE_HEADINGS, *_TABLE_CELLS, "index"))
        unread |= {name: None for name in others if value[name] not in (None, "", [], {})}
    for row in rows:
        yield Row(1, row)


def _read_field_names(path: Path, buffer: TextBuffer, decoder: StrictDecoder) -> Iterator[str]:
    """Read the names of the fields of the object that comes next, up to the mark that closes it."""
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
        yield name
        mark = buffer.peek()
    buffer.pos += 1


# --- which it is ------------------------------------------------------------------------------------------------------


def detect_object(start: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Detect how one object holds rows, from the first characters of its text.

    Returns:
        ("json_wrapped", the field of the rows, the fields of the objects around it), ("json_columns", "", ()), or None
        if the object is a row itself.
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
        return "json_wrapped", field, ()
    if to_rows(value) is not None:
        return "json_columns", "", ()
    names = find_nested_rows(value)
    return ("json_wrapped", names[-1], names[:-1]) if names else None


def find_nested_rows(value: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the only list of rows in an object that lies below one or two objects in it; empty without any.

    An object with a text of its own, such as an instruction, is a row, and a list of turns is a conversation.

    Example:
        `("result", "list")` for {"code": 0, "result": {"total": 9, "list": [{"question": "a", "answer": "b"}, ...]}}
    """
    found = _list_nested_rows(value, ())
    return found[0] if found is not None and len(found) == 1 else ()


def _list_nested_rows(value: Mapping[str, Any], outer: tuple[str, ...]) -> list[tuple[str, ...]] | None:
    """The lists of rows in an object and below it; None if an object is a row itself."""
    found: list[tuple[str, ...]] = []
    for name, content in value.items():
        if name.lower() in _COLUMNS and isinstance(content, str) and content:
            return None
        if isinstance(content, list) and content and isinstance(content[0], dict | list):
            if not outer or not _are_nested_rows(name, content):
                return None
            found.append((*outer, name))
        elif isinstance(content, dict) and len(outer) < _MAX_OUTER:
            nested = _list_nested_rows(content, (*outer, name))
            if nested is None:
                return None
            found += nested
    return found


def _are_nested_rows(name: str, content: list[Any]) -> bool:
    """Whether a list below objects holds rows: objects that are no turns, or conversations that are lists of turns."""
    if name.lower() not in _ROWS_FIELDS | _NESTED_FIELDS:
        return False
    is_turns = isinstance(content[0], list)
    first = content[0][0] if is_turns and content[0] else content[0]
    return isinstance(first, dict) and bool(first) and any(key in first for key in _TURN_KEYS) is is_turns


def _detect_cut_object(start: str, decoder: json.JSONDecoder) -> tuple[str, str, tuple[str, ...]] | None:
    """Detect the same from the beginning of an object that goes on."""
    seen, name, begin = _read_beginning(start, decoder)
    if seen is None:
        return None
    earlier: dict[str, Any] = {}
    for field, value in seen.items():
        if _holds_rows(field, value, earlier):
            return "json_wrapped", field, ()
        earlier[field] = value
    if len(seen) > _MIN_ROWS and to_rows(seen) is not None:
        return "json_columns", "", ()
    if begin < 0:
        return None
    if start[begin : begin + 1] == "{":
        names = _find_cut_rows(start, begin, seen, (name,), decoder)
        return ("json_wrapped", names[-1], names[:-1]) if names else None
    if start[begin : begin + 1] != "[":
        return None
    first = _first_values(start, begin + 1, decoder)
    if _holds_rows(name, first, seen):
        return "json_wrapped", name, ()
    is_column = name.lower() in _COLUMNS and len(first) >= _MANY_VALUES and all(isinstance(item, str) for item in first)
    return ("json_columns", "", ()) if is_column else None


def _find_cut_rows(
    start: str, pos: int, before: Mapping[str, Any], outer: tuple[str, ...], decoder: json.JSONDecoder
) -> tuple[str, ...]:
    """Find rows as `find_nested_rows` does in an object that begins at `pos` and goes on; `before` stands before it."""
    seen, name, begin = _read_beginning(start[pos:], decoder)
    if len(outer) > _MAX_OUTER or seen is None or begin < 0 or _list_nested_rows(before, ()) != []:
        return ()
    if start[pos + begin] == "{":
        return _find_cut_rows(start, pos + begin, seen, (*outer, name), decoder)
    first = _first_values(start, pos + begin + 1, decoder) if start[pos + begin] == "[" else []
    is_only = _list_nested_rows(seen, outer) == [] and bool(first) and _are_nested_rows(name, first)
    return (*outer, name) if is_only else ()


def _read_beginning(start: str, decoder: json.JSONDecoder) -> tuple[dict[str, Any] | None, str, int]:
    """The fields of an object up to where its text breaks off, the field it breaks off in, and where that one's value
    begins, or -1; None for what is no object.
    """
    pos, begin, name = start.find("{") + 1, -1, ""
    seen: dict[str, Any] = {}
    while True:
        pos = _skip_blanks(start, pos)
        try:
            begin, (name, pos) = -1, decoder.raw_decode(start, pos)
            pos = _skip_blanks(start, pos)
            if not isinstance(name, str) or start[pos : pos + 1] != ":":
                return None, "", -1
            begin = _skip_blanks(start, pos + 1)
            value, pos = decoder.raw_decode(start, begin)
        except (ValueError, RecursionError):
            return seen, name, begin if start[begin : begin + 1] else -1
        seen[name] = value
        pos = _skip_blanks(start, pos)
        if start[pos : pos + 1] != ",":
            return (None if start[pos : pos + 1] else seen), "", -1
        pos += 1


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
    table = _find_table(value)
    if table is not None:
        names, cells = table
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
        return _name_rows(value) if _holds_dialogues(columns) else None
    if len(value) > 1 and keys == [str(number) for number in range(len(keys))] and len(keys) >= _MIN_ROWS:
        return _join_columns(value, [list(column.values()) for column in columns])
    if any(name.lower() in _COLUMNS for name in value):
        return None  # the fields of one row, which hold objects
    if len(value) >= _MIN_ROWS and (any(key.lower() in _COLUMNS for key in keys) or _holds_dialogues(columns)):
        return _name_rows(value)
    return None


def _name_rows(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects of an object as rows, each with its name as `id` unless it has one."""
    return [{**({} if "id" in row else {"id": name}), **row} for name, row in value.items()]


_DIALOGUES = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")


def _holds_dialogues(columns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every one of several objects has a list of what is said in it."""
    if len(columns) < _MIN_ROWS:
        return False
    names = [name for name in columns[0] if name.lower() in _DIALOGUES]
    return any(isinstance(column.get(name), list) and column[name] for name in names for column in columns[:1]) and all(
        any(isinstance(column.get(name), list) for name in names) for column in columns
    )


_TABLE_HEADINGS, _TABLE_CELLS = ("columns", "header"), ("data", "rows")


def _find_table(value: Mapping[str, Any]) -> tuple[list[Any], list[Any]] | None:
    """The names of columns and the lists of their cells; None for another object."""
    names = next((value[name] for name in _TABLE_HEADINGS if name in value), None)
    cells = next((value[name] for name in _TABLE_CELLS if name in value), None)
    return (names, cells) if isinstance(names, list) and isinstance(cells, list) and cells else None


def _join_columns(value: dict[str, Any], columns: list[list[Any]]) -> list[dict[str, Any]] | None:
    is_named = any(
        name.lower() in _COLUMNS and all(isinstance(cell, str) for cell in column)
        for name, column in zip(value, columns, strict=True)
    )
    if not is_named or len(columns[0]) < _MIN_ROWS or len({len(column) for column in columns}) > 1:
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
