"""What a data stage reads and does, as plain data that a worker process receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from hanlin.config.settings.data import Dedup, Reading
from hanlin.core.context import Inputs
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference
from hanlin.data.dedup.decontaminate import Questions
from hanlin.data.formats.base import Format
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

Item = TypeVar("Item")


Record = TypeVar("Record", Document, Conversation, Preference, UnpairedPreference)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a record is called and where it stood."""

    id: str
    source: str
    license: str

    def meta(self, found: Mapping[str, Any]) -> dict[str, Any]:
        return {**found, "license": self.license} if self.license else dict(found)


@dataclass(frozen=True, slots=True)
class Sieve(Generic[Item, Record]):
    """What differs between the stages.

    `judge` makes a record of what was found, with the names of the rules that changed it, or a Drop. `content` is what
    makes two records copies, `text` all that a person reads of one, `near` what near copies are compared by (none: its
    `text`), `side` what must not stand on both sides of the held-out split.
    """

    record: type[Record]
    file_name: str
    formats: Callable[[SourceFile], Sequence[Format[Item]]]
    other_formats: Mapping[str, Sequence[Format[Any]]]
    judge: Callable[[Item, Origin], tuple[Record, tuple[str, ...]] | Drop]
    content: Callable[[Record], str]
    text: Callable[[Record], str]
    side: Callable[[Record], str]
    characters: Callable[[Record], int]
    dedup: Dedup
    validation_fraction: float = 0.0
    near: Callable[[Record], str] | None = None

    def compared(self, record: Record) -> str:
        return (self.near or self.text)(record)


@dataclass(frozen=True)
class Course:
    """All that a worker must know of a stage. `make` builds its sieve from settings and inputs, once in each worker:
    rules do not travel. `parts` is the folder of what is written aside."""

    make: Callable[[Any, Inputs], Sieve[Any, Any]]
    settings: Reading
    inputs: Inputs
    seed: int
    parts: Path

    @cached_property
    def sieve(self) -> Sieve[Any, Any]:
        return self.make(self.settings, self.inputs)

    @cached_property
    def questions(self) -> Questions | None:
        wanted = self.settings.decontaminate
        return None if wanted is None else Questions.read(wanted, self.inputs)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}
