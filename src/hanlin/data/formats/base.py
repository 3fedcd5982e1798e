"""What a format is: a name, a test and a reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hanlin.data.ledger import Drop

Item = TypeVar("Item")


_LONGEST_META = 300


@dataclass(frozen=True, slots=True)
class Format(Generic[Item]):
    """A way to write records. `recognize` looks at one row's value; `read` yields what the row holds, or Drops.

    `judged` formats read the verdict on an answer; the others must not be given one.
    """

    name: str
    recognize: Callable[[Any], bool]
    read: Callable[[Any], Iterator[Item | Drop]]
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Found(Generic[Item]):
    """What stands at one place: `number` counts the finds from 1, `row` is what was in the file."""

    number: int
    line: int
    item: Item | Drop
    row: Any


def side_facts(row: Mapping[str, Any], used: Sequence[str] = ()) -> dict[str, Any]:
    """What else a row says, for `meta`: its short texts, numbers, truth values and lists of short texts."""
    facts: dict[str, Any] = {}
    for name, value in row.items():
        if name in used or name == "meta" or value in ("", None):
            continue
        short = isinstance(value, str) and len(value) <= _LONGEST_META
        if short or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            facts[str(name)] = value
        elif isinstance(value, list) and value and all(isinstance(x, str) and len(x) <= 50 for x in value[:20]):
            facts[str(name)] = value[:20]
    if isinstance(row.get("meta"), Mapping):
        facts = side_facts(row["meta"]) | _notes(row["meta"]) | facts
    return facts


def _notes(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The texts that stand under a name of their own in `meta`, as a MOSS chat's inner thoughts by their turn."""
    return {
        str(name): dict(value)
        for name, value in meta.items()
        if isinstance(value, Mapping) and value and all(isinstance(text, str) for text in value.values())
    }


def tidy(text: str) -> str:
    """A turn or question without the white space around it; the indent of a first line of code stays."""
    text = text.rstrip().lstrip("\r\n")
    return text if text.startswith(("  ", "\t")) else text.lstrip()
