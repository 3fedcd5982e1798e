"""The split of the questions: every wording of every fact goes to training, development or validation.

A held-out question asks for a fact that training texts state, in a wording that none of them has.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hanlin.demo.facts import BARE, Fact, Language, Relation

BARE_SHARE = 0.5
"""Fraction of the questions without a frame."""


@dataclass(frozen=True, slots=True)
class QuestionVariant:
    """One wording of the question for one fact, with the frames that it may get."""

    fact: Fact
    language: Language
    question: str
    frames: tuple[str, ...]

    def sample_text(self, rng: random.Random) -> str:
        """Draw a text of the question: about half the time without a frame, if that is among the frames."""
        if BARE in self.frames and rng.random() < BARE_SHARE:
            return self.question
        return rng.choice(self.frames).format(q=self.question)


@dataclass(frozen=True, slots=True)
class Split:
    """Wordings for training, development and validation; `facts` are those that training texts state."""

    training: tuple[QuestionVariant, ...]
    development: tuple[QuestionVariant, ...]
    validation: tuple[QuestionVariant, ...]
    facts: tuple[Fact, ...]


def split_questions(relations: Sequence[Relation], rng: random.Random) -> Split:
    """Split the wordings of all facts. The same seed gives the same split."""
    facts = [fact for relation in relations for fact in relation.facts()]
    training: list[QuestionVariant] = []
    development: list[QuestionVariant] = []
    validation: list[QuestionVariant] = []
    for fact in facts:
        variants = _list_variants(fact)
        if fact.relation.held_out == "wording":
            training_variants, development_variants, validation_variants = _split_variants(fact, variants, rng)
            training += training_variants
            development += development_variants
            validation += validation_variants
        else:
            training += variants
    return Split(tuple(training), tuple(development), tuple(validation), tuple(facts))


def sample_variants(variants: Iterable[QuestionVariant], count: int, rng: random.Random) -> list[QuestionVariant]:
    """Draw `count` wordings (at most all), spread over the facts: no fact comes twice before each has come once."""
    shuffled = list(variants)
    rng.shuffle(shuffled)
    uses: dict[str, int] = {}
    ranked = []
    for index, variant in enumerate(shuffled):
        rank = uses.get(variant.fact.key, 0)
        uses[variant.fact.key] = rank + 1
        ranked.append((rank, index, variant))
    ranked.sort(key=lambda item: item[:2])
    return [variant for _, _, variant in ranked[:count]]


def _list_variants(fact: Fact) -> list[QuestionVariant]:
    languages: tuple[Language, ...] = ("zh", "en")
    return [
        QuestionVariant(fact, language, question, fact.frames(language))
        for language in languages
        for question in fact.questions(language)
    ]


def _split_variants(
    fact: Fact, variants: Sequence[QuestionVariant], rng: random.Random
) -> tuple[list[QuestionVariant], list[QuestionVariant], list[QuestionVariant]]:
    """Split the wordings of a fact: in each language one for development, one for validation, the rest for training.

    If the relation has no other fact, its wordings occur nowhere else: then all wordings are for training, and two
    frames of each are held out instead.
    """
    training_variants: list[QuestionVariant] = []
    development: list[QuestionVariant] = []
    validation: list[QuestionVariant] = []
    is_single_fact = len(fact.relation.rows) == 1
    for language in ("zh", "en"):
        language_variants = [variant for variant in variants if variant.language == language]
        if is_single_fact:
            for variant in language_variants:
                frames = list(variant.frames[1:])
                rng.shuffle(frames)
                training_frames = (BARE, *sorted(frames[2:]))
                training_variants.append(QuestionVariant(fact, language, variant.question, training_frames))
                development.append(QuestionVariant(fact, language, variant.question, (frames[0],)))
                validation.append(QuestionVariant(fact, language, variant.question, (frames[1],)))
        else:
            rng.shuffle(language_variants)
            development.append(language_variants[0])
            validation.append(language_variants[1])
            training_variants += language_variants[2:]
    return training_variants, development, validation
