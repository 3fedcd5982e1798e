"""Fields of a turn: those that are read, and those that no message carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.core.records import Role
from hanlin.data.formats.content.calls import ARGUMENT_FIELDS
from hanlin.data.formats.content.loss_flags import LOSS_FIELDS, MASK_FIELDS, read_loss_flag
from hanlin.data.formats.content.parts import CONTENT_FIELDS, RESULT_ID_FIELDS, find_unread_part_fields
from hanlin.data.formats.content.reasoning import TURN_REASONING_FIELDS, read_reasoning
from hanlin.data.formats.content.roles import CALL_ROLES, ROLE_FIELDS, ROLE_NAMES, find_role_name

CALL_FIELDS = ("tool_calls", "function_call", "tool_call")
"""Fields of an assistant's turn that hold its calls."""
RESULT_NAME_FIELDS = ("name", "tool_name")
"""Fields of a tool's turn that hold the name of the tool."""

_ALWAYS_READ = frozenset((*ROLE_FIELDS, *CONTENT_FIELDS))
_TOOL_READ = frozenset((*RESULT_NAME_FIELDS, *RESULT_ID_FIELDS, "observation", "parameters"))
_FLAGS = frozenset((*LOSS_FIELDS, *MASK_FIELDS))
_OTHERS = frozenset((*CALL_FIELDS, *TURN_REASONING_FIELDS))
_PART_FIELDS = frozenset((*CONTENT_FIELDS, *CALL_FIELDS))


def is_turn_field(name: str) -> bool:
    """Whether a field says something of a single turn, not of its conversation."""
    return name in _ALWAYS_READ or name in _TOOL_READ or name in _FLAGS or name in _OTHERS


def find_unread_turn_fields(turns: Sequence[Any]) -> tuple[str, ...]:
    """Find the fields of turns that no message carries, as `turn.field`; empty ones do not count."""
    unread: dict[str, None] = {}
    for turn in turns:
        if not isinstance(turn, dict):
            continue
        if len(turn) > 2 and (others := _find_other_texts(turn)):
            unread |= dict.fromkeys(others)
        for key, value in turn.items():
            if isinstance(value, list) and key in _PART_FIELDS:
                unread |= dict.fromkeys(f"turn.{key}.{name}" for name in find_unread_part_fields(value))
            if key not in _ALWAYS_READ and not _is_read(turn, key):
                unread[f"turn.{key}"] = None
    return tuple(unread)


def _find_other_texts(turn: Mapping[str, Any]) -> list[str]:
    """Find the second content or role of a turn that has several which differ, as `turn.field`."""
    contents = [key for key in CONTENT_FIELDS if turn.get(key)]
    unread = [f"turn.{key}" for key in contents[1:] if turn[key] != turn[contents[0]]]
    roles = [key for key in ROLE_FIELDS if turn.get(key)]
    if len(roles) > 1:
        role = ROLE_NAMES.get(str(turn[roles[0]]).strip().lower())
        unread += [f"turn.{key}" for key in roles[1:] if ROLE_NAMES.get(str(turn[key]).strip().lower()) != role]
    return unread


def _is_read(turn: Mapping[str, Any], key: str) -> bool:
    """Whether a message carries a field of a turn besides its role and content; an empty one has nothing to carry."""
    value = turn[key]
    if value in (None, "", [], {}):
        return True
    name = find_role_name(turn)
    role = ROLE_NAMES.get(name)
    if key in _FLAGS:
        return _is_read_flag(key, value, role)
    if role == "assistant":
        if name in CALL_ROLES and (key in ("id", "name") or key in ARGUMENT_FIELDS):
            return True
        if key in TURN_REASONING_FIELDS:
            return read_reasoning(value) is not None
        return key in CALL_FIELDS or key == "metadata"
    if role == "tool":
        return key in _TOOL_READ
    return role == "system" and key in ("tools", "functions")


def _is_read_flag(key: str, value: Any, role: Role | None) -> bool:
    """Whether a flag is obeyed: any of an answer; of other turns, which are never learned, one that says so."""
    flag = read_loss_flag({key: value})
    return flag is not None and (role == "assistant" or flag is False)
