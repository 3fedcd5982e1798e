"""Rows of plain text: lines, blocks between blank lines, whole texts, each with the line that it begins on.

Owns line ends and the bounds of what is held in memory at once. Does not own what a row means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hanlin.data.io.encodings import decode_chunks
from hanlin.data.io.input_file import InputFile
from hanlin.data.ledger import Drop

MAX_DOCUMENT_CHARS = 4_000_000
"""Characters of one document; a longer text comes in parts."""
MAX_LINE_LENGTH = 1 << 26
"""Bytes of one line that is a record of its own; a longer one is not read."""
_MAX_RAW_CHARS = 200
_SENTENCE_ENDS = "。！？；!?;\n"


@dataclass(frozen=True, slots=True)
class Row:
    """What stands at `line` (from 1) of a file; a Drop, with the raw text, where it could not be read."""

    line: int
    value: Any
    raw: str = ""


def read_record_lines(tape: InputFile, encoding: str) -> Iterator[Row]:
    """Lines that are records, without their ends; of a span they are key_settings from where it begins.

    A line that cannot be decoded, or is longer than `LONGEST_LINE` bytes, comes as a Drop, where lines can be told
    apart at all.
    """
    if encoding.startswith(("utf-16", "utf-32")):
        yield from _drop_overlong_lines(bounded_lines(decode_chunks(tape, encoding)))
        return
    for number, (line, length, at) in enumerate(tape.lines(MAX_LINE_LENGTH), start=1):
        if length > len(line):
            raw = line[:_MAX_RAW_CHARS].decode(encoding, "backslashreplace")
            yield Row(number, Drop("line_too_long", f"{length} bytes"), raw)
        else:
            yield _decode_line(number, line, encoding, at)


def _decode_line(number: int, line: bytes, encoding: str, at: int) -> Row:
    try:
        text = line.decode(encoding if at == 0 else encoding.removesuffix("-sig"))
    except UnicodeDecodeError as error:
        raw = line.decode(encoding, "backslashreplace").rstrip("\r\n")
        return Row(number, Drop("undecodable", f"byte {at + error.start}"), raw)
    return Row(number, (text.removeprefix("\ufeff") if at == 0 else text).rstrip("\r\n"))


def _drop_overlong_lines(rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        if len(row.value) > MAX_LINE_LENGTH:
            yield Row(row.line, Drop("line_too_long", f"{len(row.value)} characters"), row.value[:_MAX_RAW_CHARS])
        else:
            yield row


def bounded_lines(pieces: Iterator[str], longest: int | None = None) -> Iterator[Row]:
    """The lines of text that comes in pieces; a line beyond `longest` characters comes in parts, cut after a sentence
    where there is one, and each part has the line's number."""
    number, size = 0, 0
    open_line: list[str] = []
    for piece in pieces:
        first, *others = piece.split("\n")
        open_line.append(first)
        size += len(first)
        if longest is not None and size > longest:
            whole = "".join(open_line)
            while len(whole) > longest:
                at = _find_cut(whole, longest)
                yield Row(number + 1, whole[:at])
                whole = whole[at:]
            open_line, size = [whole], len(whole)
        for other in others:
            number += 1
            yield Row(number, "".join(open_line).rstrip("\r"))
            open_line, size = [other], len(other)
    if any(open_line):
        yield Row(number + 1, "".join(open_line).rstrip("\r"))


def _find_cut(text: str, longest: int) -> int:
    start = longest - min(longest // 2, 10_000)
    return max((text.rfind(mark, start, longest) for mark in _SENTENCE_ENDS), default=-1) + 1 or longest


def read_text_rows(pieces: Iterator[str], blocks: bool) -> Iterator[Row]:
    """The text as one row, or as one row for each block between blank lines; what is longer than `LONGEST_TEXT`
    characters is cut at line ends (in a line without an end, after a sentence), so that no file has to be held in
    memory."""
    kept: list[str] = []
    first, last, size = 1, 0, 0
    for row in bounded_lines(normalize_newlines(pieces), MAX_DOCUMENT_CHARS):
        goes_on = row.line == last
        last = row.line
        ends = blocks and not row.value.strip()
        if (ends or goes_on or size >= MAX_DOCUMENT_CHARS) and kept:
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


def normalize_newlines(pieces: Iterator[str]) -> Iterator[str]:
    """Windows and old Macintosh line ends as `\\n`, also where a pair is split between two pieces."""
    held = ""
    for piece in pieces:
        piece = held + piece
        held = "\r" if piece.endswith("\r") else ""
        yield piece[: len(piece) - len(held)].replace("\r\n", "\n").replace("\r", "\n")
    if held:
        yield "\n"
