"""Turns written without `role` or `from`: LangChain's messages, objects whose only key is the role, and flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hanlin.data.formats.content.roles import ROLE_FIELDS, ROLE_NAMES
from hanlin.data.formats.content.turn_fields import CALL_FIELDS

_HAS_ROLE = frozenset(ROLE_FIELDS)
_TYPES = {
    "human": "user",
    "ai": "assistant",
    **{name: name for name in ("user", "assistant", "system", "developer", "tool", "function")},
}
"""Our names of LangChain's types of messages."""


def name_roles(turns: Sequence[Any]) -> list[dict[str, Any]] | None:
    """Write the role of every turn into a field `role`.

    Args:
        turns: A list in a row.

    Returns:
        The turns; None if they have roles already, or if one of them is in no known shape, so that it may be anything.

    Example:
        {"type": "human", "data": {"content": "你好"}}, {"type": "human", "content": "你好"} and {"user": "你好"} become
        {"role": "user", "content": "你好"}.
    """
    named = []
    for turn in turns:
        if not isinstance(turn, dict) or not _HAS_ROLE.isdisjoint(turn):
            return None
        fields = _read_langchain(turn) or _read_only_key(turn) or _read_role_flag(turn)
        if fields is None:
            return None
        named.append(fields)
    return named or None


def _read_only_key(turn: dict[str, Any]) -> dict[str, Any] | None:
    """A turn such as {"user": "你好"}."""
    if len(turn) != 1:
        return None
    ((name, content),) = turn.items()
    is_role = str(name).strip().lower() in ROLE_NAMES
    return {"role": name, "content": content} if is_role and isinstance(content, str | list) else None


_ROLE_FLAGS = {
    **dict.fromkeys(("is_human", "is_user", "isUser", "from_user", "is_from_user"), ("user", "assistant")),
    **dict.fromkeys(("is_bot", "is_ai", "is_assistant", "isBot", "from_bot"), ("assistant", "user")),
}
"""Flags of turns that say who speaks: the roles of true and of false."""


def _read_role_flag(turn: dict[str, Any]) -> dict[str, Any] | None:
    """A turn such as {"message": "你好", "is_human": true} (PIPPA, SillyTavern)."""
    flag = next((name for name in _ROLE_FLAGS if isinstance(turn.get(name), bool)), None)
    if flag is None:
        return None
    role = _ROLE_FLAGS[flag][0 if turn[flag] else 1]
    return {"role": role, **{name: value for name, value in turn.items() if name != flag}}


def _read_langchain(turn: dict[str, Any]) -> dict[str, Any] | None:
    """A message of LangChain: as `messages_to_dict` writes it, as `dumpd` does, or with its fields beside the type."""
    kind, rest = turn.get("type"), {name: value for name, value in turn.items() if name != "type"}
    if kind == "constructor" and isinstance(turn.get("kwargs"), dict) and isinstance(turn.get("id"), list):
        kind, rest = (str(turn["id"][-1]) if turn["id"] else ""), turn["kwargs"]
    elif isinstance(turn.get("data"), dict):
        rest = {**{name: value for name, value in rest.items() if name != "data"}, **turn["data"]}
    if not isinstance(kind, str):
        return None
    name = kind.strip().removesuffix("Chunk").removesuffix("Message").lower()
    role = rest.get("role") if name == "chat" else _TYPES.get(name)
    if not isinstance(role, str):
        return None
    fields = {"role": role, **{key: value for key, value in rest.items() if key not in ("role", "type")}}
    return _lift_calls(fields)


def _lift_calls(fields: dict[str, Any]) -> dict[str, Any]:
    """Move the calls out of `additional_kwargs`, where LangChain keeps them as the service wrote them."""
    extra = fields.get("additional_kwargs")
    if not isinstance(extra, dict):
        return fields
    calls = {name: extra[name] for name in CALL_FIELDS if extra.get(name)}
    rest = {name: value for name, value in extra.items() if name not in calls and value not in (None, "", [], {})}
    has_calls = any(fields.get(name) for name in CALL_FIELDS)
    return {**fields, **({} if has_calls else calls), "additional_kwargs": rest}
