"""Settings of the kinds that turn files into records: `corpus`, `conversations`, `preferences` and
`unpaired_preferences`.

The names of the formats are in `sources`, the rules and their default parameters in `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, field_validator, model_validator

from hanlin.config.settings.base import Settings, ref, setting
from hanlin.config.settings.quality import Quality
from hanlin.config.settings.rules import (
    ALL_CHAT_RULES,
    ALL_PREFERENCE_RULES,
    ALL_TEXT_RULES,
    CHAT_RULES,
    CORPUS_RULES,
    PREFERENCE_RULES,
    Rule,
    read_rules,
)
from hanlin.config.settings.sources import (
    CHAT_FIELDS,
    CHAT_FORMAT_NAMES,
    DOCUMENT_FIELDS,
    DOCUMENT_FORMAT_NAMES,
    PREFERENCE_FIELDS,
    PREFERENCE_FORMAT_NAMES,
    UNPAIRED_FIELDS,
    UNPAIRED_FORMAT_NAMES,
    Source,
    check_sources,
)
from hanlin.core.i18n import mark, tr


class Blocklist(Settings):
    """A blocklist of your own, and what is done with text that holds its words."""

    path: str = ref("files", description="a UTF-8 file with one word on each line")
    action: Literal["drop", "mask"] = setting("drop", "drop the record, or mask the words")
    least: int = setting(1, "drop records that hold at least this many of the words", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Decontaminate(Settings):
    """Decontamination: evaluation sets whose questions must not be in the training data, and how they are found."""

    against: tuple[str, ...] = ref(
        "files",
        description="evaluation sets: files of questions (JSON Lines) or exam folders (CSV)",
        min_length=1,
    )
    characters: int = setting(13, "n-gram length in characters, for Chinese questions", ge=4, le=64)
    words: int = setting(13, "n-gram length in words, for English questions", ge=3, le=64)
    share: float = setting(
        0.5,
        "a record holds a question if it has this fraction of its n-grams; 0: any one of them",
        ge=0,
        le=1,
    )
    common: int = setting(
        10,
        "n-grams in more than this many questions are stock phrases of the exam and are ignored",
        ge=1,
    )
    reworded: float = setting(
        0.6,
        "a record also holds a question if it has this fraction of what the question is about in one place, with other "
        "function words or in another order; 0: do not look for such records",
        ge=0,
        le=1,
    )
    action: Literal["drop", "mark"] = setting(
        "drop",
        "drop such records, or keep them and list the questions in `meta`",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"against": value} if isinstance(value, str | list | tuple) else value


class Dedup(Settings):
    """Deduplication: how duplicates of a document are found; the first one is kept."""

    method: Literal["none", "exact", "minhash"] = setting(
        "minhash",
        "none, exact (the same characters) or minhash (near-duplicates too)",
    )
    threshold: float = setting(
        0.8,
        "documents at least this similar (Jaccard) are duplicates",
        gt=0,
        le=1,
    )
    ngram_size: int = setting(5, "length of an n-gram in characters", ge=1, le=64)
    num_perm: int = setting(128, "length of a MinHash signature", ge=16, le=1024)
    across_scripts: bool = setting(
        True,
        "treat one text in traditional and in simplified characters as duplicates",
        unless_default=True,
    )
    clustering: Literal["greedy", "connected_components"] = setting(
        "greedy",
        "greedy: compare with kept documents only; connected_components: of documents connected by similarity keep the "
        "first",
        unless_default=True,
    )
    lines: int | None = setting(
        None,
        "cut lines that are in more than this many documents, as menus and notices of a site are; null: cut none",
        ge=2,
        unless_default=True,
    )
    containment: float | None = setting(
        None,
        "drop a document of which at least this fraction is in a longer one (n-grams of 13 letters); null: keep it",
        ge=0.1,
        le=1,
        unless_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"method": value} if isinstance(value, str) else value


class Identity(Settings):
    """The identity of the assistant: who it says it is."""

    name: str = setting(..., "the assistant's name", min_length=1)
    author: str = setting(..., "its developer", min_length=1)
    rewrite: bool = setting(
        True,
        "also replace the names of other assistants in self-introductions",
    )


class Reading(Settings):
    """What the reading stages share: sources, and what is done with bad rows."""

    sources: tuple[Source, ...] = setting(..., "what to read, in this order", min_length=1)
    on_error: Literal["stop", "drop"] = setting(
        "stop",
        "a line that is not valid JSON or cannot be decoded: stop, or drop the line (files with one record per line)",
    )
    max_dropped: float = setting(
        0.5,
        "fail if more than this fraction is dropped, duplicates not counted",
        ge=0,
        le=1,
    )

    lost_characters: Literal["drop", "guess"] = setting(
        "drop",
        "mojibake that has lost bytes: drop the record, or fill in the most likely characters and note it in `meta`",
        unless_default=True,
    )

    blocklists: tuple[Blocklist, ...] = setting((), "blocklists of your own", unless_default=True)
    decontaminate: Decontaminate | None = setting(
        None,
        "evaluation sets whose questions must not be in the data",
        unless_default=True,
    )
    overlay: str | None = ref(
        "files",
        default=None,
        description="an overlay: records to fix, drop or annotate, as the page writes it",
    )

    @field_validator("sources", "blocklists", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Mapping | BaseModel) else value


def _roles_of_all() -> Any:
    """The setting that maps roles in all sources."""
    return setting(
        {},
        "roles of turns in all sources with names of their own, such as `患者: user, 医生: assistant`; `*`: all others",
        unless_default=True,
    )


def _give_roles(value: Any) -> Any:
    """Settings in which every source has the roles of the stage besides its own."""
    if not isinstance(value, Mapping) or not isinstance(value.get("roles"), Mapping) or not value.get("sources"):
        return value
    roles = {str(name): role for name, role in value["roles"].items()}
    sources = value["sources"]
    rows: list[dict[str, Any]] = [
        {"path": source} if isinstance(source, str) else dict(source)
        for source in ([sources] if isinstance(sources, str | Mapping | BaseModel) else sources)
    ]
    given = [{**row, "roles": {**roles, **(row.get("roles") or {})}} for row in rows]
    return {**value, "roles": roles, "sources": given}


def _dedup_against(type_: str, description: str) -> Any:
    """The setting that names stages or folders of the same type."""
    return ref(type_, default=(), description=description)


class Corpus(Reading):
    """Read, clean and deduplicate text into documents."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "cleaning rules; `default`: the default set, `{name: {...}}` sets parameters, `{name: false}` drops a rule",
        validate_default=True,
    )
    quality: Quality | None = setting(
        None,
        "drop documents that a model of your own good and bad texts scores low",
        unless_default=True,
    )
    convert: Literal["none", "simplified", "traditional"] = setting("none", "convert Chinese characters with OpenCC")
    min_chars: int = setting(5, "drop shorter documents", ge=1)
    max_chars: int | None = setting(None, "drop longer documents", ge=1)
    dedup: Dedup = setting(Dedup(), "deduplication")
    dedup_against: tuple[str, ...] = _dedup_against(
        "documents",
        mark("also drop duplicates of documents in these stages or folders, validation splits included"),
    )
    validation_fraction: float = setting(
        0.01,
        "fraction of the documents in the validation split, chosen by content",
        ge=0,
        le=0.5,
    )
    max_dropped: float = setting(
        0.9,
        "fail if more than this fraction is dropped, duplicates not counted",
        ge=0,
        le=1,
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_TEXT_RULES, CORPUS_RULES)

    @model_validator(mode="after")
    def _known(self) -> Corpus:
        check_sources(self.sources, DOCUMENT_FORMAT_NAMES, DOCUMENT_FIELDS)
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(tr("max_chars is less than min_chars"))
        return self


