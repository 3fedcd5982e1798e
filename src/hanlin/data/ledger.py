"""The ledger of a data stage: rows in = rows kept + rows dropped by named reason, every dropped row readable.

Holds the form of `ledger.json` and `dropped.jsonl`; the reasons and their descriptions are in `config.reasons`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanlin.core.i18n import join_list, tr


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that is dropped.

    Attributes:
        reason: A key of `config.reasons.DROP_REASONS`.
        detail: What was found in the row, the same text in every language.
    """

    reason: str
    detail: str = ""


_MAX_UNREAD_NAMES = 200
_MAX_UNREAD_NAME_CHARS = 60
DUPLICATE_REASONS = frozenset({"duplicate", "near_duplicate", "contained"})


def format_dropped_row(drop: Drop, location: str, row: Any, duplicate_of: str = "") -> str:
    """Format a dropped row as one line of `dropped.jsonl`, without the line end.

    Args:
        drop: The reason and its detail.
        location: `file:line` of the row, lines from 1.
        row: The row as it was read, any JSON value.
        duplicate_of: Id of the kept record, if the row is a duplicate.
    """
    line: dict[str, Any] = {"reason": drop.reason, "location": location}
    if drop.detail:
        line["detail"] = drop.detail
    if duplicate_of:
        line["duplicate_of"] = duplicate_of
    line["row"] = row
    return dump_json_line(line)


def dump_json_line(data: Any) -> str:
    """Serialize to JSON on one line, characters as they are; lone surrogates, which UTF-8 cannot hold, are escaped."""
    line = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(data, allow_nan=False)
    return line


_MAX_CUT_LINES, _MAX_CUT_LINE_CHARS, _MAX_LISTED_CUT_LINES = 1_000, 120, 100
"""Different lines of a shard that are counted, characters of a line that are kept, and lines that the ledger lists."""


@dataclass(slots=True)
class FileStats:
    """Row counts of one input file.

    Attributes:
        dropped: Dropped rows by reason.
        changed: Records changed by each rule.
        unread_fields: Records that do not carry a field of their row, by its name (`turn.field` for one of a turn).
        read_languages: Records of rows in several languages, by the one read; `plain`: of columns that name none.
        cut_lines: Records from which rules cut a line, by the line.
        characters: Characters of the records that are kept.
    """

    file: str
    format: str
    encoding: str
    license: str = ""
    rows_in: int = 0
    rows_kept: int = 0
    rows_validation: int = 0
    characters: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    unread_fields: Counter[str] = field(default_factory=Counter)
    read_languages: Counter[str] = field(default_factory=Counter)
    cut_lines: Counter[str] = field(default_factory=Counter)

    def add(self, other: FileStats) -> None:
        """Add the counts of another part of the same file."""
        self.rows_in += other.rows_in
        self.rows_kept += other.rows_kept
        self.rows_validation += other.rows_validation
        self.characters += other.characters
        self.dropped.update(other.dropped)
        self.changed.update(other.changed)
        self.unread_fields.update(other.unread_fields)
        self.read_languages.update(other.read_languages)
        self.cut_lines.update(other.cut_lines)

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"file": self.file, "format": self.format, "encoding": self.encoding}
        if self.license:
            row["license"] = self.license
        return row | self.counts()

    def counts(self) -> dict[str, Any]:
        """The counts without file name, format and encoding."""
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.rows_kept,
            "rows_validation": self.rows_validation,
            "rows_dropped": sum(self.dropped.values()),
            "characters": self.characters,
            "dropped": dict(sorted(self.dropped.items())),
            "changed": dict(sorted(self.changed.items())),
            "unread_fields": dict(sorted(self.unread_fields.items())),
            **({"read_languages": dict(sorted(self.read_languages.items()))} if self.read_languages else {}),
        }


def count_unread_fields(counts: Counter[str], names: Sequence[str]) -> None:
    """Count the fields that one record does not carry; of a file with very many names the later ones as `*`."""
    for name in dict.fromkeys(names):
        name = name[:_MAX_UNREAD_NAME_CHARS]
        counts[name if name in counts or len(counts) < _MAX_UNREAD_NAMES else "*"] += 1


def count_cut_lines(counts: Counter[str], before: str, after: str) -> None:
    """Count the lines of a text that rules cut; of very many different lines the later ones not at all."""
    if before.count("\n") <= after.count("\n"):
        return
    left = set(after.split("\n"))
    for line in dict.fromkeys(line.strip() for line in before.split("\n")):
        shown = line[:_MAX_CUT_LINE_CHARS]
        if line and line not in left and (shown in counts or len(counts) < _MAX_CUT_LINES):
            counts[shown] += 1


def most_frequent_cut_lines(counts: Mapping[str, int]) -> dict[str, int]:
    """The lines that rules cut most often, for the ledger."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_LISTED_CUT_LINES])


def describe_unread_fields(counts: Mapping[str, int], max_names: int = 12) -> str:
    """Describe the fields that records do not carry, those of most records first: `unread fields: score 3, lang 3`."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    names = [f"{name} {count:,}" for name, count in ranked[:max_names]]
    names += ["…"] if len(ranked) > max_names else []
    return tr("unread fields: {names}", names=join_list(names))
