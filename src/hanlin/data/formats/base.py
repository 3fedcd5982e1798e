"""What a format is: a name, a test and a reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hanlin.data.ledger import Drop

Item = TypeVar("Item")


_MAX_META_CHARS = 300


@dataclass(frozen=True, slots=True)
class Format(Generic[Item]):
    """A way to write records. `recognize` looks at one row's value; `read` yields what the row holds, or Drops.

    `judged` formats read the verdict on an answer; the others must not be given one.
    """

    name: str
    recognize: Callable[[Any], bool]
    read: Callable[[Any], Iterator[Item | Drop]]
    unpaired: bool = False


@dataclass(frozen=True, slots=True)
class ParsedRow(Generic[Item]):
    """What stands at one place: `number` counts the finds from 1, `row` is what was in the file."""

    record_number: int
    line: int
    item: Item | Drop
    row: Any


def collect_meta(row: Mapping[str, Any], used: Sequence[str] = ()) -> dict[str, Any]:
    """What else a row says, for `meta`: its short texts, numbers, truth values and lists of short texts."""
    facts: dict[str, Any] = {}
    for name, value in row.items():
        if name in used or name == "meta" or value in ("", None):
            continue
        short = isinstance(value, str) and len(value) <= _MAX_META_CHARS
        if short or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            facts[str(name)] = value
        elif isinstance(value, list) and value and all(isinstance(x, str) and len(x) <= 50 for x in value[:20]):
            facts[str(name)] = value[:20]
    if isinstance(row.get("meta"), Mapping):
        facts = collect_meta(row["meta"]) | _collect_nested_texts(row["meta"]) | facts
    return facts


def _collect_nested_texts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The texts that stand under a name of their own in `meta`, as a MOSS chat's inner thoughts by their turn."""
    return {
        str(name): dict(value)
        for name, value in meta.items()
        if isinstance(value, Mapping) and value and all(isinstance(text, str) for text in value.values())
    }


def strip_turn(text: str) -> str:
    """A turn or question without the white space around it; the indent of a first line of code stays."""
    text = text.rstrip().lstrip("\r\n")
    return text if text.startswith(("  ", "\t")) else text.lstrip()
