"""The stage that writes the small world into a folder.

Owns the files: which there are, their formats and encodings. Everything in them is written by the other modules here;
the same seed writes the same bytes.

    text/          raw corpus with planted dirt: blank-line blocks (UTF-8 and GB18030), JSON Lines, HTML
    english/       clean English text for the tokenizer of a base model that is poor at Chinese
    chats/         conversations as alpaca JSON, ShareGPT, Firefly and messages JSON Lines
    preferences/   pairs as ShareGPT and alpaca
    questions/     validation.jsonl and dev.jsonl: questions of ours, whose texts occur nowhere in training
    planted.json   how much dirt there is, and per topic what is held out
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.settings.demo import DemoWorld
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Message, Question, write_jsonl
from hanlin.demo import assistant, calendar, dirt, numbers, town, visitors, words
from hanlin.demo.chats import (
    Chat,
    alpaca,
    chats,
    exchanges,
    firefly,
    messages,
    paired_alpaca,
    paired_sharegpt,
    pairs,
    sharegpt,
)
from hanlin.demo.facts import Relation
from hanlin.demo.prose import Passage, passages
from hanlin.demo.split import Askable, choose, divide

RELATIONS: tuple[Relation, ...] = (
    *assistant.RELATIONS,
    *numbers.RELATIONS,
    *calendar.RELATIONS,
    *words.RELATIONS,
    *town.RELATIONS,
    *visitors.RELATIONS,
)
CHINESE_QUESTIONS = 0.8
"""Part of the held-out questions that is asked in Chinese."""


def run(settings: DemoWorld, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the world into `out`; return how much of everything there is."""
    split = divide(RELATIONS, _dice(context.seed, "split"))
    written = passages(split, settings.passages, _dice(context.seed, "passages"))
    characters, planted = _write_text(out, written, _dice(context.seed, "dirt"))
    made = exchanges(split.training, settings.exchanges, settings.english_answers, _dice(context.seed, "exchanges"))
    grouped = chats(made, _dice(context.seed, "chats"))
    _write_chats(out / "chats", grouped)
    preferred = pairs(split.training, settings.pairs, _dice(context.seed, "pairs"))
    half = len(preferred) // 2
    _write_lines(out / "preferences" / "sharegpt.jsonl", map(paired_sharegpt, preferred[:half]))
    _write_text_file(out / "preferences" / "alpaca.json", _json(list(map(paired_alpaca, preferred[half:]))))
    asked = {}
    for name, askables in (("validation", split.validation), ("dev", split.development)):
        questions = _questions(askables, settings.questions, name, _dice(context.seed, name))
        (out / "questions").mkdir(exist_ok=True)
        asked[name] = write_jsonl(out / "questions" / f"{name}.jsonl", questions)
    held_out = {relation.topic: relation.held_out for relation in RELATIONS if relation.held_out != "never"}
    _write_text_file(
        out / "planted.json",
        _json({"planted": planted, "meaning": dict(dirt.EXPLAINED), "held_out": held_out}),
    )
    english = sum(turn.language == "zh" and turn.answered_in == "en" for turn in made)
    return {
        "facts": len(split.stated),
        "topics": len(held_out),
        "documents": len(written) + planted["exact_copies"] + planted["near_copies"],
        "characters": characters,
        "chats": len(grouped),
        "exchanges": len(made),
        "chinese_questions_answered_in_english": english / sum(turn.language == "zh" for turn in made),
        "pairs": len(preferred),
        "validation_questions": asked["validation"],
        "dev_questions": asked["dev"],
        "planted": dict(planted),
    }


def _dice(seed: int, purpose: str) -> random.Random:
    """A source of chance of its own for each purpose, so that a setting of one leaves the others alone."""
    return random.Random(f"{seed}/{purpose}")


def _write_text(out: Path, written: Sequence[Passage], rng: random.Random) -> tuple[int, dict[str, int]]:
    """Write `text/` and `english/`; return the number of characters in `text/` and what dirt was planted."""
    books = [passage.text for passage in written if passage.kind == "phrase_book"]
    diaries = [passage.text for passage in written if passage.kind == "diary"]
    chinese = [passage.text for passage in written if passage.language == "zh" and passage.kind in ("lesson", "paper")]
    english = [passage.text for passage in written if passage.language == "en"]
    soiled = dirt.soil(chinese, english, rng)
    clean = soiled.chinese
    half = len(clean) // 2
    text = out / "text"
    _write_text_file(text / "textbook.txt", _blocks(clean[:half]))
    _write_lines(text / "yunxi.jsonl", ({"title": f"云溪{n}", "text": body} for n, body in enumerate(clean[half:])))
    _write_text_file(text / "diaries.txt", _blocks(diaries), encoding="gb18030")
    _write_text_file(text / "english.txt", _blocks(soiled.english))
    _write_lines(text / "phrase_books.jsonl", ({"text": body} for body in books))
    _write_lines(text / "scraped.jsonl", ({"text": body} for body in soiled.dirty))
    _write_lines(text / "pages.jsonl", ({"text": body} for body in soiled.pages))
    _write_text_file(out / "english" / "english.txt", _blocks(soiled.english))
    everything = (*soiled.chinese, *soiled.english, *soiled.dirty, *soiled.pages, *diaries, *books)
    return sum(map(len, everything)), dict(soiled.planted)


def _write_chats(folder: Path, grouped: Sequence[Chat]) -> None:
    """A quarter of the chats in each format; the format of single exchanges gets the first that are such."""
    single = [chat for chat in grouped if len(chat.exchanges) == 1 and not chat.system][: len(grouped) // 4]
    taken = set(map(id, single))
    others = [chat for chat in grouped if id(chat) not in taken]
    _write_lines(folder / "firefly.jsonl", map(firefly, single))
    _write_text_file(folder / "alpaca.json", _json(list(map(alpaca, others[0::3]))))
    _write_lines(folder / "sharegpt.jsonl", map(sharegpt, others[1::3]))
    _write_lines(folder / "messages.jsonl", map(messages, others[2::3]))


def _questions(askables: Sequence[Askable], count: int, name: str, rng: random.Random) -> list[Question]:
    """`count` questions, each topic with the same number where it has them, in the order of the topics."""
    topics = list(dict.fromkeys(askable.fact.topic for askable in askables))
    questions: list[Question] = []
    for place, topic in enumerate(topics):
        number = count // len(topics) + (place < count % len(topics))
        chinese = round(number * CHINESE_QUESTIONS)
        for language, part in (("zh", chinese), ("en", number - chinese)):
            own = [askable for askable in askables if askable.fact.topic == topic and askable.language == language]
            for askable in choose(own, part, rng):
                answers = (askable.fact.answer("zh"), askable.fact.answer("en"))
                turns = (Message("user", askable.text(rng)),)
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
    aside = path.with_name(path.name + ".writing")
    aside.write_bytes(text.encode(encoding))
    os.replace(aside, path)
