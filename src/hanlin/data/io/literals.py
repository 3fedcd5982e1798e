"""Rows written as Python writes lists, tuples and dictionaries: one for each line."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from hanlin.data.io.input_file import InputFile
from hanlin.data.io.json_rows import StrictDecoder
from hanlin.data.io.lines import Row, read_record_lines
from hanlin.data.ledger import Drop

_SAMPLE_LINES = 6
_MAX_LITERAL_CHARS = 1 << 20
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_MAX_DEPTH = 50


def are_literal_lines(head: str, is_complete: bool) -> bool:
    """Whether the first lines of a text are Python's literals, not all of them JSON as well.

    Args:
        head: The beginning of the file.
        is_complete: Whether it is all of the file.
    """
    lines = head.lstrip("\ufeff").split("\n")
    lines = [line.strip() for line in (lines if is_complete else lines[:-1]) if line.strip()][:_SAMPLE_LINES]
    if len(lines) < 2 or not all(_BRACKETS.get(line[0]) == line[-1] for line in lines):
        return False
    return not all(map(_is_json, lines)) and all(_parse(line) is not None for line in lines)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_literal_rows(input_file: InputFile, encoding: str, has_lone_cr: bool = False) -> Iterator[Row]:
    """Read a row for each line that is not blank; one that is no literal becomes a Drop.

    The values of a list that is not texts alone get their numbers as names, as the columns of a table without heading.
    """
    decoder = StrictDecoder()
    for row in read_record_lines(input_file, encoding, has_lone_cr):
        if isinstance(row.value, Drop):
            yield row
            continue
        text = row.value.strip()
        if not text:
            continue
        value = decoder.decode_row(text)
        if isinstance(value, Drop):
            value = _parse(text)
        if value is None:
            yield Row(row.line, Drop("broken_json", "neither JSON nor a Python literal"), row.value)
            continue
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        yield Row(row.line, value)


def _parse(text: str) -> Any:
    """Parse a list, tuple or dictionary into a JSON value; None if it is none, or JSON cannot hold it."""
    if len(text) > _MAX_LITERAL_CHARS or not text or text[0] not in _BRACKETS:
        return None
    try:
        value = _to_json(ast.literal_eval(text), _MAX_DEPTH)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return value if isinstance(value, list | dict) and value else None


def _to_json(value: Any, depth: int) -> Any:
    if depth and isinstance(value, Mapping):
        return {str(name): _to_json(item, depth - 1) for name, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_to_json(item, depth - 1) for item in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(type(value).__name__)
