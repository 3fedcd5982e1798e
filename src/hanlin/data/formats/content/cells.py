"""Lists of turns in other shapes: as JSON text in a cell, as columns, and of turns without a field for their role."""

from __future__ import annotations

import re
from typing import Any

from hanlin.data.formats.content.api_shapes import unfold_request, unfold_turns
from hanlin.data.formats.content.calls import parse_data
from hanlin.data.formats.content.roles import ROLE_FIELDS
from hanlin.data.formats.content.turn_shapes import name_roles

_LIST_FIELDS = frozenset((
    *("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "prompt", "completion", "context"),
    *("chosen", "rejected", "chosen_messages", "rejected_messages", "prompt_messages", "paragraphs"),
    *("data", "items", "contents", "chat", "trajectory", "traj"),
))  # fmt: skip
"""Fields that hold lists in some format."""
_ITEM_FIELDS = ("input", "output")
"""Fields that hold the items of OpenAI's Responses API, and are never decoded from text: a task may give a list."""
_API_FIELDS = frozenset((
    *(*_ITEM_FIELDS, "request", "body", "data", "conversation", "sample", "result", "chat_template_kwargs"),
))  # fmt: skip
"""Those, and fields that may hold a request as an object."""
ADAPTED_FIELDS = _LIST_FIELDS | _API_FIELDS
"""Fields that `decode_cells` looks at."""
_NO_COMMA = re.compile(r"\}\s+\{")
_ROLE_KEYS = (*ROLE_FIELDS, "human", "user", "input")
_HAS_ROLE = frozenset(ROLE_FIELDS)


def decode_cells(value: Any) -> Any:
    """Decode the lists of turns that a row holds as text (JSON, or as Python writes it), as columns, or without roles.

    A text that only looks like a list, such as a question in brackets, stays a text: what is decoded has to be a list
    of turns.

    Returns:
        The row itself if it holds none, or is no such list.

    Example:
        {"messages": '[{"role": "user", "content": "你好"}]'} and {"messages": {"role": ["user"], "content": ["你好"]}}
        become {"messages": [{"role": "user", "content": "你好"}]}.
    """
    if isinstance(value, list):
        return _decode(value) or value
    if not isinstance(value, dict):
        return value
    decoded = {}
    for name in value.keys() & _API_FIELDS:
        cell = value[name]
        if type(cell) is list and name in _ITEM_FIELDS and (turns := unfold_turns(cell)) is not None:
            decoded[name] = turns
        elif type(cell) is dict:
            value = unfold_request(value)
            break
    if _LIST_FIELDS.isdisjoint(value):
        return {**value, **decoded} if decoded else value
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
        if cell is None and _NO_COMMA.search(text):  # a table of pandas writes the lists of NumPy so
            cell = parse_data(_NO_COMMA.sub("}, {", text))
        if isinstance(cell, list) and cell and all(isinstance(turn, dict) for turn in cell):
            return name_roles(cell) or (cell if any(key in cell[0] for key in _ROLE_KEYS) else None)
        return None
    if isinstance(cell, list):
        unfolded = unfold_turns(cell) if cell and isinstance(cell[0], dict) else None
        if unfolded is not None:
            return name_roles(unfolded) or unfolded
        is_bare = bool(cell) and isinstance(cell[0], dict) and _HAS_ROLE.isdisjoint(cell[0])
        return name_roles(cell) if is_bare else None
    if isinstance(cell, dict) and any(isinstance(cell.get(key), list) for key in ("role", "from")):
        columns = [column for column in cell.values() if isinstance(column, list)]
        if len(columns) == len(cell) and len({len(column) for column in columns}) == 1:
            return [dict(zip(cell, turn, strict=True)) for turn in zip(*columns, strict=True)]
    return None
