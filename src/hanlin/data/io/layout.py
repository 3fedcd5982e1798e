"""The layout of a file: which container its rows are in, told from its start, and the reader for it.

The readers are in `lines`, `json_rows` and `tables`; what a row means is decided in `hanlin.data.formats`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.data.io.binary_files import refuse_binary_file, refuse_stand_in
from hanlin.data.io.chat_texts import refuse_chat_text
from hanlin.data.io.encodings import decode_chunks, detect_encoding, read_head, resolve_encoding
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.json_objects import SPLITS, detect_object, read_column_rows, read_split_rows, read_wrapped_rows
from hanlin.data.io.json_rows import drop_trailing_commas, is_truncated, read_json_rows, read_jsonl_rows
from hanlin.data.io.lines import Row, read_record_lines, read_text_rows
from hanlin.data.io.literals import are_literal_lines, read_literal_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.io.tables import (
    detect_delimiter,
    detect_text_table,
    find_long_delimiter,
    read_arrow_rows,
    read_csv_rows,
    read_parquet_rows,
)
from hanlin.data.ledger import Drop

_MARKUP_SUFFIXES = (".md", ".markdown", ".html", ".htm")
_JSONL_SUFFIXES = (".jsonl", ".ndjson", ".jl", ".jsonlines")
_HEAD_CHARS = 1 << 18
_BINARY = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"))
_TABLE_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_SPLITS = re.compile(rf'\{{\s*"(?:{"|".join(SPLITS)})"\s*:\s*\[')
_COMMENTS = re.compile(r"(?:(?://|#)[^\n]*\n\s*|/\*(?:[^*]|\*(?!/))*\*/\s*)+\[")
"""Comments before a list, which JSON has not."""
_HEADING = re.compile(
    r"^\s*(?:第[零〇一二三四五六七八九十百千两\d]{1,9}[章回节卷集部篇]|chapter\s+[\divxlc]+\b)", re.I | re.M
)
_HTML = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_SENTENCE_ENDS = tuple("。！？；…”」』.!?;:：\"'’)）》")
_BLANK = re.compile(r"\n[ \t\u3000]*(?:\n[ \t\u3000]*)+")


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows are stored in a file.

    Attributes:
        container: text, text_blocks, text_lines, jsonl, literals, json_list, json_objects, json_splits, json_wrapped,
            json_columns, csv, tsv, parquet or arrow.
        encoding: Name of a Python codec, or `binary`.
        delimiter: What separates the columns of `csv` and `tsv`.
        field: The field of `json_wrapped` that holds the rows.
        outer: Fields of the objects around that field, the outermost first.
        has_lone_cr: Whether its lines end with a carriage return alone, as on the first Macs and in exports of Excel.
    """

    container: str
    encoding: str
    delimiter: str = ""
    field: str = ""
    outer: tuple[str, ...] = ()
    has_lone_cr: bool = False


def detect_layout(file: SourceFile) -> Layout:
    """Detect the layout of a file from its name and its first characters.

    Raises:
        UserError: The file cannot be read, or its encoding cannot be told.
    """
    wanted_format = file.settings.format
    refuse_stand_in(file.path, file.suffix)
    table = _detect_table(file)
    if table:
        return Layout(table, "binary")
    refuse_binary_file(file.path)
    encoding = _choose_encoding(file)
    if wanted_format in ("text", "text_blocks"):
        return Layout(wanted_format, encoding)
    head = read_head(file.path, encoding, _HEAD_CHARS)
    if "\r" in head and "\n" not in head:
        return replace(_detect_text_layout(file, head.replace("\r", "\n"), encoding), has_lone_cr=True)
    return _detect_text_layout(file, head.replace("\r\n", "\n").replace("\r", "\n"), encoding)


