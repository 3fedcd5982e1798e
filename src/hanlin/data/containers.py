"""From a file's bytes to rows: lines, text, JSON in its several layouts, CSV and Parquet, one row at a time.

Owns where a row begins and ends and on which line. Does not own what a row means (`documents`, `chats`, `pairs`).
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.data.encodings import CHUNK, Tape, check_encoding, decoded, encoding_of, look
from hanlin.data.ledger import Drop
from hanlin.data.sources import SourceFile
from hanlin.errors import UserError
from hanlin.language import say

LONGEST_TEXT = 4_000_000
_BY_LINE = (".jsonl", ".ndjson", ".jl", ".jsonlines")
_LOOK = 1 << 18
_CLOSE_TO_END = 16
_HEADING = re.compile(
    r"^\s*(?:第[零〇一二三四五六七八九十百千两\d]{1,9}[章回节卷集部篇]|chapter\s+[\divxlc]+\b)", re.I | re.M
)
_HTML = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_SENTENCE_ENDS = tuple("。！？；…”」』.!?;:：\"'’)）》")
_BLANK = re.compile(r"\n[ \t\u3000]*(?:\n[ \t\u3000]*)+")


@dataclass(frozen=True, slots=True)
class Row:
    """What stands at `line` (from 1) of a file; a Drop, with the raw text, where it could not be read."""

    line: int
    value: Any
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a file lie: `container` is text, text_blocks, text_lines, jsonl, json_list, json_objects, csv,
    tsv or parquet."""

    container: str
    encoding: str


def layout_of(file: SourceFile) -> Layout:
    """Look at a file and say how its rows lie. Raises UserError when that cannot be told."""
    asked = file.settings.format
    if file.suffix == ".parquet":
        return Layout("parquet", "binary")
    encoding = _encoding(file)
    if asked.startswith("text"):
        return Layout(asked, encoding)
    if file.suffix in (".csv", ".tsv"):
        return Layout(file.suffix[1:], encoding)
    head = look(file.path, encoding, _LOOK).replace("\r\n", "\n").replace("\r", "\n")
    return Layout(_container(head, file.suffix), encoding)


def rows_of(file: SourceFile, layout: Layout, tape: Tape) -> Iterator[Row]:
    """The rows of a file in order.

    A broken line of JSON Lines, of CSV or of line-by-line text comes as a Drop. In the other layouts what follows a
    break cannot be told apart, so it raises UserError (file and line, or byte).
    """
    if layout.container == "parquet":
        return _parquet_rows(file.path)
    if layout.container == "jsonl":
        return _jsonl_rows(tape, layout.encoding)
    if layout.container == "text_lines":
        return (row for row in _lines(tape, layout.encoding) if isinstance(row.value, Drop) or row.value.strip())
    if layout.container == "json_list":
        return _json_rows(file.path, decoded(tape, layout.encoding), listed=True)
    if layout.container == "json_objects":
        return _json_rows(file.path, decoded(tape, layout.encoding), listed=False)
    if layout.container in ("csv", "tsv"):
        return _csv_rows(file.path, decoded(tape, layout.encoding), "\t" if layout.container == "tsv" else ",")
    return _text_rows(decoded(tape, layout.encoding), blocks=layout.container == "text_blocks")


def _encoding(file: SourceFile) -> str:
    if file.settings.encoding != "auto":
        return check_encoding(file.settings.encoding, file.path)
    return encoding_of(file.path)


# --- which layout -------------------------------------------------------------------------------------------------


def _container(head: str, suffix: str) -> str:
    start = head.lstrip("\ufeff \t\n")
    if suffix == ".json" or suffix in _BY_LINE:
        return _json_layout(start, suffix)
    if suffix not in (".md", ".markdown", ".html", ".htm") and start[:1] in ("{", "["):
        layout = _json_layout(start, suffix)
        if _opens_as_json(start, layout):
            return layout
    return text_layout(head, suffix)


def _json_layout(start: str, suffix: str) -> str:
    line, _, rest = start.partition("\n")
    try:
        whole = json.loads(line)
    except ValueError:
        if start.startswith("["):
            return "json_list"
        return "jsonl" if any(map(_is_object, rest.split("\n", 5)[:5])) else "json_objects"
    rest = rest.lstrip()
    if not isinstance(whole, list) or rest:
        return "jsonl"
    return "jsonl" if suffix in _BY_LINE and _is_conversation(whole) else "json_list"


