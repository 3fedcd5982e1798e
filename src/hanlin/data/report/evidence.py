"""Why a row was dropped, shown in its text: the turn that was judged, and the phrase that decided.

A detail says which turn and which phrase (`turn 2: 很抱歉`); if it is a share, the phrase is found again in the text.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.documents import ParsedText
from hanlin.data.formats.preferences import ParsedPreference
from hanlin.data.formats.registry import ANY_FORMATS
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.formats.unpaired_preferences import ParsedUnpaired
from hanlin.data.report.excerpts import Parts, split_parts

_TURN = re.compile(r"turn (\d+)(?:: |, |$)")
_LEAD = re.compile(r"share [\d.]+, |\d+ times |score [\d.]+|[\w-]+, [\w-]+: ")
"""What stands before a phrase in details."""
_RUN = re.compile(r"(.)\1{5,}", re.DOTALL)
_BEFORE_CHARS, _AFTER_CHARS, _TURN_CHARS, _QUESTION_CHARS = 60, 140, 280, 120
_NGRAM_CHARS = 8
_MAX_SEARCHED_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """The judged part of a row.

    Attributes:
        label: Whose turn it is; empty for a document.
        turn: Its number from 1; 0 for a document.
        question: The beginning of the turn before it.
        before: Text before the phrase; if no phrase is known, the beginning of the turn.
        phrase: What decided.
        after: Text after the phrase.
    """

    label: str
    turn: int
    question: str
    before: str
    phrase: str
    after: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).__dataclass_fields__}


def find_evidence(row: Any, reason: str, detail: str) -> Evidence | None:
    """The judged turn of a dropped row and the phrase in it that decided.

    Args:
        row: The row, as it was read.
        reason: Why it was dropped.
        detail: What the rule found.

    Returns:
        None if the row is no record, or if it was dropped for its form and not for its text.
    """
    parts = read_turns(row)
    numbered = _TURN.match(detail)
    phrases = _phrases(detail[numbered.end() :] if numbered else detail)
    index = int(numbered[1]) - 1 if numbered and int(numbered[1]) <= len(parts) else None
    candidates = [index] if index is not None else list(range(len(parts)))
    for phrase in phrases:
        for candidate in [*candidates, *range(len(parts))]:
            if phrase in parts[candidate][1]:
                return _show(parts, candidate, phrase)
    repeats = {"repeated_lines": _repeated_line, "repeated_phrases": _repeated_phrase, "repeated_characters": _run}
    if reason in repeats:
        for candidate in sorted(candidates, key=lambda number: parts[number][0] != "assistant"):
            if phrase := repeats[reason](parts[candidate][1][:_MAX_SEARCHED_CHARS]):
                return _show(parts, candidate, phrase)
    return None if index is None else _show(parts, index, "")


def read_turns(row: Any) -> Parts:
    """The turns of a row in any format as (role, text); of what is no record, its fields."""
    known = next((candidate for candidate in ANY_FORMATS if candidate.recognize(row)), None)
    item = None if known is None else next(islice(known.read(row), 1), None)
    turns: tuple[Message, ...]
    if isinstance(item, ParsedChat):
        turns = item.messages
    elif isinstance(item, ParsedPreference):
        turns = (*item.prompt, item.chosen, item.rejected)
    elif isinstance(item, ParsedUnpaired):
        turns = (*item.prompt, item.answer)
    elif isinstance(item, ParsedText):
        return [("", item.text)]
    else:
        return split_parts(row)
    return [(turn.role, turn.text) for turn in turns]


def _phrases(detail: str) -> list[str]:
    """What a detail quotes, the longest first."""
    quoted = _LEAD.sub("", detail, count=1)
    phrases = dict.fromkeys([quoted, *quoted.split("、"), *quoted.split(", ")])
    return sorted((phrase for phrase in phrases if phrase.strip()), key=len, reverse=True)


def _repeated_line(text: str) -> str:
    lines = Counter(line for line in text.split("\n") if line.strip())
    line, count = max(lines.items(), key=lambda item: item[1] * len(item[0]), default=("", 0))
    return line if count > 1 else ""


def _repeated_phrase(text: str) -> str:
    """The phrase that covers most of a text: the most frequent n-gram, as far as its occurrences go on alike."""
    ngrams = Counter(text[start : start + _NGRAM_CHARS] for start in range(len(text) - _NGRAM_CHARS + 1))
    phrase, count = max(ngrams.items(), key=lambda item: item[1], default=("", 0))
    if count < 2:
        return ""
    first = text.index(phrase)
    second = text.index(phrase, first + 1)
    length = _NGRAM_CHARS
    while first + length < second and second + length < len(text) and text[first + length] == text[second + length]:
        length += 1
    return text[first : first + length]


def _run(text: str) -> str:
    return max((match[0] for match in _RUN.finditer(text)), key=len, default="")


def _show(parts: Parts, index: int, phrase: str) -> Evidence:
    label, text = parts[index]
    number = index + 1 if label else 0
    question = parts[index - 1][1][:_QUESTION_CHARS] if index and label == "assistant" else ""
    if not phrase:
        return Evidence(label, number, question, _ellipsis(text[:_TURN_CHARS], len(text) > _TURN_CHARS), "", "")
    start = text.index(phrase)
    end = start + len(phrase)
    before, after = text[max(0, start - _BEFORE_CHARS) : start], text[end : end + _AFTER_CHARS]
    before = "…" * (start > _BEFORE_CHARS) + before
    return Evidence(
        label, number, question, before, phrase[:_TURN_CHARS], _ellipsis(after, end + _AFTER_CHARS < len(text))
    )


def _ellipsis(text: str, cut: bool) -> str:
    return text + "…" * cut
