"""Which questions training may see: every wording of every fact goes to training, development or the held-out set.

Owns the division: a held-out question asks for a fact that training texts tell, in a wording that none of them has.
Does not own the facts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hanlin.demo.facts import BARE, Fact, Language, Relation

BARE_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Askable:
    """One wording of one fact, with the frames that may be put around it."""

    fact: Fact
    language: Language
    core: str
    frames: tuple[str, ...]

    def text(self, rng: random.Random) -> str:
        """The question in words, about half the time without a frame where that is allowed."""
        if BARE in self.frames and rng.random() < BARE_SHARE:
            return self.core
        return rng.choice(self.frames).format(q=self.core)


@dataclass(frozen=True, slots=True)
class Split:
    """Wordings for training, development and the last test; `stated` are the facts that training texts tell."""

    training: tuple[Askable, ...]
    development: tuple[Askable, ...]
    validation: tuple[Askable, ...]
    stated: tuple[Fact, ...]


def divide(relations: Sequence[Relation], rng: random.Random) -> Split:
    """Divide the wordings of all facts. The same seed divides in the same way."""
    facts = [fact for relation in relations for fact in relation.facts()]
    training: list[Askable] = []
    development: list[Askable] = []
    validation: list[Askable] = []
    for fact in facts:
        askables = _askables(fact)
        if fact.relation.held_out == "wording":
            seen, dev, held = _by_wording(fact, askables, rng)
            training += seen
            development += dev
            validation += held
        else:
            training += askables
    return Split(tuple(training), tuple(development), tuple(validation), tuple(facts))


def choose(askables: Iterable[Askable], count: int, rng: random.Random) -> list[Askable]:
    """`count` of the wordings (or all), spread over the facts: none comes twice before each came once."""
    shuffled = list(askables)
    rng.shuffle(shuffled)
    times: dict[str, int] = {}
    ranked = []
    for place, askable in enumerate(shuffled):
        rank = times.get(askable.fact.key, 0)
        times[askable.fact.key] = rank + 1
        ranked.append((rank, place, askable))
    ranked.sort(key=lambda item: item[:2])
    return [askable for _, _, askable in ranked[:count]]


def _askables(fact: Fact) -> list[Askable]:
    languages: tuple[Language, ...] = ("zh", "en")
    return [
        Askable(fact, language, core, fact.frames(language))
        for language in languages
        for core in fact.questions(language)
    ]


def _by_wording(
    fact: Fact, askables: Sequence[Askable], rng: random.Random
) -> tuple[list[Askable], list[Askable], list[Askable]]:
    """One wording in each language for development, one held out, the rest for training.

    Where a relation has this one fact only, its wordings occur nowhere else: there the wordings stay and two frames of
    each are kept back instead.
    """
    seen: list[Askable] = []
    development: list[Askable] = []
    validation: list[Askable] = []
    alone = len(fact.relation.rows) == 1
    for language in ("zh", "en"):
        own = [askable for askable in askables if askable.language == language]
        if alone:
            for askable in own:
                frames = list(askable.frames[1:])
                rng.shuffle(frames)
                kept = (BARE, *sorted(frames[2:]))
                seen.append(Askable(fact, language, askable.core, kept))
                development.append(Askable(fact, language, askable.core, (frames[0],)))
                validation.append(Askable(fact, language, askable.core, (frames[1],)))
        else:
            rng.shuffle(own)
            development.append(own[0])
            validation.append(own[1])
            seen += own[2:]
    return seen, development, validation