def _is_conversation(row: list[Any]) -> bool:
    """Whether a list is one row that says something in turns, rather than a list of rows."""
    return all(isinstance(turn, str) or (isinstance(turn, dict) and ("role" in turn or "from" in turn)) for turn in row)


def _is_object(line: str) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and len(value) > 0


def _opens_as_json(start: str, layout: str) -> bool:
    if layout == "jsonl":
        return True
    text = start[1:].lstrip() if layout == "json_list" else start
    try:
        json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return _cut_short(error, len(text))
    return True


def text_layout(head: str, suffix: str) -> str:
    """Whether plain text is one document, blocks between blank lines, or one document per line.

    Told from its first quarter of a million characters. A piece on its own must be long enough to be a document: 100
    Chinese characters for the median block, 150 for the mean line (a Latin letter counts 0.4 of a Chinese character).
    Shorter pieces are paragraphs, verses or sentences, whose order is worth keeping. So are the paragraphs of a book:
    of a text whose lines are broken within sentences, or with chapter headings that do not open its blocks.
    """
    if suffix in (".md", ".markdown", ".html", ".htm") or _HTML.match(head):
        return "text"
    lines = head.split("\n")
    filled = [line for line in lines if line.strip()]
    if len(filled) < 2:
        return "text"
    blank = 1 - len(filled) / max(1, len(lines) - head.endswith("\n"))
    if blank >= 0.02:
        return "text_blocks" if _are_documents([block for block in _BLANK.split(head) if block.strip()]) else "text"
    if len(_HEADING.findall(head)) > 1:
        return "text"
    return "text_lines" if statistics.fmean(map(_width, filled)) >= 150 else "text"


def _are_documents(blocks: list[str]) -> bool:
    if len(blocks) < 2 or statistics.median(map(_width, blocks)) < 100:
        return False
    headings = sum(len(_HEADING.findall(block)) for block in blocks)
    if headings > 1 and 2 * sum(bool(_HEADING.match(block)) for block in blocks) < len(blocks):
        return False
    inner = [line.rstrip() for block in blocks for line in block.strip().split("\n")[:-1]]
    broken = sum(not line.endswith(_SENTENCE_ENDS) for line in inner)
    return len(inner) < len(blocks) or 10 * broken < 7 * len(inner) or max(map(_width, inner)) > 50


def _width(text: str) -> float:
    narrow = len(text.encode("ascii", "ignore"))
    return 0.4 * narrow + (len(text) - narrow)


# --- text ---------------------------------------------------------------------------------------------------------


