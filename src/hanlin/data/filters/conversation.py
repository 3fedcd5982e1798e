"""Rules about the turns of a conversation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from hanlin.core.records import CALLING, NEXT_ROLES, Message
from hanlin.data.filters.mojibake import guess_lost_bytes
from hanlin.data.filters.responses import answer_language, truncated_answers
from hanlin.data.filters.rules import TextRule, clean_text
from hanlin.data.ledger import Drop
from hanlin.data.text.lexicons import REFUSAL

Turns = tuple[Message, ...]


def guess_lost_chars(messages: Sequence[Message], wanted: str) -> tuple[Turns, dict[str, int]]:
    """The turns, of `wanted` "guess" with the characters that wrong decoding lost filled in, and what `meta` says."""
    if wanted != "guess":
        return tuple(messages), {}
    filled = [guess_lost_bytes(message.text) for message in messages]
    marks: Counter[str] = Counter()
    for one in filled:
        marks.update(one.meta)
    turns = (replace(message, text=one.text) for message, one in zip(messages, filled, strict=True))
    return tuple(turns), dict(marks)


def clean_turns(
    messages: Sequence[Message], rules: Sequence[tuple[str, TextRule]], convert: Callable[[str], str]
) -> tuple[Turns, tuple[str, ...]] | Drop:
    """Every turn's text after the rules on text and the conversion of characters; the names of what changed any."""
    after: list[Message] = []
    changed: list[str] = []
    for message in messages:
        cleaned = clean_text(message.text, rules) if message.text else ("", ())
        if isinstance(cleaned, Drop):
            return cleaned
        text, names = cleaned
        converted = convert(text) if message.role != "tool" else text
        changed += [*names, "convert"] if converted != text else names
        after.append(message if converted == message.text else replace(message, text=converted))
    return tuple(after), tuple(dict.fromkeys(changed))


def serialize_turns(messages: Sequence[Message]) -> str:
    """All that makes two lists of turns the same."""
    return "\x1f".join(json.dumps(message.to_json(), ensure_ascii=False, sort_keys=True) for message in messages)


def join_texts(messages: Sequence[Message]) -> str:
    """The texts of turns, one after another."""
    return "\n".join(message.text for message in messages)


def without_system(messages: Sequence[Message]) -> Turns:
    """The turns without the system text: thousands of conversations may share a long one and be about other things."""
    return tuple(message for message in messages if message.role != "system")


def join_questions(messages: Sequence[Message]) -> str:
    """What the user says, turn by turn."""
    return "\x1f".join(message.text for message in messages if message.role == "user")


def count_characters(messages: Sequence[Message]) -> int:
    return sum(len(message.text) for message in messages)


def placeholders(messages: Turns) -> Turns | Drop:
    """Drop a conversation in which system or assistant still say {{name}} or {{author}}.

    Why: a model that learns it introduces itself as {{name}}. The setting `identity` fills them in.
    """
    for message in messages:
        if message.role in ("system", "assistant") and ("{{name}}" in message.text or "{{author}}" in message.text):
            return Drop("placeholder")
    return messages


def refusals(messages: Turns) -> Turns | Drop:
    """Drop a conversation with an answer that opens with a refusal.

    Only openings count: 不能 and 无法 inside an answer are ordinary words. Not in the default set, for some refusals
    are right.
    """
    for message in messages:
        if message.role == "assistant" and REFUSAL.match(message.text.lstrip()):
            return Drop("refusal", message.text.lstrip()[:30])
    return messages


def unanswered_end(messages: Turns) -> Turns | Drop:
    """Cut off what stands after the last answer (a question, a tool's result); without any answer, drop.

    Why: there is nothing to learn from it, and the answers before are worth keeping.
    """
    end = len(messages)
    while end and not _is_answer(messages[end - 1]):
        end -= 1
    return messages[:end] if end else Drop("no_answer")


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and bool(message.text.strip() or message.tool_calls)


def empty_turns(messages: Turns) -> Turns | Drop:
    """Drop a conversation with a turn that says nothing; an empty system text is only taken out."""
    if messages and messages[0].role == "system" and not messages[0].text.strip():
        messages = messages[1:]
    for place, message in enumerate(messages, start=1):
        if not message.text.strip() and not message.tool_calls and message.role != "tool":
            return Drop("empty_turn", f"turn {place}, {message.role}")
    return messages


def check_trainable(prompt: Sequence[Message], answer: Message) -> Drop | None:
    """Why turns and an answer to them are nothing to learn from, if they are not."""
    if not _is_answer(answer):
        return Drop("no_answer")
    ordered = turn_order((*prompt, answer))
    if isinstance(ordered, Drop):
        return ordered
    if any(not turn.text.strip() and not turn.tool_calls for turn in prompt):
        return Drop("empty_turn")
    return None


def turn_order(messages: Turns) -> Turns | Drop:
    """Drop a conversation unless user and assistant alternate, the user first, after at most one system text; a call is
    followed by its results and those by the assistant.

    Why: chat templates refuse other orders or, worse, render them wrongly.
    """
    before: str | None = None
    for place, message in enumerate(messages, start=1):
        if message.role not in NEXT_ROLES[before]:
            after = {None: "start", CALLING: "call"}.get(before, before)
            return Drop("turn_order", f"turn {place} is {message.role} after {after}")
        before = CALLING if message.tool_calls else message.role
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
