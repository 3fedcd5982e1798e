"""Rules on the turns of a conversation, and the texts that are compared for deduplication."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanlin.config.settings.rules import Rule
from hanlin.core.records import CALLING, NEXT_ROLES, Message
from hanlin.data.filters.answers import AnswerRule, judge_answers
from hanlin.data.filters.identity import find_placeholder
from hanlin.data.filters.mojibake import guess_lost_bytes
from hanlin.data.filters.refusals import refusals
from hanlin.data.filters.responses import answer_language, answer_length, end_marks, truncated_answers
from hanlin.data.filters.rules import TextRule, clean_text
from hanlin.data.ledger import Drop

Turns = tuple[Message, ...]
_FIRST_MARKED, _NUM_MARKED = 0x10000, 0x100000
"""The characters beyond the basic plane, all of which count as letters in the search for near duplicates."""


def guess_lost_chars(messages: Sequence[Message], mode: str) -> tuple[Turns, dict[str, int]]:
    """Fill in the characters that a wrong decoding lost.

    Args:
        messages: The turns.
        mode: `guess`; with any other value nothing is changed.

    Returns:
        (turns, counts for `meta`).
    """
    if mode != "guess":
        return tuple(messages), {}
    counts: Counter[str] = Counter()

    def guess(text: str) -> str:
        found = guess_lost_bytes(text)
        counts.update(found.meta)
        return found.text

    turns = tuple(
        replace(message, text=guess(message.text), reasoning=guess(message.reasoning) if message.reasoning else "")
        for message in messages
    )
    return turns, dict(counts)


def clean_turns(
    messages: Sequence[Message],
    rules: Sequence[tuple[str, TextRule]],
    convert: Callable[[str], str],
    answer_rules: Sequence[tuple[str, AnswerRule]] = (),
) -> tuple[Turns, tuple[str, ...]] | Drop:
    """Apply rules on text and character conversion to every turn.

    Args:
        messages: The turns.
        rules: Rules on text as (name, function).
        convert: Converts between traditional and simplified characters; not applied to tool results.
        answer_rules: Rules on answers as (name, function), applied to the cleaned turns.

    Returns:
        (turns, names of the rules that changed any), or the first Drop.
    """
    cleaned_turns: list[Message] = []
    changed: list[str] = []
    for message in messages:
        texts = []
        for text in (message.text, message.reasoning) if message.reasoning else (message.text,):
            cleaned = clean_text(text, rules) if text else ("", ())
            if isinstance(cleaned, Drop):
                return cleaned
            cleaned_text, rule_names = cleaned
            converted = convert(cleaned_text) if message.role != "tool" else cleaned_text
            changed += rule_names
            if converted != cleaned_text:
                changed.append("convert")
            texts.append(converted)
        reasoning = texts[1] if message.reasoning else ""
        is_same = texts[0] == message.text and reasoning == message.reasoning
        cleaned_turns.append(message if is_same else replace(message, text=texts[0], reasoning=reasoning))
    drop = judge_answers(cleaned_turns, answer_rules)
    return drop or (tuple(cleaned_turns), tuple(dict.fromkeys(changed)))


def serialize_turns(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Serialize turns, and the tools that they may call, with all that makes two lists of them equal.

    Ids of calls are drawn anew for every row, and a turn that is marked as learned is learned without a mark as well:
    neither makes a difference.
    """
    rows: list[Any] = [_serialized_turn(message) for message in messages]
    if tools:
        rows.append([dict(tool) for tool in tools])
    return "\x1f".join(json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows)


def _serialized_turn(message: Message) -> dict[str, Any]:
    if message.tool_calls or message.tool_call_id:
        calls = tuple(replace(call, id="") for call in message.tool_calls)
        message = replace(message, tool_calls=calls, tool_call_id="")
    return (replace(message, train=None) if message.train else message).to_json()


def join_texts(messages: Sequence[Message]) -> str:
    """Join the texts of turns, and the reasoning before them, with line ends."""
    return "\n".join(
        f"{message.reasoning}\n{message.text}" if message.reasoning else message.text for message in messages
    )


def without_system(messages: Sequence[Message]) -> Turns:
    """The turns without system turns: thousands of conversations may share a long one and differ in topic."""
    return tuple(message for message in messages if message.role != "system")