def _detect_text_layout(file: SourceFile, head: str, encoding: str) -> Layout:
    """Detect the layout of a file of text from its first characters, with line feeds as line ends."""
    is_complete = len(head) < _HEAD_CHARS
    if file.settings.format.startswith("text"):
        return Layout(file.settings.format, encoding)
    if file.suffix in (".csv", ".tsv"):
        return Layout(file.suffix[1:], encoding, detect_delimiter(head, is_complete, file.suffix))
    container = _detect_container(head, file.suffix)
    if container == "json_list" and are_literal_lines(head, is_complete):
        return Layout("literals", encoding)
    if container in ("jsonl", "json_objects"):
        found = detect_object(head.lstrip("\ufeff \t\n"))
        if found is not None and found[1] in SPLITS and not found[2]:  # behind fields about the file
            return Layout("json_splits", encoding)
        if found is not None:
            return Layout(found[0], encoding, field=found[1], outer=found[2])
        if are_literal_lines(head, is_complete):
            return Layout("literals", encoding)
    elif container.startswith("text") and file.suffix not in _MARKUP_SUFFIXES:
        if are_literal_lines(head, is_complete):
            return Layout("literals", encoding)
        delimiter = detect_text_table(head, is_complete)
        if delimiter:
            return Layout("tsv" if delimiter == "\t" else "csv", encoding, delimiter)
        refuse_chat_text(file.path, head, file.suffix)
        mark = find_long_delimiter(head, is_complete)
        if mark:
            raise _name_columns(file, mark)
    return Layout(container, encoding)


def _name_columns(file: SourceFile, mark: str) -> UserError:
    """The error of a text whose lines have columns that a mark divides which tables do not have."""
    pattern = re.sub(r"[][$*.^/]", lambda match: "\\" + match[0], mark).replace("\x01", "\\x01")
    command = rf"`sed 's/{pattern}/\t/g' in.txt > out.tsv`"
    hint = tr("write tabs instead, such as with {command}; to read it as text, set `format` to text", command=command)
    return UserError(tr("each line has columns that {mark} divides", mark=repr(mark)), file.path, hint)


def is_splittable(layout: Layout) -> bool:
    """Whether an uncompressed file can be read from the middle: each line is a row, and only line ends contain the
    byte 10 (true of all encodings but UTF-16 and UTF-32).
    """
    return (
        layout.container in ("jsonl", "text_lines", "literals")
        and not layout.encoding.startswith(("utf-16", "utf-32"))
        and not layout.has_lone_cr
    )


def read_rows(file: SourceFile, layout: Layout, input_file: InputFile) -> Iterator[Row]:
    """Read the rows of a file in order.

    A broken line of JSON Lines, CSV or line-by-line text becomes a Drop. In the other layouts the rows after an error
    cannot be told apart.

    Args:
        file: The file, for its path.
        layout: Its layout.
        input_file: The opened file.

    Raises:
        UserError: The file is broken, with file and line, or byte.
    """
    kind, encoding = layout.container, layout.encoding
    if kind == "parquet":
        return read_parquet_rows(file.path)
    if kind == "arrow":
        return read_arrow_rows(file.path)
    if kind == "jsonl":
        return read_jsonl_rows(input_file, encoding, layout.has_lone_cr)
    if kind == "text_lines":
        lines = read_record_lines(input_file, encoding, layout.has_lone_cr)
        return (row for row in lines if isinstance(row.value, Drop) or row.value.strip())
    if kind in ("json_list", "json_objects"):
        return read_json_rows(file.path, decode_chunks(input_file, encoding), is_list=kind == "json_list")
    if kind == "literals":
        return read_literal_rows(input_file, encoding, layout.has_lone_cr)
    if kind == "json_wrapped":
        path = (*layout.outer, layout.field)
        return read_wrapped_rows(file.path, decode_chunks(input_file, encoding), path, input_file.unread_fields)
    if kind == "json_columns":
        return read_column_rows(file.path, decode_chunks(input_file, encoding), input_file.unread_fields)
    if kind == "json_splits":
        return read_split_rows(file.path, decode_chunks(input_file, encoding), input_file.unread_fields)
    if kind in ("csv", "tsv"):
        delimiter = layout.delimiter or ("\t" if kind == "tsv" else ",")
        names = frozenset(file.settings.fields.values())
        return read_csv_rows(file.path, decode_chunks(input_file, encoding), delimiter, names)
    return read_text_rows(decode_chunks(input_file, encoding), blocks=kind == "text_blocks")


def _detect_table(file: SourceFile) -> str | None:
    """Detect Parquet and Arrow by the file's name or by its first bytes."""
    if file.suffix in _TABLE_SUFFIXES:
        return _TABLE_SUFFIXES[file.suffix]
    with InputFile(file.path) as input_file:
        head = input_file.head
    return next((kind for magic, kind in _BINARY if head.startswith(magic)), None)


