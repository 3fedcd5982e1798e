"""Lists that are not written as lists: turns as JSON text in a cell, and turns as columns."""

from __future__ import annotations

from typing import Any

from hanlin.data.formats.content.calls import parse_data

_LIST_FIELDS = frozenset((
    *("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "prompt", "completion", "context"),
    *("chosen", "rejected", "chosen_messages", "rejected_messages", "prompt_messages", "paragraphs"),
))  # fmt: skip
"""Fields that hold lists in some format."""
_ROLE_KEYS = ("role", "from", "speaker", "human", "user", "input")


def decode_cells(value: Any) -> Any:
    """Decode the lists of turns that a row holds as text (JSON, or as Python writes it) or as columns.

    A text that only looks like a list, such as a question in brackets, stays a text: what is decoded has to be a list
    of turns.

    Returns:
        The row itself if it holds none.

    Example:
        {"messages": '[{"role": "user", "content": "你好"}]'} and {"messages": {"role": ["user"], "content": ["你好"]}}
        become {"messages": [{"role": "user", "content": "你好"}]}.
    """
    if not isinstance(value, dict) or _LIST_FIELDS.isdisjoint(value):
        return value
    decoded = {}
    for name in value.keys() & _LIST_FIELDS:
        turns = _decode(value[name])
        if turns is not None:
            decoded[name] = turns
    return {**value, **decoded} if decoded else value


def _decode(cell: Any) -> list[Any] | None:
    if isinstance(cell, str):
        text = cell.strip()
        if not text.startswith("[") or not text.endswith("]"):
            return None
        cell = parse_data(text)
        if isinstance(cell, list) and cell and all(isinstance(turn, dict) for turn in cell):
            return cell if any(key in cell[0] for key in _ROLE_KEYS) else None
        return None
    if isinstance(cell, dict) and any(isinstance(cell.get(key), list) for key in ("role", "from")):
        columns = [column for column in cell.values() if isinstance(column, list)]
        if len(columns) == len(cell) and len({len(column) for column in columns}) == 1:
            return [dict(zip(cell, turn, strict=True)) for turn in zip(*columns, strict=True)]
    return None
