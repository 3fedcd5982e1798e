"""Writing records in the formats of other tools: messages, ShareGPT, Alpaca, Firefly, and DPO pairs.

Nothing is written that the format's own reader does not read back as it was. What a format cannot hold has a name:
`UNWRITABLE_REASONS` are reasons for which a record is not written at all, because it would say something else without
the part; `LOST_PARTS` are parts beside the turns that a written record goes without.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hanlin.core.i18n import mark, tr
from hanlin.core.records import Message
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.preferences import SCORE_FIELDS, ParsedPreference, read_pairs
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop

UNWRITABLE_REASONS = frozenset(
    (
        *("no_turns", "tool_turns", "turn_flags", "system_not_first", "not_alternating", "empty_question_or_answer"),
        "round_trip_mismatch",
    )
)
LOST_PARTS: dict[str, str] = {
    "tools": mark("the list of tools, which no turn calls"),
    "flags": mark("the flags of answers, all of which are to be learned, as they are without flags"),
}


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """A record as the format writes it, and the names of the parts that it goes without (`LOST_PARTS`)."""

    row: dict[str, Any]
    lost_parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A format to write.

    Attributes:
        name: As in `hanlin data convert --to`.
        stage: The stage whose records can be written in it.
        build: Builds the row of a record, or returns a Drop with a reason of `UNWRITABLE_REASONS`.
        read: The format's reader.
    """

    name: str
    stage: str
    build: Callable[[Any], WrittenRow | Drop]
    read: Callable[[Any], Iterator[Any]]

    def write(self, item: Any) -> WrittenRow | Drop:
        """Build the row of a record and read it back: it may differ from the record in the lost parts alone."""
        written = self.build(item)
        if isinstance(written, Drop):
            return written
        expected = _without_parts(item, written.lost_parts)
        return written if list(self.read(written.row)) == [expected] else Drop("round_trip_mismatch")


def _without_parts(item: Any, lost_parts: Sequence[str]) -> Any:
    """A record without the parts of `LOST_PARTS` that are named."""
    if "flags" in lost_parts:
        item = replace(item, messages=tuple(replace(message, train=None) for message in item.messages))
    return replace(item, tools=()) if "tools" in lost_parts else item


def describe_lost_part(name: str) -> str:
    """Describe a part of `LOST_PARTS` in the user's language."""
    return tr(LOST_PARTS[name])


