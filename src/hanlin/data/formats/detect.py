"""Which of the known formats a file is written in, and its records one by one.

Owns the choice and its complaints. The formats themselves stand in `documents`, `chats`, `pairs` and `judged`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic

from hanlin.config.settings.sources import TURN_FIELDS
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.formats.base import Format, Item, ParsedRow
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import Layout, Row, detect_layout, read_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

SAMPLE_ROWS = 50


@dataclass(frozen=True, slots=True)
class DetectedFormat(Generic[Item]):
    """How a file is written: its layout, and the format of its rows."""

    layout: Layout
    format: Format[Item]

    @property
    def name(self) -> str:
        """Layout and format as they stand in the ledger."""
        container = self.layout.container
        return container if container.startswith("text") else f"{container}: {self.format.name}"


@dataclass(frozen=True, slots=True)
class RecordReader(Generic[Item]):
    """A file whose format is known. `format` names layout and format as they stand in the ledger."""

    format: str
    encoding: str
    rows: Iterator[ParsedRow[Item]]


def open_records(
    file: SourceFile,
    tape: InputFile,
    formats: Sequence[Format[Item]],
    other_formats: Mapping[str, Sequence[Format[Any]]],
) -> RecordReader[Item]:
    """Find out how the file is written and read it. `other_formats` are the formats of other stages, for the hint.

    Raises UserError when no format fits the first rows, naming the known ones.
    """
    written = detect_format(file, formats, other_formats)
    return RecordReader(written.name, written.layout.encoding, read_records(file, tape, written))


def detect_format(
    file: SourceFile, formats: Sequence[Format[Item]], other_formats: Mapping[str, Sequence[Format[Any]]]
) -> DetectedFormat[Item]:
    """Look at a file and its first rows. Raises like `open_records`."""
    layout = detect_layout(file)
    with InputFile(file.path) as tape:
        rows = (rename_fields(row, file.settings.fields) for row in read_rows(file, layout, tape))
        first = list(islice(rows, SAMPLE_ROWS))
    return DetectedFormat(layout, _choose_format(file, layout, first, formats, other_formats))


def read_records(file: SourceFile, tape: InputFile, written: DetectedFormat[Item]) -> Iterator[ParsedRow[Item]]:
    """What a file holds, or the span of it that the tape is for; numbers and lines are key_settings from there."""
    rows = (rename_fields(row, file.settings.fields) for row in read_rows(file, written.layout, tape))
    return _parse_rows(written.format, rows)


def _parse_rows(chosen: Format[Item], rows: Iterator[Row]) -> Iterator[ParsedRow[Item]]:
    number = 0
    for row in rows:
        if isinstance(row.value, Drop):
            number += 1
            yield ParsedRow(number, row.line, row.value, row.raw)
            continue
        for item in chosen.read(row.value):
            number += 1
            yield ParsedRow(number, row.line, item, row.value)


def _choose_format(
    file: SourceFile,
    layout: Layout,
    rows: Sequence[Row],
    formats: Sequence[Format[Item]],
    other_formats: Mapping[str, Sequence[Format[Any]]],
) -> Format[Item]:
    asked = file.settings.format
    named = next((known for known in formats if known.name == asked), None)
    values = [row.value for row in rows if not isinstance(row.value, Drop)]
    if not all(known.unpaired for known in formats) and any(map(_is_unpaired, values)):
        raise _unpaired_error(file.path)
    if named is not None:
        return named
    if not values:
        return formats[0]
    for value in values:
        for known in formats:
            if known.recognize(value):
                return known
    names = ", ".join(known.name for known in formats)
    hint = say(
        f"name its fields with `fields`, or its `format` ({names})",
        f"请用 fields 指明字段，或用 format 指明格式（{names}）",
    )
    for stage, others in other_formats.items():
        if any(other.recognize(value) for value in values for other in others):
            hint = say(f"it looks like data for the stage `{stage}`", f"看起来是 {stage} 阶段的数据")
    seen = _describe_row(values[0])
    message = say(f"unknown format: {layout.container} with {seen}", f"未知格式：{layout.container}，内容为 {seen}")
    raise UserError(message, f"{file.path}:{rows[0].line}", hint)


def _describe_row(value: Any) -> str:
    if isinstance(value, Mapping):
        return say("the fields ", "字段 ") + ", ".join(map(str, list(value)[:12]))
    if isinstance(value, str):
        return say("lines of text", "文本行")
    return type(value).__name__


def _is_unpaired(value: Any) -> bool:
    """One answer with a verdict, as for KTO: to learn it without looking at the verdict would teach bad answers."""
    if not isinstance(value, Mapping) or "chosen" in value:
        return False
    judged = any(isinstance(value.get(name), bool) for name in ("label", "kto_tag"))
    return judged and any(name in value for name in ("messages", "conversations", "completion", "output", "response"))


def _unpaired_error(path: Path) -> UserError:
    hint = say("it looks like data for the stage `unpaired_preferences`", "看起来是 unpaired_preferences 阶段的数据")
    message = say(
        "these are single answers with a label (KTO), good ones and bad", "这是带好坏标签的单个回答（KTO 格式）"
    )
    return UserError(message, path, hint)


def rename_fields(row: Row, fields: Mapping[str, str]) -> Row:
    """The row with our names for its fields and for those of its turns."""
    if not fields or isinstance(row.value, Drop):
        return row
    turns = {ours: theirs for ours, theirs in fields.items() if ours in TURN_FIELDS}
    value = _rename_keys(row.value, {ours: theirs for ours, theirs in fields.items() if ours not in turns})
    if turns and isinstance(value, Mapping):
        value = {name: _rename_turn_fields(content, turns) for name, content in value.items()}
    return Row(row.line, _rename_turn_fields(value, turns) if turns else value, row.raw)


def _rename_turn_fields(value: Any, fields: Mapping[str, str]) -> Any:
    return [_rename_keys(turn, fields) for turn in value] if isinstance(value, list) else value


def _rename_keys(value: Any, fields: Mapping[str, str]) -> Any:
    """An object with our names for its fields; a name of ours that means another of its fields gives way."""
    if not fields or not isinstance(value, Mapping):
        return value
    taken = set(fields.values()) | set(fields)
    kept = {name: content for name, content in value.items() if name not in taken}
    return kept | {ours: value[theirs] for ours, theirs in fields.items() if theirs in value}
