"""Rows of JSON: one for each line, the elements of one list, or values one after another; read strictly.

Duplicate keys, NaN, Infinity, numbers out of range and nesting deeper than any record are errors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, tr
from hanlin.data.io.input_file import CHUNK_SIZE, InputFile
from hanlin.data.io.lines import MAX_LINE_LENGTH, Row, read_record_lines
from hanlin.data.ledger import Drop

MAX_DEPTH = 100
"""Levels of nesting in one row; records have fewer than ten, and much deeper ones exhaust Python's stack."""
_CLOSE_TO_END = 16
_SINGLE_QUOTES = ("'", "\u2018", "\u2019")
_COMMENT_MARKS = ("//", "/*", "#")


class StrictDecoder:
    """Decodes JSON strictly. Errors after which the end of the value is still known are collected in `errors`."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._number
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            names = [name for name, _ in pairs]
            duplicate = next(name for name in names if names.count(name) > 1)
            self.errors.append(f"duplicate key '{duplicate[:40]}'")
        return row

    def _constant(self, name: str) -> None:
        self.errors.append(f"{name} is not JSON")

    def _number(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            self.errors.append(f"the number {text[:40]} is too large")
        return value

    def decode(self, text: str, pos: int = 0) -> tuple[Any, int]:
        """Decode the value that begins at `pos`; return it and its end. Raises ValueError and RecursionError."""
        self.errors.clear()
        value, end = self._decoder.raw_decode(text, pos)
        marks = text.count("[", pos, end) + text.count("{", pos, end)
        if marks > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            self.errors.append("nested too deeply")
        return value, end

    def decode_row(self, text: str) -> Any:
        """Decode a text that is one value, or return a Drop that says why it is not.

        A byte order mark before it, as in files that were joined, and a comma after it or after the last element of a
        list or object in it are no errors: leaving such lines out would lose all rows but one.
        """
        try:
            value, end = self.decode(text, len(text) - len(text.lstrip(" \t\n\r\ufeff")))
        except (ValueError, RecursionError) as error:
            without = drop_trailing_commas(text)
            if without != text:
                return self.decode_row(without)
            return Drop("broken_json", describe_json_error(error))
        if text[end:].strip(" \t\n\r") not in ("", ","):
            column, pos = end + 1, end + len(text[end:]) - len(text[end:].lstrip(" \t\n\r,"))
            return Drop("broken_json", f"Extra data at column {column}{_name_mistake(text, pos)}")
        return Drop("broken_json", self.errors[0]) if self.errors else value


_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_COMMA_BEFORE_END = re.compile(r",\s*([}\]])")
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])')


def drop_trailing_commas(text: str) -> str:
    """Drop the commas before a closing bracket, outside of strings."""
    return _STRING_OR_COMMA.sub(lambda match: "" if match[0] == "," else match[0], text)


def _depth(value: Any) -> int:
    """Depth of nested lists and objects, computed without recursion and at most `MAX_DEPTH + 1`."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        depth += any(isinstance(item, dict | list) for item in level)
        level = [item for item in inner if isinstance(item, dict | list)]
    return depth


