"""Chats and preference pairs about the small world, in common formats of such data.

A part of the Chinese questions is answered in English, as models trained mostly on English do; the preference pairs
are there to correct it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.demo.facts import Fact, Language
from hanlin.demo.split import QuestionVariant

CHINESE_SHARE = 0.72
"""Fraction of the exchanges whose question is Chinese."""
PAIRED_CHINESE_SHARE = 0.8
"""Fraction of the preference pairs whose question is Chinese; in the others English is chosen over Chinese."""
TURNS: Mapping[int, float] = {1: 0.85, 2: 0.1, 3: 0.05}
"""Probability of each number of exchanges in a chat."""
SYSTEM_SHARE = 0.08
"""Probability that a chat begins with a system text."""
SYSTEM: Mapping[Language, tuple[str, ...]] = {
    "zh": ("你是小翰，一个小助手。", "请简短地回答。", "你是云溪镇的助手小翰。"),
    "en": ("You are Xiaohan, a small assistant.", "Answer in one short sentence.", "You help the guests of Yunxi."),
}
LANGUAGE_SPREAD = 0.2
"""How much relations differ in their rate of English answers: 0 not at all, 1 as much as the mean rate allows."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, and the languages of both."""

    fact: Fact
    language: Language
    question: str
    answer: str
    answer_language: Language


