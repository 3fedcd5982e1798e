"""Records and raw rows as a person reads them: labeled pieces, cut short; two texts with their differences marked.

Owns how they are cut. Does not own which are shown (`reporting`) or how they look (`pages`).
"""

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
    """What a record or a row of a file says, as (label, text); a text alone has no label."""
    if not isinstance(row, Mapping):
        return [("", row if isinstance(row, str) else _to_json(row))]
    if isinstance(row.get("messages"), Sequence) and not isinstance(row["messages"], str):
        return [_turn_part(turn) for turn in row["messages"]]
    if "prompt" in row and isinstance(row["prompt"], list):
        turns = [_turn_part(turn) for turn in row["prompt"]]
        verdict = {True: " (good)", False: " (bad)"}.get(row.get("good", ""), "")
        return turns + [(name + verdict, _turn_part(row[name])[1]) for name in _ANSWER_FIELDS if name in row]
    if isinstance(row.get("text"), str):
        return [("", row["text"])]
    return [(str(name), value if isinstance(value, str) else _to_json(value)) for name, value in row.items()]


def to_plain_text(row: Any) -> str:
    """The text of a record, without labels."""
    return "\n".join(text for _, text in split_parts(row))


def count_characters(row: Any) -> int:
    return sum(len(text) for _, text in split_parts(row))


def make_excerpt(row: Any, longest: int = MAX_EXCERPT_CHARS) -> list[dict[str, Any]]:
    """The beginnings of a row's parts, about `longest` characters in all, and how many characters are left out."""
    shown: list[dict[str, Any]] = []
    whole = split_parts(row)
    share = max(80, longest // max(1, min(len(whole), _MAX_PARTS)))
    for label, text in whole[:_MAX_PARTS]:
        cut = text[:share]
        shown.append({"label": label, "text": cut, "more": len(text) - len(cut)})
    if len(whole) > _MAX_PARTS:
        rest = sum(len(text) for _, text in whole[_MAX_PARTS:])
        shown.append({"label": f"+{len(whole) - _MAX_PARTS}", "text": "", "more": rest})
    return shown


def diff_texts(one: str, other: str) -> tuple[Marked, Marked]:
    """Both texts from shortly before their first difference, in pieces: (differs, text)."""
    same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    start = max(0, same - _CONTEXT_CHARS)
    left, right = (text[start : start + _MAX_DIFF_CHARS] for text in (one, other))
    ahead: Marked = [(False, "…")] if start else []
    pieces: tuple[Marked, Marked] = ([*ahead], [*ahead])
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        for side, piece in zip(pieces, (left[a:b], right[c:d]), strict=True):
            if piece:
                side.append((kind != "equal", piece))
    for side, text in zip(pieces, (one, other), strict=True):
        if len(text) > start + _MAX_DIFF_CHARS:
            side.append((False, "…"))
    return pieces


def _turn_part(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        return "", _to_json(turn)
    said = turn.get("text", turn.get("content", ""))
    said = said if isinstance(said, str) else _to_json(said)
    calls = "\n".join(_to_json(call) for call in turn.get("tool_calls") or ())
    return str(turn.get("role", "")), "\n".join(filter(None, (said, calls)))


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def shorten_row(row: Any, longest: int = 300) -> str:
    """A record on one line, cut to so many characters."""
    text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 1] + "…"
