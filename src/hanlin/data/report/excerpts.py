"""Records and raw rows for people: labeled parts, shortened; two texts with their differences marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

MAX_EXCERPT_CHARS = 480
_MAX_DIFF_CHARS = 1_200
_CONTEXT_CHARS = 60
_MAX_PARTS = 8
_ANSWER_FIELDS = ("chosen", "rejected", "answer")

Parts = list[tuple[str, str]]
Marked = list[tuple[bool, str]]


def split_parts(row: Any) -> Parts:
    """Split a record or a raw row into (label, text) parts; a text alone has no label."""
    if not isinstance(row, Mapping):
        return [("", row if isinstance(row, str) else _to_json(row))]
    if isinstance(row.get("messages"), Sequence) and not isinstance(row["messages"], str):
        return [_turn_part(turn) for turn in row["messages"]]
    if "prompt" in row and isinstance(row["prompt"], list):
        turns = [_turn_part(turn) for turn in row["prompt"]]
        label_text = {True: " (good)", False: " (bad)"}.get(row.get("good", ""), "")
        return turns + [(name + label_text, _turn_part(row[name])[1]) for name in _ANSWER_FIELDS if name in row]
    if isinstance(row.get("text"), str):
        return [("", row["text"])]
    return [(str(name), value if isinstance(value, str) else _to_json(value)) for name, value in row.items()]


def to_plain_text(row: Any) -> str:
    """The text of a record, without labels."""
    return "\n".join(text for _, text in split_parts(row))


def count_characters(row: Any) -> int:
    """Characters of a record's text."""
    return sum(len(text) for _, text in split_parts(row))


def make_excerpt(all_parts: Parts, max_chars: int = MAX_EXCERPT_CHARS) -> list[dict[str, Any]]:
    """Shorten the parts of a row to about `max_chars` characters in all.

    Returns:
        Up to 9 of {label, text, more}, where `more` counts the characters that are left out.
    """
    shown: list[dict[str, Any]] = []
    share = max(80, max_chars // max(1, min(len(all_parts), _MAX_PARTS)))
    for label, text in all_parts[:_MAX_PARTS]:
        beginning = text[:share]
        shown.append({"label": label, "text": beginning, "more": len(text) - len(beginning)})
    if len(all_parts) > _MAX_PARTS:
        rest = sum(len(text) for _, text in all_parts[_MAX_PARTS:])
        shown.append({"label": f"+{len(all_parts) - _MAX_PARTS}", "text": "", "more": rest})
    return shown


def diff_texts(left_text: str, right_text: str) -> tuple[Marked, Marked]:
    """Mark the differences of two texts, from shortly before the first one.

    Returns:
        Each text as a list of (differs, text).
    """
    first_difference = next(
        (index for index, (a, b) in enumerate(zip(left_text, right_text, strict=False)) if a != b), 0
    )
    start = max(0, first_difference - _CONTEXT_CHARS)
    left, right = (text[start : start + _MAX_DIFF_CHARS] for text in (left_text, right_text))
    ellipsis: Marked = [(False, "…")] if start else []
    pieces: tuple[Marked, Marked] = ([*ellipsis], [*ellipsis])
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for marked, piece in zip(pieces, (left[a:b], right[c:d]), strict=True):
            if piece:
                marked.append((kind != "equal", piece))
    for marked, text in zip(pieces, (left_text, right_text), strict=True):
        if len(text) > start + _MAX_DIFF_CHARS:
            marked.append((False, "…"))
    return pieces


def _turn_part(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        return "", _to_json(turn)
    content = turn.get("text", turn.get("content", ""))
    content = content if isinstance(content, str) else _to_json(content)
    calls = "\n".join(_to_json(call) for call in turn.get("tool_calls") or ())
    return str(turn.get("role", "")), "\n".join(filter(None, (content, calls)))


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def shorten_row(row: Any, max_chars: int = 300) -> str:
    """Write a record on one line of at most `max_chars` characters."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
