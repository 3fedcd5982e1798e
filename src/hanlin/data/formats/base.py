"""What a format is: a name, a function that recognizes it, and a reader."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hanlin.data.ledger import Drop

Item = TypeVar("Item")


_MAX_META_CHARS = 300
_MAX_META_ITEMS = 20
_MAX_ITEM_CHARS = 50


@dataclass(frozen=True, slots=True)
class Format(Generic[Item]):
    """A format of rows.

    Attributes:
        name: As in the setting `format`.
        recognize: Whether a row's value is in this format.
        read: Yields the records of a row's value, or Drops. A record's attribute `unread` names the fields that it does
            not carry.
        unpaired: Whether the format reads a label on a single answer. Others must not get such rows: they would teach
            bad answers.
        is_second_use: Whether such rows are first of all records of another stage: `inspect` shows them as those.
    """

    name: str
    recognize: Callable[[Any], bool]
    read: Callable[[Any], Iterator[Item | Drop]]
    unpaired: bool = False
    is_second_use: bool = False


@dataclass(frozen=True, slots=True)
class ParsedRow(Generic[Item]):
    """One record of a row, or the reason why it has none.

    Attributes:
        record_number: Counts the records and Drops of the file, from 1.
        line: Line that the row begins on, from 1.
        item: The record, or a Drop.
        row: The row as it is in the file.
        unread: Names of the row's fields that its record does not carry: `field`, or `turn.field` for one of a turn.
        language: The language that the row was read in, if it holds several.
    """

    record_number: int
    line: int
    item: Item | Drop
    row: Any
    unread: tuple[str, ...] = ()
    language: str = ""


def is_filled(value: Any) -> bool:
    """Whether a value is more than white space, an empty list or an empty object."""
    return bool(value) and not (isinstance(value, str) and value.isspace())


def read_number(value: Any) -> float | None:
    """A value as a finite number, which tables hold as text; None for anything else, also for one too large."""
    if not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_number(value: Any) -> bool:
    """Whether a value is written as a number, and one that a float holds; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and read_number(value) is not None


_OWN_ID, _OWN_SOURCE = re.compile(r".*#\d+(?:~\d+)?[+-]?\Z", re.S), re.compile(r".*:\d+\Z", re.S)


def is_own_record(row: Mapping[str, Any]) -> bool:
    """Whether a row says where it comes from as Hanlin's records do: `id` is `file#row` and `source` is `file:line`.

    A record that is made of it says so anew. A `source` of others, such as the name of a site, is a field like others.
    """
    record_id, source = row.get("id"), row.get("source")
    is_own = isinstance(record_id, str) and isinstance(source, str) and _OWN_SOURCE.match(source) is not None
    return is_own and _OWN_ID.match(str(record_id)) is not None