def _lines(tape: Tape, encoding: str) -> Iterator[Row]:
    """Lines without their ends. A line that cannot be decoded comes as a Drop, where lines can be told apart at all."""
    if encoding.startswith(("utf-16", "utf-32")):
        yield from _wide_lines(decoded(tape, encoding))
        return
    offset = 0
    for number, line in enumerate(tape.lines(), start=1):
        try:
            text = line.decode(encoding if number == 1 else encoding.removesuffix("-sig"))
        except UnicodeDecodeError as error:
            raw = line.decode(encoding, "backslashreplace").rstrip("\r\n")
            yield Row(number, Drop("undecodable", f"byte {offset + error.start}"), raw)
        else:
            yield Row(number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n"))
        offset += len(line)


def _wide_lines(pieces: Iterator[str]) -> Iterator[Row]:
    number = 0
    open_line: list[str] = []
    for piece in pieces:
        first, *others = piece.split("\n")
        open_line.append(first)
        for other in others:
            number += 1
            yield Row(number, "".join(open_line).rstrip("\r"))
            open_line = [other]
    if any(open_line):
        yield Row(number + 1, "".join(open_line).rstrip("\r"))


def _text_rows(pieces: Iterator[str], blocks: bool) -> Iterator[Row]:
    """The text as one row, or as one row for each block between blank lines; what is longer than `LONGEST_TEXT`
    characters is cut at line ends, so that no file has to be held in memory."""
    kept: list[str] = []
    first, size = 1, 0
    for row in _wide_lines(_one_line_end(pieces)):
        ends = blocks and not row.value.strip()
        if (ends or size >= LONGEST_TEXT) and kept:
            text = "\n".join(kept)
            if text.strip():
                yield Row(first, text)
            kept, size = [], 0
        if not kept:
            first = row.line
        if not ends:
            kept.append(row.value)
            size += len(row.value) + 1
    text = "\n".join(kept)
    if text.strip():
        yield Row(first, text)


def _one_line_end(pieces: Iterator[str]) -> Iterator[str]:
    """Windows and old Macintosh line ends as `\\n`, also where a pair is split between two pieces."""
    held = ""
    for piece in pieces:
        piece = held + piece
        held = "\r" if piece.endswith("\r") else ""
        yield piece[: len(piece) - len(held)].replace("\r\n", "\n").replace("\r", "\n")
    if held:
        yield "\n"


# --- JSON ---------------------------------------------------------------------------------------------------------


def _jsonl_rows(tape: Tape, encoding: str) -> Iterator[Row]:
    for row in _lines(tape, encoding):
        if isinstance(row.value, Drop):
            yield row
            continue
        if not row.value.strip():
            continue
        try:
            yield Row(row.line, json.loads(row.value))
        except (ValueError, RecursionError) as error:
            yield Row(row.line, Drop("broken_json", _json_message(error)), row.value)


def _json_message(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _json_rows(path: Path, pieces: Iterator[str], listed: bool) -> Iterator[Row]:
    """The elements of one JSON list, or JSON values one after another, without holding more than one at a time."""
    buffer = _Buffer(pieces)
    if buffer.peek() == "\ufeff":
        buffer.at += 1
    if listed and buffer.peek():
        buffer.at += 1
        if buffer.peek() == "]":
            return
    decode = json.JSONDecoder().raw_decode
    while buffer.peek():
        while True:
            try:
                value, end = decode(buffer.text, buffer.at)
                if end < len(buffer.text) or not buffer.more():
                    break
            except json.JSONDecodeError as error:
                if not (_cut_short(error, len(buffer.text)) and buffer.more()):
                    raise _broken(path, buffer.line_at(error.pos), error.msg) from error
            except (ValueError, RecursionError) as error:
                raise _broken(path, buffer.line_at(buffer.at), _json_message(error)) from error
        yield Row(buffer.line_at(buffer.at), value)
        buffer.move(end)
        mark = buffer.peek()
        if not listed:
            if mark == ",":
                buffer.at += 1
            continue
        buffer.at += 1
        if mark == "]":
            if buffer.peek():
                raise _broken(path, buffer.line_at(buffer.at), "text after the end of the list")
            return
        if mark != ",":
            raise _broken(path, buffer.line_at(buffer.at - 1), "the list is not closed" if not mark else "no comma")
        if not buffer.peek():
            raise _broken(path, buffer.line_at(buffer.at), "the list is not closed")
    if listed:
        raise _broken(path, buffer.line_at(buffer.at), "the list is not closed")


def _cut_short(error: json.JSONDecodeError, size: int) -> bool:
    """Whether more text could mend the error: it lies at the very end, or in a string that is not closed."""
    return error.pos >= size - _CLOSE_TO_END or error.msg.startswith("Unterminated string")


def _broken(path: Path, line: int, message: str) -> UserError:
    return UserError(say(f"not JSON: {message}", f"不是合法 JSON：{message}"), f"{path}:{line}")


class _Buffer:
    """A window on text that comes in pieces; `at` is where reading stands, and lines are counted from 1."""

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
            if size >= max(CHUNK, len(self.text) - self.at):
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
        if at >= CHUNK:
            self.line_at(at)
            self.text, self.at, self._counted = self.text[at:], 0, 0

    def line_at(self, at: int) -> int:
        """The line of a place that is not before one asked for earlier."""
        self._line += self.text.count("\n", self._counted, at)
        self._counted = max(at, self._counted)
        return self._line


# --- tables -------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, pieces: Iterator[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line.value for line in _wide_lines_with_ends(pieces)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            if header is None:
                header = [cell.lstrip("\ufeff").strip() for cell in cells]
            elif cells and len(cells) != len(header):
                detail = f"{len(cells)} columns instead of {len(header)}"
                yield Row(line, Drop("broken_csv", detail), json.dumps(cells, ensure_ascii=False))
            elif cells:
                yield Row(line, dict(zip(header, cells, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(say(f"not CSV: {error}", f"不是合法 CSV：{error}"), f"{path}:{line}") from error


def _wide_lines_with_ends(pieces: Iterator[str]) -> Iterator[Row]:
    for row in _wide_lines(_one_line_end(pieces)):
        yield Row(row.line, row.value + "\n")


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(
            say("pyarrow is needed to read Parquet", "读取 Parquet 需要 pyarrow"), path, "pip install pyarrow"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, value)
    except (ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(say(f"not Parquet: {first}", f"不是合法 Parquet：{first}"), path) from error