def join_questions(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Join the texts of the user's turns, and the tools, which are a part of the prompt."""
    texts = [message.text for message in messages if message.role == "user"]
    return "\x1f".join([*texts, *(json.dumps(dict(tool), ensure_ascii=False, sort_keys=True) for tool in tools)])


def build_near_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
    """Build the text that near duplicates are compared by: turns without system turns, and calls.

    Tools are a part of the prompt, but longer than most chats: added to the text, they would make chats that share
    them near duplicates, left out, those that do not. So chats with other tools are written in other characters.
    """
    turns = without_system(messages)
    calls = [json.dumps(call.to_json(), ensure_ascii=False) for turn in turns for call in turn.tool_calls]
    return mark_tools("\n".join([join_texts(turns), *calls]), tools)


def mark_tools(text: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """Write the letters of a text in characters that no text with other tools has; without tools it stays as it is."""
    if not tools:
        return text
    key = json.dumps([dict(tool) for tool in tools], ensure_ascii=False, sort_keys=True).encode(
        "utf-8", "surrogatepass"
    )
    offset = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
    letters = (char for char in text.casefold() if char.isalnum())
    return "".join(chr(_FIRST_MARKED + (ord(char) + offset) % _NUM_MARKED) for char in letters)


def count_characters(messages: Sequence[Message]) -> int:
    """Characters of all turns, reasoning included."""
    return sum(len(message.text) + len(message.reasoning) for message in messages)


def is_learned(message: Message) -> bool:
    """Whether a turn is an answer that training may learn: not one that the data takes out of the loss."""
    return message.role == "assistant" and message.train is not False


def placeholders(messages: Turns) -> Turns | Drop:
    """Drop a conversation with a placeholder such as {{name}} or [AUTHOR] left in a system or assistant turn.

    Why: a model trained on it introduces itself as {{name}}. The setting `identity` fills them in.
    """
    for message in messages:
        if message.role == "system" or is_learned(message):
            for text in (message.text, message.reasoning):
                found = find_placeholder(text, message.role)
                if found is not None:
                    return Drop("placeholder", found)
    return messages


def check_learned(messages: Sequence[Message]) -> Drop | None:
    """Check that a conversation has an answer to learn; a Drop if the data takes all of them out of the loss."""
    has_answer = any(message.role == "assistant" for message in messages)
    return Drop("nothing_to_learn") if has_answer and not any(map(is_learned, messages)) else None


def unanswered_end(messages: Turns) -> Turns | Drop:
    """Cut off the turns after the last answer (a question, a tool result); without any answer, drop.

    Why: there is nothing to learn from them, and the answers before are worth keeping.
    """
    end = len(messages)
    while end and not _is_answer(messages[end - 1]):
        end -= 1
    return messages[:end] if end else Drop("no_answer")


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and bool(message.text.strip() or message.tool_calls)


def empty_turns(messages: Turns) -> Turns | Drop:
    """Drop a conversation with an empty turn; an empty system turn is only removed."""
    if messages and messages[0].role == "system" and not messages[0].text.strip():
        messages = messages[1:]
    for turn_number, message in enumerate(messages, start=1):
        if not message.text.strip() and not message.tool_calls and message.role != "tool":
            return Drop("empty_turn", f"turn {turn_number}, {message.role}")
    return messages


def check_trainable(prompt: Sequence[Message], answer: Message) -> Drop | None:
    """Check that a prompt and an answer are in order and not empty; a Drop if not."""
    if not _is_answer(answer):
        return Drop("no_answer")
    ordered = turn_order((*prompt, answer))
    if isinstance(ordered, Drop):
        return ordered
    if any(not turn.text.strip() and not turn.tool_calls for turn in prompt):
        return Drop("empty_turn")
    return None


def turn_order(messages: Turns) -> Turns | Drop:
    """Drop a conversation unless user and assistant alternate, the user first, after at most one system turn.

    A turn with tool calls must be followed by tool results, and these by the assistant. Why: chat templates refuse
    other orders or, worse, render them wrongly. The assistant may speak first, to greet; it may not call tools there.
    """
    previous: str | None = None
    for turn_number, message in enumerate(messages, start=1):
        is_early_call = previous in (None, "system") and message.tool_calls
        if message.role not in NEXT_ROLES[previous] or is_early_call:
            before = {None: "start", CALLING: "call"}.get(previous, previous)
            return Drop("turn_order", f"turn {turn_number} is {message.role} after {before}")
        previous = CALLING if message.tool_calls else message.role
    return messages


TURN_RULES: dict[str, Callable[..., Turns | Drop]] = {
    rule.__name__: rule
    for rule in (
        end_marks,
        placeholders,
        refusals,
        unanswered_end,
        empty_turns,
        turn_order,
        truncated_answers,
        answer_language,
        answer_length,
    )
}


def build_turn_changes(rules: Iterable[Rule]) -> list[tuple[str, Callable[[Turns], Turns]]]:
    """Build the functions of those rules on turns that pairs have too, as (name, function): they only change texts."""
    return [(rule.name, end_marks) for rule in rules if rule.name == end_marks.__name__]


def change_turns(
    cleaned: tuple[Turns, tuple[str, ...]], rules: Sequence[tuple[str, Callable[[Turns], Turns]]]
) -> tuple[Turns, tuple[str, ...]]:
    """Apply rules that change texts to turns; arguments as `clean_turns` and `build_turn_changes` return them."""
    messages, changed = cleaned
    for name, rule in rules:
        after = rule(messages)
        if after != messages:
            messages, changed = after, (*changed, name)
    return messages, changed
