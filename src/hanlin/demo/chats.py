"""Chats and preference pairs about the small world, in the formats that people keep such data in.

Owns who answers in which language and how a conversation is put together and written down. A part of the Chinese
questions is answered in English, as models raised on English do; the preference pairs are there to mend it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.demo.facts import Fact, Language
from hanlin.demo.split import Askable

CHINESE_SHARE = 0.72
"""Part of the exchanges whose question is Chinese."""
PAIRED_CHINESE_SHARE = 0.8
"""Part of the preference pairs whose question is Chinese; in the others English is chosen over Chinese."""
TURNS: Mapping[int, float] = {1: 0.85, 2: 0.1, 3: 0.05}
"""How many exchanges a chat has, and how often."""
SYSTEM_SHARE = 0.08
SYSTEM: Mapping[Language, tuple[str, ...]] = {
    "zh": ("你是小翰，一个小助手。", "请简短地回答。", "你是云溪镇的助手小翰。"),
    "en": ("You are Xiaohan, a small assistant.", "Answer in one short sentence.", "You help the guests of Yunxi."),
}
LEANING = 0.2
"""How far relations differ in the language they are answered in: 0, not at all; 1, as far as the share allows."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, and the languages of both."""

    fact: Fact
    language: Language
    question: str
    answer: str
    answered_in: Language


@dataclass(frozen=True, slots=True)
class Chat:
    """Exchanges in a row, perhaps opened by a system text."""

    exchanges: tuple[Exchange, ...]
    system: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with the answer in its own language, which is preferred, and the one in the other."""

    question: str
    chosen: str
    rejected: str
    language: Language


def exchanges(training: Sequence[Askable], count: int, english_answers: float, rng: random.Random) -> list[Exchange]:
    """About `count` different questions with answers, every fact practised by its weight.

    The share `english_answers` of the Chinese questions gets an English answer. Some relations lean to English more
    than others: what a model learned in English it tells in English.
    """
    wanted: dict[Language, float] = {"zh": CHINESE_SHARE * count, "en": (1 - CHINESE_SHARE) * count}
    asked: list[tuple[Askable, str]] = []
    for language, number in wanted.items():
        asked += _asked([askable for askable in training if askable.language == language], number, rng)
    leaning = _leaning([askable for askable, _ in asked if askable.language == "zh"], english_answers, rng)
    made = []
    for askable, text in asked:
        english = askable.language == "en" or rng.random() < leaning[askable.fact.relation.name]
        answered_in: Language = "en" if english else "zh"
        answer = askable.fact.answer(answered_in)
        made.append(Exchange(askable.fact, askable.language, text, answer, answered_in))
    rng.shuffle(made)
    return made


def _asked(askables: Sequence[Askable], number: float, rng: random.Random) -> Iterator[tuple[Askable, str]]:
    """Wordings with their text, no text twice; a fact gets its part of `number` by its weight."""
    by_fact: dict[str, list[Askable]] = {}
    for askable in askables:
        by_fact.setdefault(askable.fact.key, []).append(askable)
    total = sum(own[0].fact.relation.weight for own in by_fact.values())
    for own in by_fact.values():
        part = number * own[0].fact.relation.weight / total
        times = int(part) + (rng.random() < part % 1)
        order = list(own)
        rng.shuffle(order)
        seen: set[str] = set()
        for place in range(times):
            askable = order[place % len(order)]
            for _ in range(8):
                text = askable.text(rng)
                if text not in seen:
                    seen.add(text)
                    yield askable, text
                    break


def _leaning(chinese: Sequence[Askable], share: float, rng: random.Random) -> Mapping[str, float]:
    """For each relation, the chance of an English answer; over all questions it comes to `share`.

    Half of the questions (by relation) lean to English, the other half from it.
    """
    counts: dict[str, int] = {}
    for askable in chinese:
        name = askable.fact.relation.name
        counts[name] = counts.get(name, 0) + 1
    spread = LEANING * min(share, 1 - share)
    order = sorted(counts)
    rng.shuffle(order)
    order.sort(key=counts.__getitem__, reverse=True)
    sums = [0, 0]
    side = {}
    for name in order:
        side[name] = 0 if sums[0] <= sums[1] else 1
        sums[side[name]] += counts[name]
    even = 2 * sums[1] / (sums[0] + sums[1]), 2 * sums[0] / (sums[0] + sums[1])
    return {name: share + (spread * even[0] if side[name] == 0 else -spread * even[1]) for name in order}


def chats(made: Sequence[Exchange], rng: random.Random) -> list[Chat]:
    """The exchanges as chats of one to three, most of one; some are opened by a system text."""
    grouped = []
    start = 0
    while start < len(made):
        (length,) = rng.choices(list(TURNS), list(TURNS.values()))
        turns = tuple(made[start : start + length])
        start += length
        system = rng.choice(SYSTEM[turns[0].language]) if rng.random() < SYSTEM_SHARE else ""
        grouped.append(Chat(turns, system))
    return grouped


def pairs(training: Sequence[Askable], count: int, rng: random.Random) -> list[Pair]:
    """About `count` preference pairs over all facts, with questions that training may ask."""
    wanted: dict[Language, float] = {"zh": PAIRED_CHINESE_SHARE * count, "en": (1 - PAIRED_CHINESE_SHARE) * count}
    made = []
    for language, number in wanted.items():
        other: Language = "en" if language == "zh" else "zh"
        for askable, text in _asked([a for a in training if a.language == language], number, rng):
            fact = askable.fact
            made.append(Pair(text, fact.answer(language), fact.answer(other), language))
    rng.shuffle(made)
    return made


def alpaca(chat: Chat) -> dict[str, Any]:
    """`instruction`, `input`, `output`, and earlier turns as `history`."""
    *earlier, last = chat.exchanges
    row: dict[str, Any] = {"instruction": last.question, "input": "", "output": last.answer}
    if chat.system:
        row["system"] = chat.system
    if earlier:
        row["history"] = [[turn.question, turn.answer] for turn in earlier]
    return row


def sharegpt(chat: Chat) -> dict[str, Any]:
    """`conversations` of `from` and `value`."""
    turns = [{"from": "system", "value": chat.system}] if chat.system else []
    for turn in chat.exchanges:
        turns += [{"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer}]
    return {"conversations": turns}


def messages(chat: Chat) -> dict[str, Any]:
    """`messages` of `role` and `content`."""
    turns = [{"role": "system", "content": chat.system}] if chat.system else []
    for turn in chat.exchanges:
        turns += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return {"messages": turns}


def firefly(chat: Chat) -> dict[str, Any]:
    """`kind`, `input`, `target`: one exchange without a system text. Raises ValueError for any other chat."""
    (turn,) = chat.exchanges
    if chat.system:
        raise ValueError("this format has no system text")
    return {"kind": turn.fact.topic, "input": turn.question, "target": turn.answer}


def paired_sharegpt(pair: Pair) -> dict[str, Any]:
    """`conversations` with the question; `chosen` and `rejected` are turns of `from` and `value`."""
    return {
        "conversations": [{"from": "human", "value": pair.question}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
    }


def paired_alpaca(pair: Pair) -> dict[str, Any]:
    """`instruction`, `input`, and the texts `chosen` and `rejected`."""
    return {"instruction": pair.question, "input": "", "chosen": pair.chosen, "rejected": pair.rejected}
