"""What a data stage reads and how it processes a row, and what a worker process needs to do so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hanlin.config.settings.data import Dedup, Reading
from hanlin.core.context import Inputs
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference
from hanlin.data.formats.base import Format
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop
from hanlin.data.overlay import Overlay

if TYPE_CHECKING:
    from hanlin.data.dedup.decontaminate import QuestionIndex

Item = TypeVar("Item")
Record = TypeVar("Record", Document, Conversation, Preference, UnpairedPreference)


@dataclass(frozen=True, slots=True)
class Origin:
    """Id of a record, where it was read (`file:line`), and the license of its source."""

    id: str
    source: str
    license: str

    def add_license(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the metadata of a record with the license, if there is one."""
        return {**meta, "license": self.license} if self.license else dict(meta)


@dataclass(frozen=True, slots=True)
class DatasetSpec(Generic[Item, Record]):
    """What differs between the data stages.

    Attributes:
        record_type: Class of the records.
        file_name: File of the training split.
        formats: Formats to try for a file, in order.
        other_formats: Loads the formats of other stages by kind, to point to the right stage.
        process: Makes a record of a parsed row, with the names of the rules that changed it, or a Drop.
        exact_text: Records with equal exact texts are duplicates.
        full_text: All text of a record that a person reads; searched for evaluation questions.
        split_text: Records with equal split texts are in the same split (training or validation).
        count_characters: Size of a record for the ledger.
        dedup: How to deduplicate.
        validation_fraction: Share of the records in the validation split.
        min_chars: A record with a shorter text is dropped, also after lines were cut.
        near_text: What near duplicates are compared by; None: the full text.
    """

    record_type: type[Record]
    file_name: str
    formats: Callable[[SourceFile], Sequence[Format[Item]]]
    other_formats: Callable[[], Mapping[str, Sequence[Format[Any]]]]
    process: Callable[[Item, Origin], tuple[Record, tuple[str, ...]] | Drop]
    exact_text: Callable[[Record], str]
    full_text: Callable[[Record], str]
    split_text: Callable[[Record], str]
    count_characters: Callable[[Record], int]
    dedup: Dedup
    validation_fraction: float = 0.0
    min_chars: int = 1
    near_text: Callable[[Record], str] | None = None

    def get_near_text(self, record: Record) -> str:
        """Return what near duplicates of a record are compared by."""
        return (self.near_text or self.full_text)(record)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker process needs to know of a stage.

    Attributes:
        build_spec: Builds the spec from settings and inputs, once in each worker: rules cannot be pickled.
        settings: Settings of the stage.
        inputs: Its inputs.
        seed: Seed of signatures and of the validation split.
        shard_folder: Where shards are written.
    """

    build_spec: Callable[[Any, Inputs], DatasetSpec[Any, Any]]
    settings: Reading
    inputs: Inputs
    seed: int
    shard_folder: Path

    @cached_property
    def spec(self) -> DatasetSpec[Any, Any]:
        """The spec of the stage."""
        return self.build_spec(self.settings, self.inputs)

    @cached_property
    def questions(self) -> QuestionIndex | None:
        """The questions to decontaminate against."""
        settings = self.settings.decontaminate
        if settings is None:
            return None
        from hanlin.data.dedup.decontaminate import QuestionIndex

        return QuestionIndex.read(settings, self.inputs)

    @cached_property
    def overlay(self) -> Overlay | None:
        """The corrections of single records."""
        path = self.inputs.optional_path("overlay")
        return None if path is None else Overlay.read(path)

    def __getstate__(self) -> dict[str, Any]:
        # states of a million source files are compared by the parent alone
        return {name: self.__dict__[name] for name in self.__dataclass_fields__} | {
            "inputs": replace(self.inputs, states={})
        }
