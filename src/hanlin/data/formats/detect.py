"""Detection of a file's format, and its records one by one.

The formats themselves are in `documents`, `chats`, `preferences` and `unpaired_preferences`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic

from hanlin.config.settings.sources import TURN_FIELDS, Source
from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, tr
from hanlin.data.formats.agents.benchmarks import BENCHMARK_FIELDS, unfold_benchmark
from hanlin.data.formats.base import Format, Item, ParsedRow, is_filled
from hanlin.data.formats.content.cells import ADAPTED_FIELDS, decode_cells
from hanlin.data.formats.content.labels import find_failures, find_label, is_labeled_answer
from hanlin.data.formats.content.loss_flags import find_unread_flags
from hanlin.data.formats.content.rendered import find_rendered_field
from hanlin.data.formats.content.roles import rename_roles
from hanlin.data.formats.documents import ParsedText
from hanlin.data.formats.exports import split_exported
from hanlin.data.formats.look_alike import (
    describe_log,
    describe_look_alike,
    describe_nested,
    describe_unknown,
    find_nested_log,
    is_exam,
)
from hanlin.data.formats.traces.displayed import describe_displayed
from hanlin.data.formats.traces.event_logs import is_event_log
from hanlin.data.formats.traces.messengers import describe_messenger
from hanlin.data.formats.trees.judged import VERDICT_FIELDS, unfold_judged
from hanlin.data.formats.trees.label_classes import find_classes, holds_label, take_classes
from hanlin.data.formats.trees.languages import OneLanguage, choose_languages, may_name_languages
from hanlin.data.formats.trees.message_rows import (
    HEAD_ROWS,
    are_message_rows,
    find_later_turn,
    join_message_rows,
)
from hanlin.data.formats.trees.question_lists import may_list_questions, unfold_questions
from hanlin.data.formats.trees.ratings import check_ratings, find_ratings, judge_ratings, mark_low_turns
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import Layout, Row, detect_layout, read_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.io.tables import is_numbered
from hanlin.data.ledger import Drop

OtherFormats = Callable[[], Mapping[str, Sequence[Format[Any]]]]

SAMPLE_ROWS = 50
"""Rows that detection looks at."""
_MOST_LABELED_ROWS, _LABELS_COMPARED = 50_000, 1_000
"""Rows that are read to see more than one label, and of these how many are compared."""


@dataclass(frozen=True, slots=True)
class DetectedFormat(Generic[Item]):
    """The layout of a file, and the formats of its rows.

    Attributes:
        layout: How the file holds rows.
        format: The format of the first rows.
        others: Formats that are tried, in this order, for a row that is not in it.
        is_joined: Whether a record is made of several rows beside each other, so that the file is read as a whole.
        missing: Names in the file that the setting `fields` has and none of the first rows.
        classes: Fields with the name of a label that hold classes of the text.
    """

    layout: Layout
    format: Format[Item]
    others: Sequence[Format[Item]] = ()
    is_joined: bool = False
    missing: tuple[str, ...] = ()
    classes: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Layout and format as the ledger names them, for example `jsonl: sharegpt`."""
        container = self.layout.container
        return container if container.startswith("text") else f"{container}: {self.format.name}"


@dataclass(frozen=True, slots=True)
class RecordReader(Generic[Item]):
    """The records of an opened file.

    Attributes:
        format: Layout and format as the ledger names them.
        encoding: Name of a Python codec, or `binary`.
        rows: The records and Drops, read as they are iterated.
    """

    format: str
    encoding: str
    rows: Iterator[ParsedRow[Item]]


def open_records(
    file: SourceFile,
    input_file: InputFile,
    formats: Sequence[Format[Item]],
    other_formats: OtherFormats = dict,
) -> RecordReader[Item]:
    """Detect the format of a file and read its records.

    Args:
        file: The file and the settings of its source.
        input_file: The same file, opened.
        formats: Formats to detect, tried in this order.
        other_formats: Loads the formats of other stages by stage, for the hint.

    Raises:
        UserError: No format fits the first rows; the message names the known ones.
    """
    detected = detect_format(file, formats, other_formats)
    return RecordReader(detected.name, detected.layout.encoding, read_records(file, input_file, detected))


