"""Exports of messengers: what people wrote to each other, with names or numbers in place of roles.

Discord (DiscordChatExporter), Telegram, Slack, and what tools take out of WeChat. Nobody in them is an assistant until
somebody says who, so that they are named with the way out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.core.i18n import mark, tr

MESSENGER_EXPORT = mark("this is what people wrote to each other in a messenger, without a user and an assistant")
_DISCORD = (
    """jq -c '{messages: [.messages[] | select(.content != "") | {role: .author.name, content}]}' in.json > out.jsonl"""
)
_TELEGRAM = (
    """jq -c '{messages: [.messages[] | select(.from and .text != "") | {role: .from, content: (.text | """
    """if type == "array" then map(.text? // .) | add else . end)}]}' in.json > out.jsonl"""
)
_SLACK = (
    """jq -c -s '{messages: map(select(.user and .text != "") | {role: .user, content: .text})}' in.jsonl > out.jsonl"""
)
_SENT = ("is_sender", "isSender", "IsSender", "is_send", "isSend")
_SAID = ("msg", "content", "StrContent", "message", "text")


def describe_messenger(rows: Sequence[Any]) -> tuple[str, str] | None:
    """Describe rows of a messenger's export: (what it is, the way out); None for any other rows."""
    for row in rows:
        if not isinstance(row, dict):
            return None
        command = _find_command(row)
        if command is None:
            continue
        if not command:
            return tr(MESSENGER_EXPORT), tr(
                "write the messages of a conversation into one row: {example}",
                example='{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}',
            )
        return tr(MESSENGER_EXPORT), tr(
            "write the messages of a conversation into one row, such as with {command}, and name who is who with "
            "`roles`",
            command=f"`{command}`",
        )
    return None


def _find_command(row: Mapping[str, Any]) -> str | None:
    """The command that writes the messages of such an export into one row, or an empty text; None if it is none."""
    said = row.get("messages")
    if isinstance(said, list):
        turns = [turn for turn in said if isinstance(turn, dict)]
        if any("role" in turn for turn in turns):
            return None
        if any(isinstance(turn.get("author"), dict) and isinstance(turn.get("content"), str) for turn in turns):
            return _DISCORD
        is_telegram = any("from_id" in turn and "from" in turn and "text" in turn for turn in turns)
        return _TELEGRAM if is_telegram else None
    if row.get("type") == "message" and isinstance(row.get("ts"), str) and isinstance(row.get("text"), str):
        return _SLACK if isinstance(row.get("user"), str) else None
    sent = next((name for name in _SENT if str(row.get(name)) in ("0", "1", "True", "False")), "")
    text = next((name for name in _SAID if isinstance(row.get(name), str)), "")
    if not sent or not text or "role" in row:
        return None
    if isinstance(row[sent], str):
        return ""
    is_mine = sent if isinstance(row[sent], bool) else f"{sent} == 1"
    role = f'(if .{is_mine} then "me" else "other" end)'
    return f"jq -c '{{messages: map({{role: {role}, content: .{text}}})}}' in.json > out.jsonl"
