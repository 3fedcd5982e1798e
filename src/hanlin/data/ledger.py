"""The ledger of a data stage: rows in = rows kept + rows dropped by named reason, every dropped row readable.

Holds the reasons, their descriptions, and the form of `ledger.json` and `dropped.jsonl`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanlin.core.i18n import join_list, mark, tr


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that is dropped.

    Attributes:
        reason: A key of `REASONS`.
        detail: What was found in the row, the same text in every language.
    """

    reason: str
    detail: str = ""


REASONS: dict[str, str] = {
    "broken_json": mark("the line is not JSON"),
    "undecodable": mark("the bytes are not text in the file's encoding"),
    "line_too_long": mark("the line is too long to be a record"),
    "broken_csv": mark("the row has more or fewer columns than the header"),
    "broken_characters": mark("it contains a lone surrogate, which is no character"),
    "other_format": mark("its format differs from the rest of the file"),
    "no_text": mark("it has no text"),
    "no_question": mark("it has no question"),
    "no_answer": mark("it has no answer"),
    "empty_turn": mark("a turn is empty"),
    "no_parent": mark("the message that it answers is not beside it"),
    "turn_order": mark("its turns are not in order"),
    "unknown_role": mark("a turn has an unknown role; name it with `roles` of a source, or --role NAME=user"),
    "broken_tool_call": mark("a tool call is not JSON with a name and arguments"),
    "missing_result": mark("a tool call has no result, though a later one has"),
    "broken_tools": mark("the list of tools is not JSON, or a tool has no name"),
    "not_text": mark("a turn holds something other than text"),
    "media": mark("it needs a picture, sound or video"),
    "unclosed_reasoning": mark("the reasoning of an answer has no end"),
    "broken_history": mark("the turns before the question are in no known form"),
    "loss_weight": mark("a turn has a loss weight other than 0 and 1"),
    "other_loss_mask": mark("its list of loss flags is not as long as its turns"),
    "low_rating": mark("its rating is below `min_rating`"),
    "broken_rating": mark("its rating is no number"),
    "marked_wrong": mark("the data marks its answer as wrong"),
    "nothing_to_learn": mark("none of its answers is to be learned"),
    "placeholder": mark("{{name}} or {{author}} is not filled in"),
    "refusal": mark("an answer begins with a refusal"),
    "unparsed_tags": mark("there is text outside the tags of the turns"),
    "tie": mark("both answers have the same score"),
    "chosen_scores_lower": mark("the chosen answer has the lower score"),
    "identical_answers": mark("the two answers are the same"),
    "no_label": mark("it has no label that says whether the answer is good"),
    "truncated_cells": mark("the viewer that exported it cut some of its cells"),
    "labeled": mark("it is an answer labeled good or bad, which `unpaired_preferences` reads"),
    "different_prompts": mark("the two answers have different prompts"),
    "mojibake": mark("it was decoded with the wrong encoding and cannot be repaired"),
    "replacement_characters": mark("it has too many replacement characters (U+FFFD)"),
    "too_short": mark("it is too short"),
    "too_long": mark("it is too long"),
    "repeated_lines": mark("too much of it is repeated lines"),
    "ellipsis_lines": mark("too many of its lines break off with an ellipsis"),
    "keyword_list": mark("it is a list of keywords or addresses"),
    "repeated_phrases": mark("too much of it is repeated phrases"),
    "repeated_characters": mark("too much of it repeats one character"),
    "symbols": mark("too much of it is symbols"),
    "other_language": mark("it is neither Chinese nor English"),
    "advertisement": mark("it is an advertisement"),
    "advertorial": mark("a company or clinic advertises itself in it"),
    "no_turns": mark("it has no turns"),
    "tool_turns": mark("the output format has no tool calls or tool results"),
    "system_not_first": mark("the output format allows one system turn, at the start"),
    "not_alternating": mark("the output format only has question and answer pairs"),
    "turn_flags": mark("the output format cannot say which turns are learned"),
    "empty_question_or_answer": mark("the output format treats an empty turn as missing"),
    "round_trip_mismatch": mark("reading it back would give another record"),
    "unwanted_language": mark("its language is not in the list to keep"),
    "little_chinese": mark("too little of it is Chinese"),
    "personal_data": mark("it contains personal data"),
    "blocklist": mark("it contains words of a blocklist"),
    "low_quality": mark("the quality model scores it low"),
    "ocr_debris": mark("it has too many OCR errors"),
    "truncated_answer": mark("an answer is truncated"),
    "answer_language": mark("an answer is in another language than the question"),
    "answer_too_long": mark("an answer is longer than the rule answer_length allows"),
    "answer_too_short": mark("an answer is shorter than the rule answer_length allows"),
    "contaminated": mark("it contains questions of an evaluation set"),
    "over_budget": mark("the token budget of the mix was used up"),
    "duplicate": mark("it is a duplicate"),
    "near_duplicate": mark("it is a near-duplicate"),
    "contained": mark("most of it is in a longer document"),
    "overlay": mark("a person dropped it in the overlay"),
}
_MAX_UNREAD_NAMES = 200
_MAX_UNREAD_NAME_CHARS = 60
DUPLICATE_REASONS = frozenset({"duplicate", "near_duplicate", "contained"})


def describe_reason(reason: str) -> str:
    """Describe a reason of `REASONS` in the user's language."""
    return tr(REASONS[reason])


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