def describe_json_error(error: Exception) -> str:
    """Describe a JSON error, the same in every language."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}{_name_mistake(error.doc, error.pos)}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]


def _name_mistake(text: str, pos: int) -> str:
    """Name what stands at an error of a row for its Drop, the same in every language; empty if it is not known."""
    if text[pos : pos + 1] in _SINGLE_QUOTES:
        return ": single quotes"
    return ": a comment" if text.startswith(_COMMENT_MARKS, pos) else ""


def _explain_mistake(text: str, pos: int) -> str | None:
    """The way out of an error in JSON as other languages write it: single quotes, comments; None for any other."""
    if text[pos : pos + 1] in _SINGLE_QUOTES:
        return tr(
            "names and texts stand in double quotes in JSON, not in single ones; {example} of Python writes them so",
            example="json.dumps(rows, ensure_ascii=False)",
        )
    if text.startswith(_COMMENT_MARKS, pos):
        return tr("JSON has no comments: delete those that begin with {marks}", marks=join_list(_COMMENT_MARKS))
    return None


def read_jsonl_rows(input_file: InputFile, encoding: str, has_lone_cr: bool = False) -> Iterator[Row]:
    """Read JSON Lines: a row for each line that is not blank; a line that is not strict JSON becomes a Drop."""
    decoder = StrictDecoder()
    for row in read_record_lines(input_file, encoding, has_lone_cr):
        if isinstance(row.value, Drop):
            yield row
            continue
        if not row.value.strip():
            continue
        value = decoder.decode_row(row.value)
        if isinstance(value, Drop) and (joined := _split_joined(row.value, decoder)):
            yield from (Row(row.line, item) for item in joined)
        elif isinstance(value, str):
            yield from decode_twice(row.line, value)
        else:
            yield Row(row.line, value, row.value) if isinstance(value, Drop) else Row(row.line, value)


_BETWEEN_OBJECTS = re.compile(r"[ \t\r,\ufeff]*")


def _split_joined(text: str, decoder: StrictDecoder) -> list[dict[str, Any]]:
    """The objects that stand on one line, one behind the other; empty for any other line."""
    objects: list[dict[str, Any]] = []
    position = _skip_between(text, 0)
    while position < len(text):
        try:
            value, position = decoder.decode(text, position)
        except (ValueError, RecursionError):
            return []
        if not isinstance(value, dict) or decoder.errors:
            return []
        objects.append(value)
        position = _skip_between(text, position)
    return objects


def _skip_between(text: str, position: int) -> int:
    """The position behind the blanks and commas at `position`, without a copy of the text."""
    match = _BETWEEN_OBJECTS.match(text, position)
    return position if match is None else match.end()


def decode_twice(line: int, text: str) -> Iterator[Row]:
    """The rows in a text that is JSON itself, as of a program that encodes what is JSON already; else the text alone.

    Args:
        line: The line that the text is on.
        text: A row that is a text.
    """
    value: Any = text
    if text.lstrip()[:1] in ("{", "["):
        decoded = StrictDecoder().decode_row(text)
        is_row = isinstance(decoded, dict) and bool(decoded)
        is_list = isinstance(decoded, list) and bool(decoded) and all(isinstance(item, dict) for item in decoded)
        value = decoded if is_row or is_list else text
    if isinstance(value, list) and not any("role" in item or "from" in item for item in value):
        yield from (Row(line, item) for item in value)
    else:
        yield Row(line, value)


def read_json_rows(path: Path, chunks: Iterator[str], is_list: bool) -> Iterator[Row]:
    """Read the elements of one JSON list, or JSON values one after another, holding one at a time.

    Args:
        path: The file, for messages.
        chunks: Its text; chunks may end anywhere.
        is_list: Whether the values are the elements of one list.

    Raises:
        UserError: The text is not JSON, with file and line.
    """
    buffer = TextBuffer(chunks)
    if buffer.peek() == "\ufeff":
        buffer.pos += 1
    if not is_list:
        yield from read_values(path, buffer, StrictDecoder(), closing="")
    elif buffer.peek():
        buffer.pos += 1
        yield from read_values(path, buffer, StrictDecoder(), closing="]")
        expect_mark(path, buffer, "", "text after the end of the list")


def expect_mark(path: Path, buffer: TextBuffer, mark: str, message: str, consume: bool = True) -> None:
    """Check that `mark` comes next, and step over it if `consume`. Raises UserError with `message`."""
    if buffer.peek() != mark:
        raise json_error(path, buffer.line_at(buffer.pos), message, _explain_mistake(buffer.text, buffer.pos))
    buffer.pos += len(mark) if consume else 0


def read_values(path: Path, buffer: TextBuffer, decoder: StrictDecoder, closing: str) -> Iterator[Row]:
    """Read values with commas between them, up to the mark that closes their list or to the end of the file."""
    if closing and buffer.peek() == closing:
        buffer.pos += 1
        return
    while mark := buffer.peek():
        if mark == closing:
            buffer.pos += 1
            return
        value, end = read_value(path, buffer, decoder)
        if decoder.errors:
            yield Row(buffer.line_at(buffer.pos), Drop("broken_json", decoder.errors[0]), buffer.text[buffer.pos : end])
        elif isinstance(value, str):
            yield from decode_twice(buffer.line_at(buffer.pos), value)
        else:
            yield Row(buffer.line_at(buffer.pos), value)
        buffer.advance(end)
        mark = buffer.peek()
        if not closing:
            buffer.pos += mark == ","
            continue
        buffer.pos += 1
        if mark == closing:
            return
        if mark != ",":
            hint = _explain_mistake(buffer.text, buffer.pos - 1)
            line = buffer.line_at(buffer.pos - 1)
            raise json_error(path, line, "the list is not closed" if not mark else "no comma", hint)
    if closing:
        raise json_error(path, buffer.line_at(buffer.pos), "the list is not closed")


def read_value(path: Path, buffer: TextBuffer, decoder: StrictDecoder) -> tuple[Any, int]:
    """Read the next value, as much text as it takes; return it and where it ends in the buffer."""
    while True:
        try:
            value, end = decoder.decode(buffer.text, buffer.pos)
            if end < len(buffer.text) or not buffer.read_more():
                return value, end
        except json.JSONDecodeError as error:
            if len(buffer.text) - buffer.pos > MAX_LINE_LENGTH:
                message = f"a value of more than {MAX_LINE_LENGTH} characters"
                raise json_error(path, buffer.line_at(buffer.pos), message) from error
            if not (is_truncated(error, len(buffer.text)) and buffer.read_more()):
                place = _find_end_after_comma(buffer.text, error.pos)
                if place is not None and (found := _read_with_commas(buffer, decoder)) is not None:
                    return found
                message = error.msg if place is None else f"a comma before {buffer.text[place]}"
                hint = _explain_mistake(buffer.text, error.pos)
                raise json_error(path, buffer.line_at(error.pos if place is None else place), message, hint) from error
        except (ValueError, RecursionError) as error:
            raise json_error(path, buffer.line_at(buffer.pos), describe_json_error(error)) from error


def _read_with_commas(buffer: TextBuffer, decoder: StrictDecoder) -> tuple[Any, int] | None:
    """Read the next value without its commas before closing brackets; None if that does not help."""
    while (end := _find_end(buffer.text, buffer.pos)) is None:
        if len(buffer.text) - buffer.pos > MAX_LINE_LENGTH or not buffer.read_more():
            return None
    try:
        return decoder.decode(drop_trailing_commas(buffer.text[buffer.pos : end]))[0], end
    except (ValueError, RecursionError):
        return None


def _find_end(text: str, start: int) -> int | None:
    """Where the list or object ends that begins at `start`; None if the text ends before it."""
    depth = 0
    for match in _BRACKET.finditer(text, start):
        depth += (match[0] in "{[") - (match[0] in "}]")
        if depth == 0 and len(match[0]) == 1:
            return match.end()
    return None


def _find_end_after_comma(text: str, position: int) -> int | None:
    """Where the } or ] is that a comma stands before: at an error, or since Python 3.13 behind it."""
    comma = text.rfind(",", 0, position + 1)
    found = _COMMA_BEFORE_END.match(text, comma) if comma >= 0 else None
    return found.start(1) if found is not None and found.start(1) >= position else None


def is_truncated(error: json.JSONDecodeError, size: int) -> bool:
    """Whether more text could resolve the error: it is at the very end of the text, or in an unterminated string.

    Args:
        error: The error of a text that may go on.
        size: Characters of the text.
    """
    return error.pos >= size - _CLOSE_TO_END or error.msg.startswith("Unterminated string")


def json_error(path: Path, line: int, message: str, hint: str | None = None) -> UserError:
    """The error of a file that is not JSON, with the line of the mistake and the way out if it is known."""
    return UserError(tr("not JSON: {value}", value=message), f"{path}:{line}", hint)


class TextBuffer:
    """A window on text that comes in chunks; `pos` is the next character to read, and lines are counted from 1."""

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self.text = ""
        self.pos = 0
        self._line = 1
        self._counted_to = 0

    def read_more(self) -> bool:
        """Read about as much text as is unread in the buffer; False at the end of the file."""
        added = []
        size = 0
        for chunk in self._chunks:
            added.append(chunk)
            size += len(chunk)
            if size >= max(CHUNK_SIZE, len(self.text) - self.pos):
                break
        self.text += "".join(added)
        return bool(size)

    def peek(self) -> str:
        """Skip white space; return the next character, or an empty text at the end of the file."""
        while True:
            while self.pos < len(self.text):
                if self.text[self.pos] not in " \t\n\r":
                    return self.text[self.pos]
                self.pos += 1
            if not self.read_more():
                return ""

    def advance(self, pos: int) -> None:
        """Move to `pos`; text before it is discarded once it is large."""
        self.pos = pos
        if pos >= CHUNK_SIZE:
            self.line_at(pos)
            self.text, self.pos, self._counted_to = self.text[pos:], 0, 0

    def line_at(self, pos: int) -> int:
        """The line of a position, which must not be before that of an earlier call."""
        self._line += self.text.count("\n", self._counted_to, pos)
        self._counted_to = max(pos, self._counted_to)
        return self._line