def _choose_encoding(file: SourceFile) -> str:
    if file.settings.encoding != "auto":
        return resolve_encoding(file.settings.encoding, file.path)
    return detect_encoding(file.path)


# --- which layout -------------------------------------------------------------------------------------------------


def _detect_container(head: str, suffix: str) -> str:
    start = head.lstrip("\ufeff \t\n")
    if suffix == ".json" or suffix in _JSONL_SUFFIXES:
        return _detect_json_container(start, suffix)
    if suffix not in _MARKUP_SUFFIXES and start[:1] in ("{", "["):
        layout = _detect_json_container(start, suffix)
        if _starts_as_json(start, layout):
            return layout
    return detect_text_container(head, suffix)


def _detect_json_container(start: str, suffix: str) -> str:
    if _COMMENTS.match(start):
        return "json_objects"  # which names the comment
    line, _, rest = start.partition("\n")
    if _is_spread_object(start, line):
        return "json_splits" if _SPLITS.match(start) else "json_objects"
    if _SPLITS.match(start) and not any(map(_is_object, rest.split("\n", 5)[:5])):
        return "json_splits"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        if start.startswith("["):
            return "json_list"
        is_only_line = suffix in _JSONL_SUFFIXES and not rest.strip() and _is_object(line)
        return "jsonl" if is_only_line or any(map(_is_object, rest.split("\n", 5)[:5])) else "json_objects"
    rest = rest.lstrip()
    if not isinstance(value, list) or rest:
        return "jsonl"
    return "jsonl" if suffix in _JSONL_SUFFIXES and _is_conversation(value) else "json_list"


def _is_spread_object(start: str, line: str) -> bool:
    """Whether a text begins with one object over several lines, of which some may be objects themselves."""
    if not start.startswith("{") or line.rstrip().endswith("}"):
        return False
    text = drop_trailing_commas(start)
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return is_truncated(error, len(text)) and error.pos > len(line)
    except (ValueError, RecursionError):
        return False
    return end > len(line)


def _is_conversation(row: list[Any]) -> bool:
    """Whether a list is one conversation (a list of turns) instead of a list of rows."""
    return all(isinstance(turn, str) or (isinstance(turn, dict) and ("role" in turn or "from" in turn)) for turn in row)


def _is_object(line: str) -> bool:
    """Whether a line is one object, perhaps with commas too many."""
    try:
        value = json.loads(drop_trailing_commas(line.rstrip().removesuffix(",")))
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and len(value) > 0


def _starts_as_json(start: str, layout: str) -> bool:
    if layout == "jsonl":
        return True
    text = start[1:].lstrip() if layout == "json_list" else start
    try:
        json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        return is_truncated(error, len(text))
    except (ValueError, RecursionError):
        return True
    return True


def detect_text_container(head: str, suffix: str) -> str:
    """Detect whether plain text is one document, blocks between blank lines, or one document per line.

    A block or line must be long enough to be a document: 100 Chinese characters for the median block, 150 for the mean
    line (an ASCII character counts 0.4). Shorter ones are paragraphs, verses or sentences, whose order is worth
    keeping. So are the paragraphs of a book: a text whose lines are broken within sentences, or with chapter headings
    that do not open its blocks.

    Args:
        head: The first 262,144 characters of the text.
        suffix: The file's suffix; Markdown and HTML are always one document.

    Returns:
        text, text_blocks or text_lines.
    """
    if suffix in _MARKUP_SUFFIXES or _HTML.match(head):
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
    return "text_lines" if statistics.fmean(map(_text_width, filled)) >= 150 else "text"


def _are_documents(blocks: list[str]) -> bool:
    if len(blocks) < 2 or statistics.median(map(_text_width, blocks)) < 100:
        return False
    headings = sum(len(_HEADING.findall(block)) for block in blocks)
    if headings > 1 and 2 * sum(bool(_HEADING.match(block)) for block in blocks) < len(blocks):
        return False
    inner = [line.rstrip() for block in blocks for line in block.strip().split("\n")[:-1]]
    broken = sum(not line.endswith(_SENTENCE_ENDS) for line in inner)
    return len(inner) < len(blocks) or 10 * broken < 7 * len(inner) or max(map(_text_width, inner)) > 50


def _text_width(text: str) -> float:
    """Length in Chinese characters; an ASCII character counts 0.4."""
    narrow = len(text.encode("ascii", "ignore"))
    return 0.4 * narrow + (len(text) - narrow)
