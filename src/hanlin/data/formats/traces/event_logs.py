"""Logs of sessions with an event on each row: turns beside calls, results, settings and marks of time.

    {"type": "session_start", ...} {"type": "message", "message": {"role": "user", ...}} {"type": "tool_result", ...}

Row by row they look like documents or like broken chats. Claude Code, Codex, Gemini CLI, Copilot, Cursor, Droid and
others write them; no two alike, so that a log is known by the mixture of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.data.formats.content.roles import ROLE_NAMES
from hanlin.data.text.patterns import compile_on_use

_KIND_FIELDS = ("type", "kind", "event", "event_type", "record_type")
_SAID = compile_on_use(
    r"(?:user|human|assistant|ai|model|agent|gemini|system|planner)(?:[._ -](?:message|input|response|prompt|msg))?"
    r"|message|response[._ -]item|event[._ -]msg|item[._ -]\w+",
    re.I,
)
"""Kinds of rows that hold what somebody says."""
_DONE = compile_on_use(
    r"(?:custom[._ -])?(?:tool|function|mcp|shell|local[._ -]shell)s?(?:[._ -](?:call|use|result|response|output|start"
    r"|end|execution_start|execution_complete))*(?:[._ -]output)?|observation|reasoning|thinking|thought",
    re.I,
)
"""Kinds of rows that hold what a tool or the model's reasoning does."""
_FRAME = compile_on_use(
    r"(?:session|thread|turn|run|step|hook|compact|conversation|checkpoint)(?:[._ -]?\w+)*|summary|progress|init|result"
    r"|file-history-snapshot|queue-operation|attachment|last-prompt|mode|permission-mode|metadata|ai-title"
    r"|world[._ -]state|token[._ -]count|error|(?:config|context|llm|tools|agent|permission|usage|mcp)(?:\.\w+)+",
    re.I,
)
"""Kinds of rows about the session itself."""
_WHOLE = ("messages", "conversations", "conversation", "instruction", "chosen", "rejected", "output", "completion")
_TEXTS = ("content", "message", "text", "value", "parts")
_CALLS = ("tool_calls", "toolCalls", "thinking")
_USER = compile_on_use(r"(?:user|human)(?:[._ -](?:message|input|prompt|msg))?", re.I)
_MODEL = compile_on_use(r"(?:assistant|ai|model|agent|gemini|planner)(?:[._ -](?:message|response|msg))?", re.I)
_MIN_ROWS, _SHARE, _SHARE_OF_TWO = 2, 0.6, 0.3


def is_event_log(values: Sequence[Any]) -> bool:
    """Whether the rows that a file begins with are the events of a session: some say, others do or frame what is said.

    Args:
        values: The values of rows. Rows that hold a whole chat make no log.
    """
    rows = [value for value in values if isinstance(value, dict)]
    if len(rows) < _MIN_ROWS or 2 * len(rows) < len(values):
        return False
    kinds = [_find_kind(row) for row in rows]
    if any(
        isinstance(row.get(name), list | str) and (name != "output" or not kind)  # of a call
        for row, kind in zip(rows, kinds, strict=True)
        for name in _WHOLE
    ):
        return False
    num_events = sum(kind != "" for kind in kinds)
    if {"user", "model"} <= {_find_speaker(row) for row in rows}:
        return num_events >= _SHARE_OF_TWO * len(rows)
    return "said" in kinds and ("done" in kinds or "frame" in kinds) and num_events >= _SHARE * len(rows)


def _find_speaker(row: Mapping[str, Any]) -> str:
    """`user` or `model` if the kind of a row, or the message in it, says who speaks; empty for a row with a role."""
    kind = next((row[name] for name in _KIND_FIELDS if isinstance(row.get(name), str)), "")
    message = row.get("message")
    if isinstance(message, dict):
        kind = str(message.get("role", row.get("role", kind)))
    elif not any(name in row for name in (*_TEXTS, *_CALLS)) or "role" in row or "data" in row:
        return ""
    return "user" if _USER.fullmatch(kind) else "model" if _MODEL.fullmatch(kind) else ""


def _find_kind(row: Mapping[str, Any]) -> str:
    """What a row says that it is, `said`, `done` or `frame`, or `text` if its type alone says so; else empty."""
    message = row.get("message")
    if isinstance(message, dict) and ("role" in message or "role" in row or "content" in message):
        return "said"
    kind = next((row[name] for name in _KIND_FIELDS if isinstance(row.get(name), str)), None)
    role = row.get("role")
    if isinstance(role, str) and role.lower() in ROLE_NAMES and any(name in row for name in _TEXTS):
        return "said" if kind is None or _SAID.fullmatch(kind) else "done"
    if kind is None:
        return ""
    if _SAID.fullmatch(kind):
        if any(isinstance(row.get(name), dict) for name in ("payload", "data")):
            return "said"
        return "text" if any(name in row for name in (*_TEXTS, *_CALLS)) else "frame"
    if _DONE.fullmatch(kind):
        return "done"
    return "frame" if _FRAME.fullmatch(kind) else ""


_BY_MESSAGE = "`jq -c -s '{messages: [.[].message | objects | select(.role) | {role, content}]}' in.jsonl > out.jsonl`"
_BY_ROLE = "`jq -c -s '{messages: [.[] | select(.role) | {role, content: .message.content}]}' in.jsonl > out.jsonl`"
_BY_PAYLOAD = "`jq -c -s '{messages: [.[] | select(.type == \"response_item\").payload]}' in.jsonl > out.jsonl`"
_BY_ITEM = (
    '`jq -c -s \'{messages: [.[] | select(.role or (.type // "" | startswith("function_call")))]}\' '
    "in.jsonl > out.jsonl`"
)


def find_joining_command(values: Sequence[Any]) -> str:
    """The command that writes the messages of a log into one row, if its rows hold them in a way that is known."""
    rows = [value for value in values if isinstance(value, dict)]
    if any(isinstance(row.get("message"), dict) and "role" in row["message"] for row in rows):
        return _BY_MESSAGE
    if any(isinstance(row.get("message"), dict) and "content" in row["message"] and "role" in row for row in rows):
        return _BY_ROLE
    if any(row.get("type") == "response_item" and isinstance(row.get("payload"), dict) for row in rows):
        return _BY_PAYLOAD
    if any(row.get("type") in ("function_call", "function_call_output") for row in rows):
        return _BY_ITEM
    return ""
