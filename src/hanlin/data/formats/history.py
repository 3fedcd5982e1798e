"""The turns before a question, in a field beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.content.calls import parse_data
from hanlin.data.formats.content.loss_flags import read_loss_flag
from hanlin.data.formats.content.roles import SPEAKER_ROLES, list_speakers
from hanlin.data.formats.content.turn_fields import find_unread_turn_fields
from hanlin.data.formats.turns import alternate_roles, join_turns
from hanlin.data.ledger import Drop

HISTORY_FIELDS = (
    *("history", "chat_history", "conversation_history", "dialogue_history", "dialog_history", "histories"),
    *("previous_turns", "past_turns", "历史对话", "对话历史", "历史消息", "历史问答"),
)
"""Fields of a row that hold the turns before its question."""
_OTHER_FIELDS = ("context", "历史", "历史记录", "上文", "previous", "past")
"""Fields that hold them if what they hold is a list of turns, and else a text, a subject or passages."""
_QUESTIONS = ("prompt", "question", "query", "input", "ask", "q", "instruction", "user", "human", "问题", "问")
_ANSWERS = (
    *("response", "answer", "target", "output", "completion", "reply", "a", "assistant", "bot", "gpt"),
    *("回答", "答"),
)
_NOTHING = frozenset({"", "none", "null", "nan", "n/a", "[]"})
"""Texts that tables hold in place of an empty list."""
_FIELDS = frozenset((*HISTORY_FIELDS, *_OTHER_FIELDS))


def find_history(row: Mapping[str, Any]) -> str:
    """Find the field of the turns before a question: a `context` only if it is a list of turns with roles.

    Another ambiguous name counts if turns can be read from it. Empty without any.
    """
    if _FIELDS.isdisjoint(row):
        return ""
    for name in HISTORY_FIELDS:
        if row.get(name):
            return name
    for name in _OTHER_FIELDS:
        turns = row.get(name) if name == "context" else _parse_history(row.get(name))
        if not isinstance(turns, list) or not turns:
            continue
        if all(isinstance(turn, dict) for turn in turns):
            if name != "context" or _has_roles(turns):
                return name
        elif name != "context" and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in turns):
            return name
    return ""


def read_history(row: Mapping[str, Any]) -> tuple[Message, ...] | Drop:
    """Read the turns before a question: a list of [question, answer], of turns, or of texts said in turn; or its text.

    A table holds it as JSON or as Python writes lists.
    """
    name = find_history(row)
    if not name:
        return ()
    history = _parse_history(row[name])
    if history is None:
        return Drop("broken_history", str(row[name])[:80])
    if not history:
        return ()
    if isinstance(history, list):
        if all(isinstance(turn, dict) for turn in history):
            return _read_history_turns(history)
        if all(isinstance(text, str) for text in history) and len(history) % 2 == 0:
            return alternate_roles(history)
        if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
            texts = [text for pair in history for text in pair]
            if all(isinstance(text, str) for text in texts):
                return alternate_roles(texts)
    return Drop("broken_history", str(history)[:80])


def find_unread_history_fields(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Find the fields of the turns before a question that no message carries, as `history.field`."""
    name = find_history(row)
    history = _parse_history(row.get(name)) if name else None
    if not isinstance(history, list) or not all(isinstance(turn, dict) for turn in history):
        return ()
    if _has_roles(history):
        return tuple(field.replace("turn.", "history.", 1) for field in find_unread_turn_fields(history))
    unread = [
        f"history.{key}"
        for turn in history
        for key, value in turn.items()
        if value not in (None, "", [], {})
        and key not in (_find_text(turn, _QUESTIONS), _find_text(turn, _ANSWERS))
        and read_loss_flag({key: value}) is None
    ]
    return tuple(dict.fromkeys(unread))


def _parse_history(history: Any) -> Any:
    if isinstance(history, str):
        text = history.strip()
        return [] if text.lower() in _NOTHING else parse_data(text) or _split_lines(text)
    return history or []


def _split_lines(text: str) -> list[dict[str, str]] | None:
    """The turns of a text in which each line begins with the role of who says it; None for any other text."""
    spoken = list_speakers(text, least=1)
    roles = [SPEAKER_ROLES.get(name.lower()) for name, _ in spoken]
    if not spoken or None in roles:
        return None
    return [{"role": str(role), "content": said} for role, (_, said) in zip(roles, spoken, strict=True)]


def _has_roles(history: Sequence[Mapping[str, Any]]) -> bool:
    return any("role" in turn or "from" in turn for turn in history)


def _read_history_turns(history: Sequence[Mapping[str, Any]]) -> tuple[Message, ...] | Drop:
    if _has_roles(history):
        return join_turns(history)
    messages: list[Message] = []
    for turn in history:
        question, answer = _find_text(turn, _QUESTIONS), _find_text(turn, _ANSWERS)
        if question is None or answer is None:
            return Drop("broken_history", str(turn)[:80])
        train = read_loss_flag(turn)
        if isinstance(train, Drop):
            return train
        asked, answered = alternate_roles([turn[question], turn[answer]])
        messages += [asked, replace(answered, train=train)]
    return tuple(messages)


def _find_text(turn: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if isinstance(turn.get(name), str)), None)
