"""Rules on the turns of a conversation, and the texts that are compared for deduplication."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from hanlin.core.records import CALLING, NEXT_ROLES, Message
from hanlin.data.filters.answers import AnswerRule, judge_answers
from hanlin.data.filters.mojibake import guess_lost_bytes
from hanlin.data.filters.refusals import refusals
from hanlin.data.filters.responses import answer_language, truncated_answers
from hanlin.data.filters.rules import TextRule, clean_text
from hanlin.data.ledger import Drop

Turns = tuple[Message, ...]


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
    guesses = [guess_lost_bytes(message.text) for message in messages]
    counts: Counter[str] = Counter()
    for guess in guesses:
        counts.update(guess.meta)
    turns = (replace(message, text=guess.text) for message, guess in zip(messages, guesses, strict=True))
    return tuple(turns), dict(counts)


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
        cleaned = clean_text(message.text, rules) if message.text else ("", ())
        if isinstance(cleaned, Drop):
            return cleaned
        text, rule_names = cleaned
        converted = convert(text) if message.role != "tool" else text
        changed += [*rule_names, "convert"] if converted != text else rule_names
        cleaned_turns.append(message if converted == message.text else replace(message, text=converted))
    drop = judge_answers(cleaned_turns, answer_rules)
    return drop or (tuple(cleaned_turns), tuple(dict.fromkeys(changed)))


def serialize_turns(messages: Sequence[Message]) -> str:
    """Serialize turns with all that makes two lists of them equal."""
    return "\x1f".join(json.dumps(message.to_json(), ensure_ascii=False, sort_keys=True) for message in messages)


def join_texts(messages: Sequence[Message]) -> str:
    """Join the texts of turns with line ends."""
    return "\n".join(message.text for message in messages)


def without_system(messages: Sequence[Message]) -> Turns:
    """The turns without system turns: thousands of conversations may share a long one and differ in topic."""
    return tuple(message for message in messages if message.role != "system")


def join_questions(messages: Sequence[Message]) -> str:
    """Join the texts of the user's turns."""
    return "\x1f".join(message.text for message in messages if message.role == "user")


def count_characters(messages: Sequence[Message]) -> int:
    """Characters of all turns."""
    return sum(len(message.text) for message in messages)


def placeholders(messages: Turns) -> Turns | Drop:
    """Drop a conversation with {{name}} or {{author}} left in a system or assistant turn.

    Why: a model trained on it introduces itself as {{name}}. The setting `identity` fills them in.
    """
    for message in messages:
        if message.role in ("system", "assistant") and ("{{name}}" in message.text or "{{author}}" in message.text):
            return Drop("placeholder")
    return messages


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
    other orders or, worse, render them wrongly.
    """
    previous: str | None = None
    for turn_number, message in enumerate(messages, start=1):
        if message.role not in NEXT_ROLES[previous]:
            cleaned_turns = {None: "start", CALLING: "call"}.get(previous, previous)
            return Drop("turn_order", f"turn {turn_number} is {message.role} after {cleaned_turns}")
        previous = CALLING if message.tool_calls else message.role
    return messages


TURN_RULES: dict[str, Callable[..., Turns | Drop]] = {
    rule.__name__: rule
    for rule in (
        placeholders,
        refusals,
        unanswered_end,
        empty_turns,
        turn_order,
        truncated_answers,
        answer_language,
    )
}
