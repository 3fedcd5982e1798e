"""The stage that writes the small world into a folder: its files, their formats and encodings.

The same seed writes the same bytes.

    text/          raw corpus with planted dirt: blank-line blocks (UTF-8 and GB18030), JSON Lines, HTML
    english/       clean English text for the tokenizer of a base model that is poor at Chinese
    chats/         conversations as alpaca JSON, ShareGPT, Firefly and messages JSON Lines
    preferences/   pairs as ShareGPT and alpaca
    questions/     validation.jsonl and dev.jsonl: `Question` records, whose texts occur nowhere in training
    planted.json   how much dirt there is, and what is held out of each topic
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.settings.demo import DemoWorld
from hanlin.core.context import Inputs, StageContext
from hanlin.core.files import write_bytes
from hanlin.core.records import Message, Question, write_jsonl
from hanlin.demo import assistant, calendar, dirt, numbers, town, visitors, words
from hanlin.demo.chats import (
    Chat,
    group_into_chats,
    make_exchanges,
    make_pairs,
    pair_to_alpaca,
    pair_to_sharegpt,
    to_alpaca,
    to_firefly,
    to_messages,
    to_sharegpt,
)
from hanlin.demo.facts import Relation
from hanlin.demo.prose import Passage, make_passages
from hanlin.demo.split import QuestionVariant, sample_variants, split_questions

RELATIONS: tuple[Relation, ...] = (
    *assistant.RELATIONS,
    *numbers.RELATIONS,
    *calendar.RELATIONS,
    *words.RELATIONS,
    *town.RELATIONS,
    *visitors.RELATIONS,
)
CHINESE_QUESTIONS = 0.8
"""Fraction of the held-out questions that are in Chinese."""


def run(settings: DemoWorld, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the world into `out`; return the number of facts, documents, chats and so on."""
    split = split_questions(RELATIONS, _make_rng(context.seed, "split"))
    documents = make_passages(split, settings.passages, _make_rng(context.seed, "passages"))
    characters, planted = _write_text(out, documents, _make_rng(context.seed, "dirt"))
    exchanges = make_exchanges(
        split.training, settings.exchanges, settings.english_answers, _make_rng(context.seed, "exchanges")
    )
    chats = group_into_chats(exchanges, _make_rng(context.seed, "chats"))
    _write_chats(out / "chats", chats)
    pairs = make_pairs(split.training, settings.pairs, _make_rng(context.seed, "pairs"))
    half = len(pairs) // 2
    _write_lines(out / "preferences" / "sharegpt.jsonl", map(pair_to_sharegpt, pairs[:half]))
    _write_text_file(out / "preferences" / "alpaca.json", _json(list(map(pair_to_alpaca, pairs[half:]))))
    num_questions = {}
    # the label of a random stream is no name: another one would draw other questions, and other figures
    for name, stream, variants in (("validation", "heldout", split.validation), ("dev", "dev", split.development)):
        questions = _make_questions(variants, settings.questions, name, _make_rng(context.seed, stream))
        (out / "questions").mkdir(exist_ok=True)
        num_questions[name] = write_jsonl(out / "questions" / f"{name}.jsonl", questions)
    held_out = {relation.topic: relation.held_out for relation in RELATIONS if relation.held_out != "never"}
    _write_text_file(
        out / "planted.json",
        _json({"planted": planted, "meaning": dict(dirt.DESCRIPTIONS), "held_out": held_out}),
    )
    english = sum(turn.language == "zh" and turn.answer_language == "en" for turn in exchanges)
    return {
        "facts": len(split.facts),
        "topics": len(held_out),
        "documents": len(documents) + planted["exact_copies"] + planted["near_copies"],
        "characters": characters,
        "chats": len(chats),
        "exchanges": len(exchanges),
        "chinese_questions_answered_in_english": english / sum(turn.language == "zh" for turn in exchanges),
        "pairs": len(pairs),
        "validation_questions": num_questions["validation"],
        "dev_questions": num_questions["dev"],
        "planted": dict(planted),
    }


