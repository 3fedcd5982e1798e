"""Rows of plain text: lines, blocks between blank lines, or whole texts, each with the line that it begins on.

Line ends are normalized here, and lines and texts are bounded so that memory does not grow with a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hanlin.data.io.encodings import decode_chunks
from hanlin.data.io.input_file import InputFile
from hanlin.data.ledger import Drop

MAX_DOCUMENT_CHARS = 4_000_000
"""Characters of one document; a longer text is split into parts."""
MAX_LINE_LENGTH = 1 << 26
"""Bytes (in wide encodings and in JSON characters) of one line that is a record; a longer one is not read."""
_MAX_RAW_CHARS = 200
_SENTENCE_ENDS = "。！？；!?;\n"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file.

    Attributes:
        line: The line that it begins on, from 1.
        value: A text or JSON value, or a Drop if the row cannot be read.
        raw: The text of a row that cannot be read, or the row in the file of which `value` holds one language.
        unread: Names of the columns that `value` was left without.
        language: The language that was chosen of several.
    """

    line: int
    value: Any
    raw: Any = ""
    unread: tuple[str, ...] = ()
    language: str = ""


def read_record_lines(input_file: InputFile, encoding: str, has_lone_cr: bool = False) -> Iterator[Row]:
    """Read lines that are records, without their line ends.

    Lines are counted from the start of the file's byte range. A line that cannot be decoded, or is longer than
    `MAX_LINE_LENGTH` bytes, becomes a Drop. In UTF-16 and UTF-32 an undecodable byte raises UserError, because the
    following lines cannot be told apart, and so it does in a file whose lines end with a carriage return alone
    (`has_lone_cr`).
    """
    if has_lone_cr or encoding.startswith(("utf-16", "utf-32")):
        chunks = decode_chunks(input_file, encoding)
        yield from _drop_overlong_lines(bounded_lines(normalize_newlines(chunks) if has_lone_cr else chunks))
        return
    for line_number, (line, length, offset) in enumerate(input_file.lines(MAX_LINE_LENGTH), start=1):
        if length > len(line):
            raw = line[:_MAX_RAW_CHARS].decode(encoding, "backslashreplace")
            yield Row(line_number, Drop("line_too_long", f"{length} bytes"), raw)
        else:
            yield _decode_line(line_number, line, encoding, offset)


def _decode_line(line_number: int, line: bytes, encoding: str, offset: int) -> Row:
    try:
        text = line.decode(encoding if offset == 0 else encoding.removesuffix("-sig"))
    except UnicodeDecodeError as error:
        raw = line.decode(encoding, "backslashreplace").rstrip("\r\n")
        return Row(line_number, Drop("undecodable", f"byte {offset + error.start}"), raw)
    return Row(line_number, (text.removeprefix("\ufeff") if offset == 0 else text).rstrip("\r\n"))


def _drop_overlong_lines(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        if len(row.value) > MAX_LINE_LENGTH:
            yield Row(row.line, Drop("line_too_long", f"{len(row.value)} characters"), row.value[:_MAX_RAW_CHARS])
        else:
            yield row


def bounded_lines(chunks: Iterator[str], max_chars: int | None = None) -> Iterator[Row]:
    """Split chunks of text into lines.

    Args:
        chunks: The text; chunks may end anywhere.
        max_chars: A longer line is split into parts, after a sentence if possible; all have the line's number. None:
            lines are not split.
    """
    line_number, size = 0, 0
    open_parts: list[str] = []
    for chunk in chunks:
        first_line, *rest = chunk.split("\n")
        open_parts.append(first_line)
        size += len(first_line)
        if max_chars is not None and size > max_chars:
            line = "".join(open_parts)
            while len(line) > max_chars:
                offset = _find_cut(line, max_chars)
                yield Row(line_number + 1, line[:offset])
                line = line[offset:]
            open_parts, size = [line], len(line)
        for text in rest:
            line_number += 1
            yield Row(line_number, "".join(open_parts).rstrip("\r"))
            open_parts, size = [text], len(text)
    if any(open_parts):
        yield Row(line_number + 1, "".join(open_parts).rstrip("\r"))


def _find_cut(text: str, max_chars: int) -> int:
    start = max_chars - min(max_chars // 2, 10_000)
    return max((text.rfind(mark, start, max_chars) for mark in _SENTENCE_ENDS), default=-1) + 1 or max_chars


def read_text_rows(chunks: Iterator[str], blocks: bool) -> Iterator[Row]:
    """Read a text as one row, or as one row for each block between blank lines.

    A text of more than `MAX_DOCUMENT_CHARS` characters is split at line ends (within a long line, after a sentence),
    so that no file has to be held in memory.

    Args:
        chunks: The text; chunks may end anywhere.
        blocks: Whether blank lines separate rows.
    """
    lines: list[str] = []
    first_line, last_line, size = 1, 0, 0
    for row in bounded_lines(normalize_newlines(chunks), MAX_DOCUMENT_CHARS):
        is_continued = row.line == last_line
        last_line = row.line
        is_separator = blocks and not row.value.strip()
        if (is_separator or is_continued or size >= MAX_DOCUMENT_CHARS) and lines:
            text = "\n".join(lines)
            if text.strip():
                yield Row(first_line, text)
            lines, size = [], 0
        if not lines:
            first_line = row.line
        if not is_separator:
            lines.append(row.value)
            size += len(row.value) + 1
    text = "\n".join(lines)
    if text.strip():
        yield Row(first_line, text)


def normalize_newlines(chunks: Iterator[str]) -> Iterator[str]:
    r"""Replace `\r\n` and `\r` by `\n`, also if a pair is split between two chunks."""
    pending = ""
    for chunk in chunks:
        chunk = pending + chunk
        pending = "\r" if chunk.endswith("\r") else ""
        yield chunk[: len(chunk) - len(pending)].replace("\r\n", "\n").replace("\r", "\n")
    if pending:
        yield "\n"