class Conversations(Reading):
    """Read and check conversations in any supported format."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "rules on turns and whole conversations, written as those of `corpus`",
        validate_default=True,
    )
    roles: dict[str, str] = _roles_of_all()
    identity: Identity | None = setting(None, "who the assistant says it is")
    convert: Literal["none", "simplified", "traditional"] = setting("none", "convert Chinese characters with OpenCC")
    max_chars: int | None = setting(None, "drop longer conversations", ge=1)
    dedup: Literal["none", "exact", "minhash"] = setting(
        "exact",
        "exact: of equal conversations keep the first; minhash: of near-duplicates too",
    )
    dedup_on: Literal["whole", "question"] = setting(
        "whole",
        "compare whole conversations, or the user's turns only",
        unless_default=True,
    )
    dedup_against: tuple[str, ...] = _dedup_against(
        "conversations",
        mark("also drop duplicates of conversations in these stages or folders, validation splits included"),
    )
    validation_fraction: float = setting(
        0.01,
        "fraction of the conversations in the validation split, chosen by the first question",
        ge=0,
        le=0.5,
    )

    _roles = model_validator(mode="before")(_give_roles)

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_CHAT_RULES, CHAT_RULES)

    @model_validator(mode="after")
    def _known(self) -> Conversations:
        check_sources(self.sources, CHAT_FORMAT_NAMES, CHAT_FIELDS)
        return self


class PreferenceReading(Reading):
    """What the stages that read preferences share."""

    rules: tuple[Rule, ...] = setting(
        ("default",),
        "rules on the text of turns, written as those of `corpus`",
        validate_default=True,
    )
    roles: dict[str, str] = _roles_of_all()
    convert: Literal["none", "simplified", "traditional"] = setting("none", "convert Chinese characters with OpenCC")
    max_chars: int | None = setting(None, "drop records with more characters", ge=1)
    dedup: Literal["none", "exact"] = setting("exact", "exact: of equal records keep the first")
    validation_fraction: float = setting(
        0.0,
        "fraction of the records in the validation split, chosen by the question",
        ge=0,
        le=0.5,
    )

    _roles = model_validator(mode="before")(_give_roles)

    @field_validator("rules", mode="before")
    @classmethod
    def _rules(cls, value: Any) -> Any:
        return read_rules(value, ALL_PREFERENCE_RULES, PREFERENCE_RULES)


class Preferences(PreferenceReading):
    """Read and check preference pairs in any supported format."""

    keep_ties: bool = setting(False, "keep pairs whose scores are equal")
    dedup_against: tuple[str, ...] = _dedup_against(
        "preferences",
        mark("also drop duplicates of preferences in these stages or folders, validation splits included"),
    )

    @model_validator(mode="after")
    def _known(self) -> Preferences:
        check_sources(self.sources, PREFERENCE_FORMAT_NAMES, PREFERENCE_FIELDS)
        return self


class UnpairedPreferences(PreferenceReading):
    """Read and check single answers labeled good or bad, in any supported format."""

    dedup_against: tuple[str, ...] = _dedup_against(
        "unpaired_preferences",
        mark("also drop duplicates of unpaired preferences in these stages or folders, validation splits included"),
    )

    @model_validator(mode="after")
    def _known(self) -> UnpairedPreferences:
        check_sources(self.sources, UNPAIRED_FORMAT_NAMES, UNPAIRED_FIELDS)
        return self
