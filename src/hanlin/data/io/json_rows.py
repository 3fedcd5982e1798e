"""Rows of JSON: one per line, the elements of one list, or values one after another; read strictly.

Owns what is JSON: a key that stands twice, NaN and Infinity, and nesting beyond any record are errors, each with a
name. Does not own what a row means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.io.input_file import CHUNK_SIZE, InputFile
from hanlin.data.io.lines import MAX_LINE_LENGTH, Row, read_record_lines
from hanlin.data.ledger import Drop

MAX_DEPTH = 100
"""Levels of lists and objects in one row; records have fewer than ten, and deeper ones exhaust Python's stack."""
_CLOSE_TO_END = 16


class StrictDecoder:
    """JSON text to data. Faults that still leave the end of a value known are gathered in `errors`."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._number
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            self.errors.append(f"the key '{twice[:40]}' stands twice")
        return row

    def _constant(self, name: str) -> None:
        self.errors.append(f"{name} is no JSON")

    def _number(self, text: str) -> float:
        number = float(text)
        if math.isinf(number):
            self.errors.append(f"the number {text[:40]} is too large")
        return number

    def decode(self, text: str, at: int = 0) -> tuple[Any, int]:
        """The value that begins at `at`, and where it ends. Raises ValueError and RecursionError like `json`."""
        self.errors.clear()
        value, end = self._decoder.raw_decode(text, at)
        marks = text.count("[", at, end) + text.count("{", at, end)
        if marks > MAX_DEPTH and _depth(value) > MAX_DEPTH:
            self.errors.append("nested too deeply")
        return value, end

    def decode_row(self, text: str) -> Any:
        """The one value of a text, or a Drop that says why it has none."""
        try:
            value, end = self.decode(text, len(text) - len(text.lstrip(" \t\n\r")))
        except (ValueError, RecursionError) as error:
            return Drop("broken_json", describe_json_error(error))
        if text[end:].strip(" \t\n\r"):
            return Drop("broken_json", f"Extra data at column {end + 1}")
        return Drop("broken_json", self.errors[0]) if self.errors else value


def _depth(value: Any) -> int:
    """How deeply lists and objects stand in one another, found without recursion."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        depth += any(isinstance(item, dict | list) for item in level)
        level = [item for item in inner if isinstance(item, dict | list)]
    return depth


