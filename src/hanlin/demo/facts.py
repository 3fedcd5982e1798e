"""What a fact of the small world is: one thing that is so, with its wordings in Chinese and in English.

Owns the shape of relations and facts and how a question is put. Does not own which facts there are (the topic modules)
nor which questions are held out (`split`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")
HeldOut = Literal["wording", "never"]

BARE = "{q}"
FRAMES: Mapping[Language, tuple[str, ...]] = {
    "zh": (BARE, "请问，{q}", "{q}谢谢！", "你好，{q}"),
    "en": (BARE, "Hello. {q}", "{q} Thank you.", "Xiaohan, {q}"),
}
"""What a person puts around a question. The first is the question alone."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The templates of one relation in one language; `{name}` stands for a slot of a row."""

    questions: tuple[str, ...]
    answer: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What fills the slots of a relation's templates; `operands` names the row."""

    zh: Mapping[str, str]
    en: Mapping[str, str]
    operands: str


@dataclass(frozen=True, slots=True)
class Relation:
    """Facts that are said with the same templates: every addition, say, or where each person lives.

    `held_out`: `wording`, some wordings of each fact are kept from training for the questions; `never`, none is asked.
    `weight` says how often a fact is practised.
    """

    name: str
    topic: str
    zh: Wording
    en: Wording
    rows: tuple[Row, ...]
    held_out: HeldOut = "wording"
    framed: bool = True
    weight: float = 1.0

    def facts(self) -> tuple[Fact, ...]:
        return tuple(Fact(self, row) for row in self.rows)


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of one relation, which can be asked, answered and stated in either language."""

    relation: Relation
    row: Row

    @property
    def key(self) -> str:
        """The name of the fact, which no other has."""
        return f"{self.relation.name}/{self.row.operands}"

    @property
    def topic(self) -> str:
        return self.relation.topic

    def questions(self, language: Language) -> tuple[str, ...]:
        return self._filled(language, self._wording(language).questions)

    def statements(self, language: Language) -> tuple[str, ...]:
        return self._filled(language, self._wording(language).statements)

    def answer(self, language: Language) -> str:
        (text,) = self._filled(language, (self._wording(language).answer,))
        return text

    def frames(self, language: Language) -> tuple[str, ...]:
        return FRAMES[language] if self.relation.framed else (BARE,)

    def _wording(self, language: Language) -> Wording:
        return self.relation.zh if language == "zh" else self.relation.en

    def _filled(self, language: Language, templates: tuple[str, ...]) -> tuple[str, ...]:
        slots = self.row.zh if language == "zh" else self.row.en
        return tuple(capital(template.format_map(slots)) for template in templates)


def capital(text: str) -> str:
    """The text with its first letter as a capital; Chinese and digits stay as they are."""
    return text[:1].upper() + text[1:]