def _add_meta(row: dict[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "meta": dict(meta)} if meta else row


# --- lists of turns ---------------------------------------------------------------------------------------------------


def write_messages(chat: ParsedChat) -> WrittenRow | Drop:
    """Write {messages: [turns], tools?, meta?}, the form of OpenAI's API and of TRL; a turn is {role, content,
    reasoning_content?, tool_calls?, name?, tool_call_id?, weight?}.
    """
    if not chat.messages:
        return Drop("no_turns")
    row: dict[str, Any] = {"messages": [_message_row(message) for message in chat.messages]}
    if chat.tools:
        row["tools"] = [{"type": "function", "function": dict(tool)} for tool in chat.tools]
    return WrittenRow(_add_meta(row, chat.meta))


def _message_row(message: Message) -> dict[str, Any]:
    row: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        row["reasoning_content"] = message.reasoning
    if message.tool_calls:
        row["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.name:
        row["name"] = message.name
    if message.tool_call_id:
        row["tool_call_id"] = message.tool_call_id
    if message.train is not None:
        row["weight"] = int(message.train)
    return row


_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def write_sharegpt(chat: ParsedChat) -> WrittenRow | Drop:
    """Write {conversations: [{from, value, loss?}], system?, tools?, meta?}: calls are turns of their own, tools JSON
    text, reasoning is written between `<think>` tags before what follows it.
    """
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


def _sharegpt_turns(message: Message) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    reasoning = message.reasoning
    if message.text or not message.tool_calls:
        turns.append({"from": _FROM[message.role], "value": join_think(reasoning, message.text)})
        turns[-1] |= {
            name: text for name, text in (("name", message.name), ("tool_call_id", message.tool_call_id)) if text
        }
        reasoning = ""
    if message.tool_calls:
        calls = [call.to_json() for call in message.tool_calls]
        text = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
        turns.append({"from": "function_call", "value": join_think(reasoning, text)})
    return turns if message.train is None else [{**turn, "loss": message.train} for turn in turns]


def join_think(reasoning: str, text: str) -> str:
    """An answer with its reasoning before it, between tags that `split_reasoning` reads."""
    return f"<think>\n{reasoning}\n</think>\n\n{text}" if reasoning else text


def _split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """Split off the system text that a field beside the turns can hold: (system text or "", the other turns)."""
    first = messages[0]
    has_second = len(messages) > 1 and messages[1].role == "system"
    if first.role != "system" or not first.text.strip() or has_second:
        return "", messages
    return first.text, messages[1:]


# --- questions with answers -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _QuestionAnswers:
    """A conversation as question and answer pairs, with one system text or none."""

    system: str
    pairs: list[tuple[str, str]]
    lost_parts: tuple[str, ...] = field(default=())


def _split_question_answers(chat: ParsedChat) -> _QuestionAnswers | Drop:
    """Split a conversation into question and answer pairs; a Drop if it has other turns."""
    if not chat.messages:
        return Drop("no_turns")
    if any(message.tool_calls or message.role == "tool" for message in chat.messages):
        return Drop("tool_turns")
    if any(message.train is False for message in chat.messages):
        return Drop("turn_flags")
    system, turns = _split_system(chat.messages)
    if any(message.role == "system" for message in turns):
        return Drop("system_not_first")
    roles = [message.role for message in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        return Drop("not_alternating")
    texts = [message.text for message in turns]
    if not all(text.strip() for text in texts):
        return Drop("empty_question_or_answer")
    texts = [join_think(message.reasoning, message.text) for message in turns]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    has_flags = any(message.train is not None for message in chat.messages)
    return _QuestionAnswers(system, pairs, ("tools",) * bool(chat.tools) + ("flags",) * has_flags)


def write_alpaca(chat: ParsedChat) -> WrittenRow | Drop:
    """Write {instruction, input, output, system?, history?, meta?}: the last question is the instruction, the turns
    before it are the history.
    """
    split = _split_question_answers(chat)
    if isinstance(split, Drop):
        return split
    *history, (question, answer) = split.pairs
    row: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
    if split.system:
        row["system"] = split.system
    if history:
        row["history"] = [list(pair) for pair in history]
    return WrittenRow(_add_meta(row, chat.meta), split.lost_parts)


def write_firefly(chat: ParsedChat) -> WrittenRow | Drop:
    """Write {conversation: [{human, assistant}], system?, meta?}."""
    split = _split_question_answers(chat)
    if isinstance(split, Drop):
        return split
    row: dict[str, Any] = {
        "conversation": [{"human": human, "assistant": assistant} for human, assistant in split.pairs]
    }
    if split.system:
        row["system"] = split.system
    return WrittenRow(_add_meta(row, chat.meta), split.lost_parts)


# --- pairs ------------------------------------------------------------------------------------------------------------


def write_dpo(pair: ParsedPreference) -> WrittenRow | Drop:
    """Write {prompt: [turns], chosen: [turn], rejected: [turn], score_chosen?, score_rejected?, tools?, meta?};
    turns are messages.
    """
    row: dict[str, Any] = {
        "prompt": [_message_row(message) for message in pair.prompt],
        "chosen": [_message_row(pair.chosen)],
        "rejected": [_message_row(pair.rejected)],
    }
    if pair.scores is not None:
        names = next((names for names in SCORE_FIELDS if all(name in pair.meta for name in names)), SCORE_FIELDS[0])
        row |= zip(names, pair.scores, strict=True)  # under the names that they have in `meta`, not a second time
    if pair.tools:
        row["tools"] = [dict(tool) for tool in pair.tools]
    return WrittenRow(_add_meta(row, pair.meta))


_READERS = {candidate.name: candidate.read for candidate in CHAT_FORMATS}

OUTPUT_FORMATS: dict[str, OutputFormat] = {
    target.name: target
    for target in (
        OutputFormat("messages", "conversations", write_messages, _READERS["messages"]),
        OutputFormat("sharegpt", "conversations", write_sharegpt, _READERS["sharegpt"]),
        OutputFormat("alpaca", "conversations", write_alpaca, _READERS["alpaca"]),
        OutputFormat("firefly", "conversations", write_firefly, _READERS["firefly"]),
        OutputFormat("dpo", "preferences", write_dpo, read_pairs),
    )
}