def describe_json_error(error: Exception) -> str:
    """What is wrong with a text, in words that depend on no locale."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]


def read_jsonl_rows(tape: InputFile, encoding: str) -> Iterator[Row]:
    """A row for each line that is not blank; a line that is not strict JSON comes as a Drop."""
    strict = StrictDecoder()
    for row in read_record_lines(tape, encoding):
        if isinstance(row.value, Drop):
            yield row
            continue
        if not row.value.strip():
            continue
        value = strict.decode_row(row.value)
        yield Row(row.line, value, row.value) if isinstance(value, Drop) else Row(row.line, value)


def read_json_rows(path: Path, pieces: Iterator[str], is_list: bool) -> Iterator[Row]:
    """The elements of one JSON list, or JSON values one after another, without holding more than one at a time."""
    buffer = _TextBuffer(pieces)
    if buffer.peek() == "\ufeff":
        buffer.at += 1
    if not is_list:
        yield from _read_values(path, buffer, StrictDecoder(), closed="")
    elif buffer.peek():
        buffer.at += 1
        yield from _read_values(path, buffer, StrictDecoder(), closed="]")
        _expect(path, buffer, "", "text after the end of the list")


def read_split_rows(path: Path, pieces: Iterator[str]) -> Iterator[Row]:
    """The rows of all splits in `{"train": [...], "valid": [...]}`, without holding more than one row at a time."""
    buffer, strict = _TextBuffer(pieces), StrictDecoder()
    if buffer.peek() == "\ufeff":
        buffer.at += 1
    mark = "{"
    seen: set[str] = set()
    while mark != "}":
        _expect(path, buffer, "{" if not seen else ",", "no comma")
        _expect(path, buffer, '"', "a split has no name", keep=True)
        name, end = _read_value(path, buffer, strict)
        if name in seen:
            raise _json_error(path, buffer.line_at(buffer.at), f"the key '{name}' stands twice")
        seen.add(name)
        buffer.move(end)
        _expect(path, buffer, ":", "no colon")
        _expect(path, buffer, "[", f"'{name}' is no list")
        yield from _read_values(path, buffer, strict, closed="]")
        mark = buffer.peek()
    buffer.at += 1
    _expect(path, buffer, "", "text after the end of the object")


def _expect(path: Path, buffer: _TextBuffer, mark: str, otherwise: str, keep: bool = False) -> None:
    """Step over this mark, or raise UserError."""
    if buffer.peek() != mark:
        raise _json_error(path, buffer.line_at(buffer.at), otherwise)
    buffer.at += 0 if keep else len(mark)


def _read_values(path: Path, buffer: _TextBuffer, strict: StrictDecoder, closed: str) -> Iterator[Row]:
    """Values with commas between them up to the mark that closes their list, or to the end of the file."""
    if closed and buffer.peek() == closed:
        buffer.at += 1
        return
    while buffer.peek():
        value, end = _read_value(path, buffer, strict)
        if strict.errors:
            yield Row(buffer.line_at(buffer.at), Drop("broken_json", strict.errors[0]), buffer.text[buffer.at : end])
        else:
            yield Row(buffer.line_at(buffer.at), value)
        buffer.move(end)
        mark = buffer.peek()
        if not closed:
            buffer.at += mark == ","
            continue
        buffer.at += 1
        if mark == closed:
            return
        if mark != ",":
            raise _json_error(path, buffer.line_at(buffer.at - 1), "the list is not closed" if not mark else "no comma")
    if closed:
        raise _json_error(path, buffer.line_at(buffer.at), "the list is not closed")


def _read_value(path: Path, buffer: _TextBuffer, strict: StrictDecoder) -> tuple[Any, int]:
    """The value that begins here and where it ends, read on as far as it takes."""
    while True:
        try:
            value, end = strict.decode(buffer.text, buffer.at)
            if end < len(buffer.text) or not buffer.more():
                return value, end
        except json.JSONDecodeError as error:
            if len(buffer.text) - buffer.at > MAX_LINE_LENGTH:
                message = f"a value of more than {MAX_LINE_LENGTH} characters"
                raise _json_error(path, buffer.line_at(buffer.at), message) from error
            if not (is_truncated(error, len(buffer.text)) and buffer.more()):
                raise _json_error(path, buffer.line_at(error.pos), error.msg) from error
        except (ValueError, RecursionError) as error:
            raise _json_error(path, buffer.line_at(buffer.at), describe_json_error(error)) from error


def is_truncated(error: json.JSONDecodeError, size: int) -> bool:
    """Whether more text could mend the error: it lies at the very end, or in a string that is not closed."""
    return error.pos >= size - _CLOSE_TO_END or error.msg.startswith("Unterminated string")


def _json_error(path: Path, line: int, message: str) -> UserError:
    return UserError(say(f"not JSON: {message}", f"不是合法 JSON：{message}"), f"{path}:{line}")


class _TextBuffer:
    """A window on text that comes in pieces; `at` is where reading stands, and lines are key_settings from 1."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self.text = ""
        self.at = 0
        self._line = 1
        self._counted = 0

    def more(self) -> bool:
        """Add about as much text as is there; False at the end of the file."""
        added = []
        size = 0
        for piece in self._pieces:
            added.append(piece)
            size += len(piece)
            if size >= max(CHUNK_SIZE, len(self.text) - self.at):
                break
        self.text += "".join(added)
        return bool(size)

    def peek(self) -> str:
        """The next character that is no white space, or nothing at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\n\r":
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                return ""

    def move(self, at: int) -> None:
        """Go on at `at`; what lies before is forgotten once it is large."""
        self.at = at
        if at >= CHUNK_SIZE:
            self.line_at(at)
            self.text, self.at, self._counted = self.text[at:], 0, 0

    def line_at(self, at: int) -> int:
        """The line of a place that is not before one asked for earlier."""
        self._line += self.text.count("\n", self._counted, at)
        self._counted = max(at, self._counted)
        return self._line