def find_own_id(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The field of a row's id if it is one of Hanlin's, which the record gets anew; any other goes to `meta`."""
    return ("id",) if is_own_record(row) else ()


def number_to_text(value: Any) -> Any:
    """A number as the text that a table would hold; any other value, true and false too, as it is."""
    is_text = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_text or is_number(value) else value


def describe_value(name: str, value: Any) -> str:
    """What a field holds in place of a text, the same in every language: `answer: true`, `answer: object`."""
    if isinstance(value, bool):
        return f"{name}: {str(value).lower()}"
    return f"{name}: {'object' if isinstance(value, dict) else type(value).__name__}"


def is_nothing(value: Any) -> bool:
    """Whether a value stands for none: null, what tables write for it (NaN), or an empty text, list or object."""
    return value in (None, "", [], {}) or value != value  # noqa: PLR0124


def collect_meta(row: Mapping[str, Any], used: Sequence[str] = ()) -> dict[str, Any]:
    """Collect the other fields of a row for `meta`: short texts, numbers, booleans and lists of short texts.

    Args:
        row: A row.
        used: Fields that became part of the record.
    """
    meta: dict[str, Any] = {}
    for name, value in row.items():
        if name in used or name == "meta" or value in ("", None):
            continue
        if _is_short(value):
            meta[str(name)] = value
        elif _is_text_list(value):
            meta[str(name)] = value[:_MAX_META_ITEMS]
    if isinstance(row.get("meta"), dict):
        meta = collect_meta(row["meta"]) | _collect_nested_texts(row["meta"]) | meta
    return meta


def find_unread_fields(row: Mapping[str, Any], used: Sequence[str] = ()) -> tuple[str, ...]:
    """Find the fields of a row that neither `used` names nor `collect_meta` takes whole; empty ones do not count.

    Args:
        row: A row.
        used: Fields that became part of the record.

    Returns:
        Names of fields, `meta.name` for one of an object `meta`.
    """
    unread = []
    for name, value in row.items():
        if name in used or value in ("", None, [], {}):
            continue
        if name == "meta" and isinstance(value, dict):
            nested = _collect_nested_texts(value)
            unread += [f"meta.{field}" for field in find_unread_fields(value) if field not in nested]
            unread += [f"meta.{field}" for field in value if _is_hidden(str(field), value[field], row, used)]
            continue
        fits = _is_short(value) or (_is_text_list(value) and len(value) <= _MAX_META_ITEMS)
        fits = fits and not (name == "label" and isinstance(value, float))
        if (
            not fits
            or (name in _NAMED_LISTS and isinstance(value, list) and any(map(is_filled, value)))
            or (name in _NAMED_FIELDS and isinstance(value, str) and value.strip())
        ):
            unread.append(str(name))
    return tuple(unread)


def _is_hidden(name: str, value: Any, row: Mapping[str, Any], used: Sequence[str]) -> bool:
    """Whether a value in an object `meta` has the name of another one beside the object, which `meta` holds instead."""
    other = row.get(name)
    is_carried = name not in used and other not in ("", None) and (_is_short(other) or _is_text_list(other))
    return is_carried and value != other and (_is_short(value) or _is_text_list(value))


_NAMED_FIELDS = frozenset((
    *("instruction", "system", "input", "context", "background", "knowledge", "article", "passage", "document"),
    *("label", "rationale", "corrected", "correction", "revision", "revised", "材料", "上下文", "背景", "文章"),
    *("历史", "历史记录", "上文", "previous", "past"),
))  # fmt: skip
"""Texts that a model is meant to read, labels, and answers that mend another, which all may say that an answer is bad:
one that no part of the record holds is named, though `meta` keeps it."""


_NAMED_LISTS = frozenset((
    *("reference", "references", "reference_passages", "retrieved", "context", "contexts", "passages", "documents"),
    *("knowledge", "evidence", "evidences", "参考资料", "法条", "上下文", "材料", "证据"),
))  # fmt: skip
"""Sources that an answer rests on, which a model that does not read them learns to make up."""


def _is_short(value: Any) -> bool:
    """Whether a value is short enough to go to `meta` as it is."""
    if isinstance(value, str):
        return len(value) <= _MAX_META_CHARS
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _is_text_list(value: Any) -> bool:
    """Whether a value is a list of short texts, the first of which go to `meta`."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, str) and len(item) <= _MAX_ITEM_CHARS for item in value[:_MAX_META_ITEMS])


def _collect_nested_texts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the objects of texts in `meta`, such as the inner thoughts of a MOSS chat by turn."""
    return {
        str(name): dict(value)
        for name, value in meta.items()
        if isinstance(value, dict) and value and all(isinstance(text, str) for text in value.values())
    }


def strip_turn(text: str) -> str:
    """Strip the white space around a turn; the indent of a first line of code stays."""
    text = text.rstrip()
    if not text[:1].isspace():
        return text
    text = text.lstrip("\r\n")
    return text if text.startswith(("  ", "\t")) else text.lstrip()