def _make_rng(seed: int, purpose: str) -> random.Random:
    """A random generator for one purpose, so that a setting that concerns one purpose leaves the others alone."""
    return random.Random(f"{seed}/{purpose}")


def _write_text(out: Path, passages: Sequence[Passage], rng: random.Random) -> tuple[int, dict[str, int]]:
    """Write `text/` and `english/`; return the number of characters in `text/` and of each kind of dirt."""
    books = [passage.text for passage in passages if passage.kind == "phrase_book"]
    diaries = [passage.text for passage in passages if passage.kind == "diary"]
    chinese = [passage.text for passage in passages if passage.language == "zh" and passage.kind in ("lesson", "paper")]
    english = [passage.text for passage in passages if passage.language == "en"]
    dirty_texts = dirt.plant_dirt(chinese, english, rng)
    clean = dirty_texts.chinese
    half = len(clean) // 2
    text = out / "text"
    _write_text_file(text / "textbook.txt", _blocks(clean[:half]))
    _write_lines(text / "yunxi.jsonl", ({"title": f"云溪{n}", "text": body} for n, body in enumerate(clean[half:])))
    _write_text_file(text / "diaries.txt", _blocks(diaries), encoding="gb18030")
    _write_text_file(text / "english.txt", _blocks(dirty_texts.english))
    _write_lines(text / "phrase_books.jsonl", ({"text": body} for body in books))
    _write_lines(text / "scraped.jsonl", ({"text": body} for body in dirty_texts.dirty))
    _write_lines(text / "pages.jsonl", ({"text": body} for body in dirty_texts.pages))
    _write_text_file(out / "english" / "english.txt", _blocks(dirty_texts.english))
    texts = (*dirty_texts.chinese, *dirty_texts.english, *dirty_texts.dirty, *dirty_texts.pages, *diaries, *books)
    return sum(map(len, texts)), dict(dirty_texts.planted)


def _write_chats(folder: Path, chats: Sequence[Chat]) -> None:
    """Write a quarter of the chats in each format; Firefly, which has single exchanges, gets the first of those."""
    single = [chat for chat in chats if len(chat.exchanges) == 1 and not chat.system][: len(chats) // 4]
    single_ids = set(map(id, single))
    others = [chat for chat in chats if id(chat) not in single_ids]
    _write_lines(folder / "firefly.jsonl", map(to_firefly, single))
    _write_text_file(folder / "alpaca.json", _json(list(map(to_alpaca, others[0::3]))))
    _write_lines(folder / "sharegpt.jsonl", map(to_sharegpt, others[1::3]))
    _write_lines(folder / "messages.jsonl", map(to_messages, others[2::3]))


def _make_questions(variants: Sequence[QuestionVariant], count: int, name: str, rng: random.Random) -> list[Question]:
    """Make `count` questions in the order of the topics, of each topic as many (or all that it has)."""
    topics = list(dict.fromkeys(variant.fact.topic for variant in variants))
    questions: list[Question] = []
    for index, topic in enumerate(topics):
        topic_count = count // len(topics) + (index < count % len(topics))
        chinese = round(topic_count * CHINESE_QUESTIONS)
        for language, language_count in (("zh", chinese), ("en", topic_count - chinese)):
            candidates = [
                variant for variant in variants if variant.fact.topic == topic and variant.language == language
            ]
            for variant in sample_variants(candidates, language_count, rng):
                answers = (variant.fact.answer("zh"), variant.fact.answer("en"))
                turns = (Message("user", variant.sample_text(rng)),)
                questions.append(Question(turns, answers, f"{name}-{len(questions):04d}", language, topic))
    return questions


def _blocks(texts: Iterable[str]) -> str:
    return "\n\n".join(texts) + "\n"


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _write_lines(path: Path, rows: Iterable[object]) -> None:
    _write_text_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_text_file(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode(encoding))
