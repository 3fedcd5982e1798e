"""Records in the formats of other tools: messages, ShareGPT, Alpaca, Firefly, and DPO pairs.

Owns how each target writes a record and what it cannot hold. Does not own files (`converting`).

Nothing is written that the target's own reader does not read back as it was. What a target cannot hold has a name:
`LEFT_OUT` are reasons for which a record is not written at all, for it would say something else without the part;
`LOST` are parts beside the turns that a written record goes without.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hanlin.core.i18n import say
from hanlin.core.records import Message
from hanlin.data.formats.chats import read_alpaca, read_firefly, read_messages
from hanlin.data.formats.preferences import ParsedPreference, read_paired_messages
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop

UNWRITABLE_REASONS = frozenset(
    ("no_turns", "tool_turns", "system_not_first", "not_alternating", "empty_question_or_answer", "round_trip_mismatch")
)
LOST_PARTS: dict[str, tuple[str, str]] = {
    "tools": ("the list of tools, which no turn calls", "工具列表（无任何轮次调用）"),
}


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """A record as the target writes it, and the names of the parts that it goes without."""

    row: dict[str, Any]
    lost_parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A format to write. `make` makes its row of what was found, or a Drop whose reason stands in `LEFT_OUT`; `read` is
    the format's reader; `stage` names the stage whose formats can be written so."""

    name: str
    stage: str
    make: Callable[[Any], WrittenRow | Drop]
    read: Callable[[Any], Iterator[Any]]

    def write(self, item: Any) -> WrittenRow | Drop:
        """The row of an item. It was read back: what comes back differs in nothing but what is said to be lost."""
        written = self.make(item)
        if isinstance(written, Drop):
            return written
        expected = replace(item, **dict.fromkeys(written.lost_parts, ()))
        return written if list(self.read(written.row)) == [expected] else Drop("round_trip_mismatch")


def describe_lost_part(name: str) -> str:
    return say(*LOST_PARTS[name])


def _add_meta(row: dict[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "meta": dict(meta)} if meta else row


# --- lists of turns ---------------------------------------------------------------------------------------------------


def write_messages(chat: ParsedChat) -> WrittenRow | Drop:
    """{messages: [{role, content, tool_calls?, name?}], tools?, meta?}: the form of OpenAI's API and of TRL."""
    if not chat.messages:
        return Drop("no_turns")
    row: dict[str, Any] = {"messages": [_message_row(message) for message in chat.messages]}
    if chat.tools:
        row["tools"] = [{"type": "function", "function": dict(tool)} for tool in chat.tools]
    return WrittenRow(_add_meta(row, chat.meta))


def _message_row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        row["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": dict(call.arguments)}}
            for call in message.tool_calls
        ]
    if message.name:
        row["name"] = message.name
    return row


_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def write_sharegpt(chat: ParsedChat) -> WrittenRow | Drop:
    """{conversations: [{from, value}], system?, tools?, meta?}, calls as turns of their own; tools are JSON text."""
    if not chat.messages:
        return Drop("no_turns")
    system, turns = _split_system(chat.messages)
    if not turns:
        system, turns = "", chat.messages
    row: dict[str, Any] = {"conversations": [turn for message in turns for turn in _sharegpt_turns(message)]}
    if system:
        row["system"] = system
    if chat.tools:
        row["tools"] = json.dumps([dict(tool) for tool in chat.tools], ensure_ascii=False)
    return WrittenRow(_add_meta(row, chat.meta))


def _sharegpt_turns(message: Message) -> list[dict[str, str]]:
    turns = []
    if message.text or not message.tool_calls:
        turns.append({"from": _FROM[message.role], "value": message.text})
        if message.name:
            turns[-1]["name"] = message.name
    if message.tool_calls:
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls]
        text = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
        turns.append({"from": "function_call", "value": text})
    return turns


def _split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The system text that a field beside the turns can hold, and the turns without it."""
    first = messages[0]
    twice = len(messages) > 1 and messages[1].role == "system"
    if first.role != "system" or not first.text.strip() or twice:
        return "", messages
    return first.text, messages[1:]


# --- questions with answers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _QuestionAnswers:
    """A chat as questions with their answers, below one system text."""

    system: str
    pairs: list[tuple[str, str]]
    lost_parts: tuple[str, ...] = field(default=())


def _split_question_answers(chat: ParsedChat) -> _QuestionAnswers | Drop:
    if not chat.messages:
        return Drop("no_turns")
    if any(message.tool_calls or message.role == "tool" for message in chat.messages):
        return Drop("tool_turns")
    system, turns = _split_system(chat.messages)
    if any(message.role == "system" for message in turns):
        return Drop("system_not_first")
    roles = [message.role for message in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        return Drop("not_alternating")
    texts = [message.text for message in turns]
    if not all(text.strip() for text in texts):
        return Drop("empty_question_or_answer")
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    return _QuestionAnswers(system, pairs, ("tools",) if chat.tools else ())


def write_alpaca(chat: ParsedChat) -> WrittenRow | Drop:
    """{instruction, input, output, system?, history?, meta?}: the last question is asked, the turns before it are
    history."""
    asked = _split_question_answers(chat)
    if isinstance(asked, Drop):
        return asked
    *history, (question, answer) = asked.pairs
    row: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
    if asked.system:
        row["system"] = asked.system
    if history:
        row["history"] = [list(pair) for pair in history]
    return WrittenRow(_add_meta(row, chat.meta), asked.lost_parts)


def write_firefly(chat: ParsedChat) -> WrittenRow | Drop:
    """{conversation: [{human, assistant}], system?, meta?}"""
    asked = _split_question_answers(chat)
    if isinstance(asked, Drop):
        return asked
    row: dict[str, Any] = {"conversation": [{"human": asks, "assistant": says} for asks, says in asked.pairs]}
    if asked.system:
        row["system"] = asked.system
    return WrittenRow(_add_meta(row, chat.meta), asked.lost_parts)


# --- pairs ------------------------------------------------------------------------------------------------------------


def write_dpo(pair: ParsedPreference) -> WrittenRow | Drop:
    """{prompt: [turns], chosen: [turn], rejected: [turn], score_chosen?, score_rejected?, meta?}, turns as messages."""
    row: dict[str, Any] = {
        "prompt": [_message_row(message) for message in pair.prompt],
        "chosen": [_message_row(pair.chosen)],
        "rejected": [_message_row(pair.rejected)],
    }
    if pair.scores is not None:
        row["score_chosen"], row["score_rejected"] = pair.scores
    return WrittenRow(_add_meta(row, pair.meta))


OUTPUT_FORMATS: dict[str, OutputFormat] = {
    target.name: target
    for target in (
        OutputFormat("messages", "conversations", write_messages, read_messages),
        OutputFormat("sharegpt", "conversations", write_sharegpt, read_messages),
        OutputFormat("alpaca", "conversations", write_alpaca, read_alpaca),
        OutputFormat("firefly", "conversations", write_firefly, read_firefly),
        OutputFormat("dpo", "preferences", write_dpo, read_paired_messages),
    )
}