def detect_format(
    file: SourceFile, formats: Sequence[Format[Item]], other_formats: OtherFormats
) -> DetectedFormat[Item]:
    """Detect layout and format from a file's first rows; arguments and errors as in `open_records`."""
    layout = detect_layout(file)
    with InputFile(file.path) as input_file:
        first = list(islice(read_rows(file, layout, input_file), SAMPLE_ROWS))
    if file.settings.min_rating:
        values = [row.value for row in first if not isinstance(row.value, Drop)]
        check_ratings([*values, *map(decode_cells, values)], file.settings.min_rating, file.path)
    is_joined = are_message_rows([next(adapt_row(row, file.settings)).value for row in first[:HEAD_ROWS]])
    adapted = list(adapt_rows(iter(first), file.settings))
    classes = find_class_fields(file, layout, adapted)
    adapted = [replace(row, value=take_classes(row.value, classes)[0]) for row in adapted] if classes else adapted
    chosen = _choose_format(file, layout, adapted, formats, other_formats)
    missing = _find_missing([row.value for row in first], file.settings.fields)
    return DetectedFormat(layout, chosen, find_others(file, formats), is_joined, missing, classes)


def find_class_fields(file: SourceFile, layout: Layout, first: Sequence[Row]) -> frozenset[str]:
    """Find the fields with the name of a label that hold classes of the text.

    A file that is sorted by its labels shows but one of them in its first rows: then more rows are read.

    Args:
        file: The file.
        layout: Its layout.
        first: Its first rows, adapted. The setting `fields` says what a label is, so that none is looked for.
    """
    if "label" in file.settings.fields:
        return frozenset()
    values = [row.value for row in first if not isinstance(row.value, Drop)]
    if not any(map(holds_label, values)):
        return frozenset()
    if len(first) >= SAMPLE_ROWS and len({str(find_label(value)) for value in values}) == 1:
        with InputFile(file.path) as input_file:
            rows = list(islice(read_rows(file, layout, input_file), _MOST_LABELED_ROWS))
        step = max(1, len(rows) // _LABELS_COMPARED)
        values = [row.value for row in adapt_rows(iter(rows[::step]), file.settings, False)]
    return find_classes(values)


def find_others(file: SourceFile, formats: Sequence[Format[Item]]) -> Sequence[Format[Item]]:
    """The formats that single rows of a file may have besides that of the first rows: none if `format` names one."""
    return formats if file.settings.format == "auto" else ()


def read_records(file: SourceFile, input_file: InputFile, detected: DetectedFormat[Item]) -> Iterator[ParsedRow[Item]]:
    """Read the records of a file, or of the byte range it is opened for; numbers and lines count from its start."""
    rows = adapt_rows(read_rows(file, detected.layout, input_file), file.settings, detected.is_joined)
    return _parse_rows(detected, rows, file.settings.min_rating)


def _parse_rows(
    detected: DetectedFormat[Item], rows: Iterator[Row], judged: Collection[str]
) -> Iterator[ParsedRow[Item]]:
    """Read rows; those of `judged`, the fields of ratings that were looked at, are none that is not read."""
    record_number = 0
    others = detected.others
    earlier = others[: others.index(detected.format)] if detected.format in others else ()
    known_shapes: set[Any] = set()
    for row in rows:
        if isinstance(row.value, Drop):
            record_number += 1
            yield ParsedRow(record_number, row.line, row.value, row.raw)
            continue
        rated = _find_judgements(row.value) if isinstance(row.value, dict) else ()
        rated = tuple(name for name in rated if name not in judged) if judged else rated
        value, classes = take_classes(row.value, detected.classes)
        for item in _read_row(value, detected, earlier, known_shapes):
            record_number += 1
            if classes and not isinstance(item, Drop):
                item = _add_classes(item, classes)
            unread = getattr(item, "unread", ())
            if row.unread or (rated and not isinstance(item, Drop | ParsedText)):
                unread = tuple(dict.fromkeys((*unread, *row.unread, *rated)))
            unread = tuple(name for name in unread if name not in judged) if judged else unread
            yield ParsedRow(record_number, row.line, item, row.raw or row.value, unread, row.language)


def _add_classes(item: Any, classes: Mapping[str, Any]) -> Any:
    """Give a record the classes of its row, which are counted as fields that nothing obeys."""
    return replace(item, meta={**item.meta, **classes}, unread=(*getattr(item, "unread", ()), *classes))


def _find_judgements(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of a row that nothing obeys: ratings, failures, words in place of flags, numbers of later turns."""
    return (*find_ratings(row), *find_failures(row), *find_unread_flags(row), *find_later_turn(row))


_TAGGED_FIELDS = frozenset({"text", "plain_text", "chat", "sample", "conversation", "conversations", "dialogue"})
_MAX_SHAPES = 100


def _find_shape(value: Any) -> Any:
    """The names and types of a row's values if they decide its format; None if lists, objects or tagged texts do."""
    if not isinstance(value, dict) or not _TAGGED_FIELDS.isdisjoint(value):
        return None
    types = tuple(map(type, value.values()))
    return None if list in types or dict in types else (tuple(value), types)


def _read_row(
    value: Any, detected: DetectedFormat[Item], earlier: Sequence[Format[Item]], known_shapes: set[Any]
) -> Iterator[Item | Drop]:
    """Read a row in the format that it has itself: as in detection, the first that recognizes it.

    Args:
        value: The row.
        detected: The formats of the file.
        earlier: Those of `others` that are tried before the format of the file.
        known_shapes: Shapes of rows found to be in the format of the file, so that the next ones need no trying.
    """
    known_format = detected.format
    if not known_format.unpaired and is_labeled_answer(value):
        yield Drop("labeled")
        return
    shape = _find_shape(value) if earlier else None
    if shape is not None and shape in known_shapes:
        yield from known_format.read(value)
        return
    row_format = next((candidate for candidate in earlier if candidate.recognize(value)), known_format)
    if row_format is known_format and len(detected.others) > 1:
        if not known_format.recognize(value):
            row_format = next((candidate for candidate in detected.others if candidate.recognize(value)), known_format)
            if row_format is not known_format and is_exam(value):
                yield Drop("other_format", "a question of an exam, with choices")
                return
        elif shape is not None and len(known_shapes) < _MAX_SHAPES:
            known_shapes.add(shape)
    yield from row_format.read(value)


def _choose_format(
    file: SourceFile,
    layout: Layout,
    rows: Sequence[Row],
    formats: Sequence[Format[Item]],
    other_formats: OtherFormats,
) -> Format[Item]:
    format_name = file.settings.format
    named_format = next((candidate for candidate in formats if candidate.name == format_name), None)
    values = [row.value for row in rows if not isinstance(row.value, Drop)]
    if not any(candidate.unpaired for candidate in formats) and any(map(is_labeled_answer, values)):
        raise _unpaired_error(file.path)
    if named_format is not None:
        return named_format
    if not values:
        return formats[0]
    look_alikes = [] if file.settings.fields else [found for found in map(describe_look_alike, values) if found]
    if 2 * len(look_alikes) > len(values):
        raise UserError(look_alikes[0][0], f"{file.path}:{rows[0].line}", look_alikes[0][1])
    messenger = None if file.settings.fields or file.settings.roles else describe_messenger(values[:SAMPLE_ROWS])
    if messenger is not None:
        raise UserError(messenger[0], f"{file.path}:{rows[0].line}", messenger[1])
    if not file.settings.fields and is_event_log(values):
        what, way_out = describe_log(values)
        raise UserError(what, f"{file.path}:{rows[0].line}", way_out)
    for value in leave_out_texts(values):
        for candidate in formats:
            if candidate.recognize(value):
                return candidate
    described = describe_unknown(values[0]) or describe_displayed(values[0])
    if described is None and len(values) == 1:
        described = find_nested_log(values[0]) or describe_nested(values[0])
    if described is not None:
        raise UserError(described[0], f"{file.path}:{rows[0].line}", described[1])
    names = join_list([candidate.name for candidate in formats])
    hint = tr("name its fields with `fields`, or set `format` ({names})", names=names)
    for stage, formats_of_stage in other_formats().items():
        if any(candidate.recognize(value) for value in values for candidate in formats_of_stage):
            hint = tr("it looks like data for the stage `{stage}`", stage=stage)
            break
    else:
        nested = describe_nested(values[0], depth=1) if len(values) == 1 else None
        if nested is not None:
            raise UserError(nested[0], f"{file.path}:{rows[0].line}", nested[1])
    location = f"{file.path}:{rows[0].line}"
    field, rendering = next(filter(None, map(find_rendered_field, values)), ("", ""))
    if rendering and any(candidate.name == "tagged_text" for candidate in formats):
        what = tr("these are conversations that the chat template {rendering} has rendered", rendering=rendering)
        raise UserError(what, location, tr("name the field with `fields`: {example}", example=f"{{text: {field}}}"))
    if is_numbered(values[0]):
        example = "{prompt: '1', response: '2'}" if len(values[0]) > 1 else "{text: '1'}"
        hint = tr("name its columns, which are numbered, with `fields`, such as {example}", example=example)
        if layout.container == "literals":
            raise UserError(tr("each line is a list without names"), location, hint)
        raise UserError(tr("the first row looks like data, not like a heading"), location, hint)
    content = _describe_row(values[0])
    message = tr("unknown format: {container} with {content}", container=layout.container, content=content)
    raise UserError(message, location, hint)


def leave_out_texts(values: Sequence[Any]) -> Sequence[Any]:
    """The values of rows that tell a format: bare texts do not, if most of the rows are no texts."""
    others = [value for value in values if not isinstance(value, str)]
    return others if 2 * len(others) > len(values) else values


def _describe_row(value: Any) -> str:
    """Describe a row's value for a message: its fields, or its type."""
    if isinstance(value, dict):
        names = join_list(list(map(str, value))[:12])
        return tr("the fields {names}", names=names)
    if isinstance(value, str):
        return tr("lines of text")
    return type(value).__name__


def _unpaired_error(path: Path) -> UserError:
    hint = tr("use the stage `unpaired_preferences` for it")
    message = tr("these are single answers labeled good or bad (KTO)")
    return UserError(message, path, hint)


def adapt_rows(rows: Iterator[Row], settings: Source, is_joined: bool = True) -> Iterator[Row]:
    """Adapt the rows of a file, and join those that hold one message each to conversations.

    A row that is rated too low becomes a Drop.

    Args:
        rows: The rows.
        settings: The settings of their source.
        is_joined: Whether the rows are of a file that may hold one message on each row. A part of any other file must
            not be taken for one by the rows that it happens to begin with.
    """
    if settings.min_rating:
        rows = (_judge_row(row, settings) for row in rows)
    if settings.fields or settings.roles or settings.min_rating:
        adapted: Iterator[Row] = (one for row in rows for one in adapt_row(row, settings))
    else:
        adapted = _adapt_rows(rows, settings)
    return join_message_rows(adapted) if is_joined else adapted


def _adapt_rows(rows: Iterator[Row], settings: Source) -> Iterator[Row]:
    for row in rows:
        value = row.value
        types = set(map(type, value.values())) if type(value) is dict else (dict,)
        if dict not in types and _is_plain(tuple(value), list in types):
            yield row
        else:
            yield from adapt_row(row, settings)


@lru_cache(maxsize=4096)
def _is_plain(names: tuple[Any, ...], has_lists: bool) -> bool:
    """Whether no field of rows with these names, none of them an object, is decoded, judged or in a language."""
    fields = ADAPTED_FIELDS | VERDICT_FIELDS | BENCHMARK_FIELDS
    fields = fields if has_lists else fields - {"input", "output"}  # they are of interest as lists alone
    return fields.isdisjoint(names) and not may_name_languages(names) and not may_list_questions(names, has_lists)


def _judge_row(row: Row, settings: Source) -> Row:
    drop = None if isinstance(row.value, Drop) else judge_ratings(row.value, settings.min_rating)
    return row if drop is None else Row(row.line, drop, row.value)


def adapt_row(row: Row, settings: Source) -> Iterator[Row]:
    """Rename the fields and the roles of a row to our names, as its source says, and decode lists written as text.

    A row in several languages is read in the one that the source asks for, or in each, unless the source names fields.
    """
    row = rename_fields(row, settings.fields)
    if type(row.value) is list and len(row.value) > 0 and all(map(_is_task, row.value)):
        for inner in row.value:
            yield from adapt_row(Row(row.line, inner, "", row.unread), settings)
        return
    exported = split_exported(row.value)
    if exported is not None:
        for chat in exported:
            yield from adapt_row(Row(row.line, chat, chat, row.unread), settings)
        return
    for value, unread in unfold_questions(decode_cells(unfold_benchmark(row.value))):
        named = Row(row.line, row.value, row.raw, (*row.unread, *unread), row.language) if unread else row
        yield from _adapt_unfolded(named, value, settings)


def _adapt_unfolded(row: Row, decoded: Any, settings: Source) -> Iterator[Row]:
    """Adapt one of the rows that a row of a file holds."""
    for chosen in (OneLanguage(decoded),) if settings.fields else choose_languages(decoded, settings.read_language):
        value = unfold_judged(mark_low_turns(chosen.row, settings.min_rating) if settings.min_rating else chosen.row)
        if settings.roles and not isinstance(value, Drop):
            value = rename_roles(value, settings.roles)
        if isinstance(value, Drop) and not isinstance(row.value, Drop):
            yield Row(row.line, value, row.raw or row.value)
        elif chosen.language or chosen.unread:
            yield Row(row.line, value, row.raw or row.value, (*row.unread, *chosen.unread), chosen.language)
        else:
            yield row if value is row.value else Row(row.line, value, row.raw or row.value, row.unread)


def _is_task(value: Any) -> bool:
    """Whether a value is a row with an instruction: a list of such values is a list of rows, not of turns."""
    return isinstance(value, dict) and isinstance(value.get("instruction"), str) and "role" not in value


def rename_fields(row: Row, fields: Mapping[str, str]) -> Row:
    """Rename the fields of a row, and those of its turns, to our names.

    Another field that has one of our names already is left out and named.

    Args:
        row: A row of a file.
        fields: The setting `fields`: our name to the name in the file.
    """
    if not fields or isinstance(row.value, Drop):
        return row
    turns = {field: source_field for field, source_field in fields.items() if field in TURN_FIELDS}
    value = _rename_keys(
        row.value, {field: source_field for field, source_field in fields.items() if field not in turns}
    )
    if turns and isinstance(value, dict):
        value = {name: _rename_turn_fields(content, turns) for name, content in value.items()}
    value = _rename_turn_fields(value, turns) if turns else value
    return Row(row.line, value, row.raw or row.value, (*row.unread, *_find_left_out(row.value, fields)))


def _find_missing(rows: Sequence[Any], fields: Mapping[str, str]) -> tuple[str, ...]:
    """The names in a file that `fields` has and none of these rows, nor a turn of them."""
    missing = set(fields.values())
    for row in rows:
        if not missing:
            break
        values = list(row.values()) if isinstance(row, dict) else row if isinstance(row, list) else []
        lists = [row, *values] if isinstance(row, list) else values
        inner = [item for value in lists if isinstance(value, list) for item in value]
        for found in (row, *values, *inner):
            if isinstance(found, dict):
                missing.difference_update(found)
    return tuple(sorted(missing))


def _find_left_out(row: Any, fields: Mapping[str, str]) -> tuple[str, ...]:
    """The fields with one of our names that another one gets, as `turn.field` for one of a turn."""
    if not isinstance(row, dict):
        return ()
    sources = set(fields.values())
    left_out = [name for name in fields if name not in TURN_FIELDS and name not in sources and is_filled(row.get(name))]
    names = [name for name in fields if name in TURN_FIELDS and name not in sources]
    turns = [turn for value in row.values() if names and isinstance(value, list) for turn in value]
    left_out += [
        f"turn.{name}" for name in names if any(isinstance(turn, dict) and is_filled(turn.get(name)) for turn in turns)
    ]
    return tuple(left_out)


def _rename_turn_fields(value: Any, fields: Mapping[str, str]) -> Any:
    return [_rename_keys(turn, fields) for turn in value] if isinstance(value, list) else value


def _rename_keys(value: Any, fields: Mapping[str, str]) -> Any:
    """Rename an object's fields to our names; another field that has one of our names already is left out."""
    if not fields or not isinstance(value, dict):
        return value
    renamed = set(fields.values()) | set(fields)
    unchanged = {name: content for name, content in value.items() if name not in renamed}
    return unchanged | {field: value[source_field] for field, source_field in fields.items() if source_field in value}
