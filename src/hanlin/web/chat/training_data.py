"""Conversations as training data: rows in the formats `messages` and `dpo`, as `hanlin data` reads them.

Each row is written by the writers of `data/formats`, which read back what they write.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.core.errors import UserError
from hanlin.core.files import parse_json, write_text
from hanlin.core.i18n import mark, tr
from hanlin.core.records import Message, ToolCall
from hanlin.web.chat.store import find_path

if TYPE_CHECKING:
    from hanlin.data.formats.writers import OutputFormat

REASONS: dict[str, str] = {
    "no_answer": mark("without an answer that ended by itself"),
    "bad_tools": mark("whose tools are no list of functions"),
    "bad_arguments": mark("with a tool call whose arguments are no JSON object"),
    "unwritable": mark("with turns that the format cannot hold"),
}
"""Why a conversation or pair is left out."""


@dataclass(frozen=True, slots=True)
class Export:
    """Rows of training data, and how many conversations or pairs were left out, by reason of `REASONS`."""

    rows: tuple[dict[str, Any], ...]
    left_out: Mapping[str, int]

    @property
    def text(self) -> str:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)

    def write(self, path: Path) -> None:
        """Write the rows in place of those that the file had."""
        write_text(path, self.text, fsync=True)


class _LeftOutError(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason


def export_conversations(conversations: Iterable[Mapping[str, Any]]) -> Export:
    """The branch that is shown of each conversation, in the format `messages`.

    It ends with its last answer that ended by itself. An answer that was made better stands in its better form. One
    that was stopped, or got a thumb down and no better form, carries no loss (`weight` 0).

    Args:
        conversations: As `ChatStore.read_conversation` gives them.
    """
    return _export(conversations, lambda conversation: [_build_chat(conversation)], "messages")


def export_preferences(conversations: Iterable[Mapping[str, Any]]) -> Export:
    """The preference pairs of conversations, in the format `dpo`: the better form of an answer is chosen before the
    answer, and one with a thumb up before one of the same question with a thumb down.
    """
    return _export(conversations, _build_pairs, "dpo")


def _export(conversations: Iterable[Mapping[str, Any]], build: Any, format_name: str) -> Export:
    from hanlin.data.formats.writers import OUTPUT_FORMATS

    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for conversation in conversations:
        try:
            items = list(build(conversation))
        except _LeftOutError as error:
            left_out[error.reason] += 1
            continue
        for item in items:
            if (row := _write(OUTPUT_FORMATS[format_name], item)) is None:
                left_out["unwritable"] += 1
            else:
                rows.append(row)
    return Export(tuple(rows), dict(left_out))


def _write(output: OutputFormat, item: Any) -> dict[str, Any] | None:
    from hanlin.data.ledger import Drop

    written = output.write(item)
    return None if isinstance(written, Drop) else written.row


def _build_chat(conversation: Mapping[str, Any]) -> Any:
    from hanlin.data.formats.turns import ParsedChat

    path = find_path(conversation["messages"], conversation["leaf"])
    while path and not _is_final_answer(path[-1]):
        path = path[:-1]
    if not path:
        raise _LeftOutError("no_answer")
    messages = [*_system_turn(path[-1]), *(_to_message(message) for message in path)]
    return ParsedChat(tuple(messages), _read_tools(path[-1]))


def _build_pairs(conversation: Mapping[str, Any]) -> Iterator[Any]:
    messages = conversation["messages"]
    answers = [message for message in messages if message["role"] == "assistant" and message["state"] != "writing"]
    for answer in answers:
        if answer["better"] is not None and answer["better"] != answer["content"]:
            yield _build_pair(messages, answer, answer)
    for chosen in (answer for answer in answers if answer["rating"] > 0):
        for rejected in (answer for answer in answers if answer["rating"] < 0 and answer["parent"] == chosen["parent"]):
            if _to_message(chosen).text != rejected["content"]:
                yield _build_pair(messages, chosen, rejected)


def _build_pair(messages: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any], rejected: Mapping[str, Any]) -> Any:
    from hanlin.data.formats.preferences import ParsedPreference

    prompt = [_to_message(message) for message in find_path(messages, chosen["parent"])]
    prompt = [replace(message, train=None) for message in prompt]
    better = _to_message(chosen)
    if chosen["better"] is not None:
        better = replace(better, reasoning="", tool_calls=())  # the better text was written by hand, without them
    worse = _to_message({**rejected, "better": None})
    return ParsedPreference(
        (*_system_turn(chosen), *prompt),
        replace(better, train=None),
        replace(worse, train=None),
        tools=_read_tools(chosen),
    )


def _is_final_answer(message: Mapping[str, Any]) -> bool:
    ended = message["state"] == "done" or message["better"] is not None
    return bool(message["role"] == "assistant" and ended and (message["content"] or message["better"]))


def _system_turn(answer: Mapping[str, Any]) -> list[Message]:
    """The system text with which an answer was asked for."""
    text = answer["request"].get("system", "")
    return [Message("system", text)] if text.strip() else []


def _read_tools(answer: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    tools = answer["request"].get("tools") or []
    functions = [
        tool["function"] for tool in tools if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    if not isinstance(tools, list) or len(functions) < len(tools):
        raise _LeftOutError("bad_tools")
    return tuple(functions)


def _to_message(message: Mapping[str, Any]) -> Message:
    if message["role"] != "assistant":
        return Message(message["role"], message["content"], name=message["name"], tool_call_id=message["tool_call_id"])
    better = message["better"]
    if better is not None:
        return Message("assistant", better)
    is_bad = message["state"] != "done" or message["rating"] < 0
    return Message(
        "assistant",
        message["content"],
        tuple(map(_to_call, message["tool_calls"])),
        reasoning=message["reasoning"],
        train=False if is_bad else None,
    )


def _to_call(call: Mapping[str, Any]) -> ToolCall:
    try:
        function = call["function"]
        arguments = parse_json(function["arguments"] or "{}")
        if isinstance(arguments, dict):
            return ToolCall(function["name"], arguments, call.get("id", ""))
    except (UserError, ValueError, KeyError, TypeError):
        pass
    raise _LeftOutError("bad_arguments")


def describe_left_out(left_out: Mapping[str, int]) -> list[str]:
    """A line for each reason why something was left out."""
    return [
        tr("left out: {count} {reason}", count=count, reason=tr(REASONS[reason])) for reason, count in left_out.items()
    ]
