"""What a fact of the small world is: one true statement, with its wordings in Chinese and in English.

The facts themselves are in the modules of the topics; `split` decides which questions are held out.
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
"""What users write around a question `{q}`. The first is the question alone."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The templates of one relation in one language; `{name}` is a slot that a row fills."""

    questions: tuple[str, ...]
    answer: str
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The values of the slots of a relation's templates; `operands` is the row's name, unique within the relation."""

    zh: Mapping[str, str]
    en: Mapping[str, str]
    operands: str


@dataclass(frozen=True, slots=True)
class Relation:
    """Facts that share their templates, such as all additions or the jobs of all people.

    Attributes:
        held_out: `wording`: some wordings of each fact are held out of training, for the questions; `never`: none is.
        framed: Questions may get a frame of `FRAMES`.
        weight: How often a fact is practiced, relative to the facts of other relations.
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
        """The unique name of the fact."""
        return f"{self.relation.name}/{self.row.operands}"

    @property
    def topic(self) -> str:
        return self.relation.topic

    def questions(self, language: Language) -> tuple[str, ...]:
        return self._fill(language, self._wording(language).questions)

    def statements(self, language: Language) -> tuple[str, ...]:
        return self._fill(language, self._wording(language).statements)

    def answer(self, language: Language) -> str:
        (text,) = self._fill(language, (self._wording(language).answer,))
        return text

    def frames(self, language: Language) -> tuple[str, ...]:
        return FRAMES[language] if self.relation.framed else (BARE,)

    def _wording(self, language: Language) -> Wording:
        return self.relation.zh if language == "zh" else self.relation.en

    def _fill(self, language: Language, templates: tuple[str, ...]) -> tuple[str, ...]:
        slots = self.row.zh if language == "zh" else self.row.en
        return tuple(capitalize(template.format_map(slots)) for template in templates)


def capitalize(text: str) -> str:
    """Capitalize the first letter and nothing else; Chinese and digits stay as they are."""
    return text[:1].upper() + text[1:]