@dataclass(frozen=True, slots=True)
class Chat:
    """Exchanges one after another, possibly behind a system text."""

    exchanges: tuple[Exchange, ...]
    system: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with its answer in its own language (chosen) and in the other language (rejected)."""

    question: str
    chosen: str
    rejected: str
    language: Language


def make_exchanges(
    training: Sequence[QuestionVariant], count: int, english_answers: float, rng: random.Random
) -> list[Exchange]:
    """Make about `count` exchanges with different questions, shuffled; each fact occurs by its weight.

    Some relations are answered in English more often than others, as a model does with what it learned in English.

    Args:
        training: Wordings for training.
        count: Number of exchanges.
        english_answers: Fraction of the Chinese questions that are answered in English.
        rng: Source of random numbers.
    """
    quotas: dict[Language, float] = {"zh": CHINESE_SHARE * count, "en": (1 - CHINESE_SHARE) * count}
    sampled: list[tuple[QuestionVariant, str]] = []
    for language, quota in quotas.items():
        sampled += _sample_questions([variant for variant in training if variant.language == language], quota, rng)
    english_rates = _english_answer_rates(
        [variant for variant, _ in sampled if variant.language == "zh"], english_answers, rng
    )
    exchanges = []
    for variant, question in sampled:
        english = variant.language == "en" or rng.random() < english_rates[variant.fact.relation.name]
        answer_language: Language = "en" if english else "zh"
        answer = variant.fact.answer(answer_language)
        exchanges.append(Exchange(variant.fact, variant.language, question, answer, answer_language))
    rng.shuffle(exchanges)
    return exchanges


def _sample_questions(
    variants: Sequence[QuestionVariant], quota: float, rng: random.Random
) -> Iterator[tuple[QuestionVariant, str]]:
    """Draw about `quota` wordings with their texts; each fact gets its part by its weight, and no text twice."""
    by_fact: dict[str, list[QuestionVariant]] = {}
    for variant in variants:
        by_fact.setdefault(variant.fact.key, []).append(variant)
    total = sum(fact_variants[0].fact.relation.weight for fact_variants in by_fact.values())
    for fact_variants in by_fact.values():
        fact_quota = quota * fact_variants[0].fact.relation.weight / total
        times = int(fact_quota) + (rng.random() < fact_quota % 1)
        order = list(fact_variants)
        rng.shuffle(order)
        seen: set[str] = set()
        for index in range(times):
            variant = order[index % len(order)]
            for _ in range(8):
                text = variant.sample_text(rng)
                if text not in seen:
                    seen.add(text)
                    yield variant, text
                    break


def _english_answer_rates(chinese: Sequence[QuestionVariant], share: float, rng: random.Random) -> Mapping[str, float]:
    """The probability of an English answer for each relation; its mean over all questions is `share`.

    Half of the questions (by relation) are above the mean, the other half below it.
    """
    counts: dict[str, int] = {}
    for variant in chinese:
        name = variant.fact.relation.name
        counts[name] = counts.get(name, 0) + 1
    spread = LANGUAGE_SPREAD * min(share, 1 - share)
    order = sorted(counts)
    rng.shuffle(order)
    order.sort(key=counts.__getitem__, reverse=True)
    sums = [0, 0]
    half = {}
    for name in order:
        half[name] = 0 if sums[0] <= sums[1] else 1
        sums[half[name]] += counts[name]
    balance = 2 * sums[1] / (sums[0] + sums[1]), 2 * sums[0] / (sums[0] + sums[1])
    return {name: share + (spread * balance[0] if half[name] == 0 else -spread * balance[1]) for name in order}


def group_into_chats(exchanges: Sequence[Exchange], rng: random.Random) -> list[Chat]:
    """Group exchanges into chats of one to three (see `TURNS`); some begin with a system text."""
    chats = []
    start = 0
    while start < len(exchanges):
        (length,) = rng.choices(list(TURNS), list(TURNS.values()))
        turns = tuple(exchanges[start : start + length])
        start += length
        system = rng.choice(SYSTEM[turns[0].language]) if rng.random() < SYSTEM_SHARE else ""
        chats.append(Chat(turns, system))
    return chats


def make_pairs(training: Sequence[QuestionVariant], count: int, rng: random.Random) -> list[Pair]:
    """Make about `count` preference pairs over all facts, with wordings for training, shuffled."""
    quotas: dict[Language, float] = {"zh": PAIRED_CHINESE_SHARE * count, "en": (1 - PAIRED_CHINESE_SHARE) * count}
    pairs = []
    for language, quota in quotas.items():
        other: Language = "en" if language == "zh" else "zh"
        for variant, text in _sample_questions([a for a in training if a.language == language], quota, rng):
            fact = variant.fact
            pairs.append(Pair(text, fact.answer(language), fact.answer(other), language))
    rng.shuffle(pairs)
    return pairs


def to_alpaca(chat: Chat) -> dict[str, Any]:
    """`instruction`, `input`, `output`, and earlier turns as `history`."""
    *earlier, last = chat.exchanges
    row: dict[str, Any] = {"instruction": last.question, "input": "", "output": last.answer}
    if chat.system:
        row["system"] = chat.system
    if earlier:
        row["history"] = [[turn.question, turn.answer] for turn in earlier]
    return row


def to_sharegpt(chat: Chat) -> dict[str, Any]:
    """`conversations` of `from` and `value`."""
    turns = [{"from": "system", "value": chat.system}] if chat.system else []
    for turn in chat.exchanges:
        turns += [{"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer}]
    return {"conversations": turns}


def to_messages(chat: Chat) -> dict[str, Any]:
    """`messages` of `role` and `content`."""
    turns = [{"role": "system", "content": chat.system}] if chat.system else []
    for turn in chat.exchanges:
        turns += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return {"messages": turns}


def to_firefly(chat: Chat) -> dict[str, Any]:
    """`kind`, `input`, `target`: one exchange without a system text. Raises ValueError for any other chat."""
    (turn,) = chat.exchanges
    if chat.system:
        raise ValueError("this format has no system text")
    return {"kind": turn.fact.topic, "input": turn.question, "target": turn.answer}


def pair_to_sharegpt(pair: Pair) -> dict[str, Any]:
    """`conversations` with the question; `chosen` and `rejected` are turns of `from` and `value`."""
    return {
        "conversations": [{"from": "human", "value": pair.question}],
        "chosen": {"from": "gpt", "value": pair.chosen},
        "rejected": {"from": "gpt", "value": pair.rejected},
    }


def pair_to_alpaca(pair: Pair) -> dict[str, Any]:
    """`instruction`, `input`, and the texts `chosen` and `rejected`."""
    return {"instruction": pair.question, "input": "", "chosen": pair.chosen, "rejected": pair.rejected}
