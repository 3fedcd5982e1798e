"""Data sources: formats, fields and how each source is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import field_validator, model_validator

from hanlin.config.grades import read_grade
from hanlin.config.settings.base import Settings, ref, setting
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import ROLES

TEXT_FORMATS = ("text", "text_blocks", "text_lines")

DOCUMENT_FORMAT_NAMES = (*TEXT_FORMATS, "documents")

CHAT_FORMAT_NAMES = (
    "sharegpt",
    "messages",
    "oasst_tree",
    "chatgpt_export",
    "claude_export",
    "moss",
    "glaive",
    "xlam",
    "firefly",
    "agent_steps",
    "self_instruct",
    "alpaca",
    "math",
    "segments",
    "tagged_text",
    "dialogues",
    "prompt_response",
)

PREFERENCE_FORMAT_NAMES = (
    "paired_messages",
    "paired_sharegpt",
    "paired_alpaca",
    "language_pairs",
    "paired_answers",
    "ranked_tree",
)

UNPAIRED_FORMAT_NAMES = (
    "unpaired_records",
    "unpaired_sharegpt",
    "unpaired_messages",
    "unpaired_firefly",
    "unpaired_alpaca",
    "unpaired_prompt_response",
)

DOCUMENT_FIELDS = ("text", "title")

TURN_FIELDS = ("role", "content", "human", "assistant")
"""Fields of a turn, which are renamed inside the list of turns."""

CHAT_FIELDS = (
    *("prompt", "input", "response", "instruction", "output", "system", "history", "messages", "tools", "text"),
    *TURN_FIELDS,
)

PREFERENCE_FIELDS = (
    *("prompt", "instruction", "input", "chosen", "rejected", "system", "history", "messages", "tools"),
    *TURN_FIELDS,
)

UNPAIRED_FIELDS = ("label", "kto_tag", *CHAT_FIELDS)

LANGUAGES = (
    *("zh", "zh-Hant", "yue", "en", "ja", "ko", "fr", "de", "es", "it", "pt", "nl", "sv", "pl", "cs", "ru", "uk", "tr"),
    *("ar", "fa", "hi", "bn", "ta", "te", "th", "vi", "id", "ms", "bo", "ug", "mn", "translated"),
)
"""Languages that the columns of a row may be in."""


class Source(Settings):
    """One entry of `sources`: a file, folder or glob, and how to read it."""

    path: str = ref("files", description="the file, folder, glob or stage to read")
    format: str = setting("auto", "format of the records; auto: detect it")
    encoding: str = setting("auto", "character encoding; auto: detect it")
    license: str = setting("", "license of the data, recorded in everything made from it")
    fields: dict[str, str] = setting(
        {},
        "names of the fields in the files, such as `text: body` or `prompt: ask, response: reply`",
    )
    roles: dict[str, str] = setting(
        {},
        "roles of turns in the files with names of their own, such as `患者: user, 医生: assistant`; `*`: all others",
        unless_default=True,
    )
    min_rating: dict[str, float | str] = setting(
        {},
        "drop rows rated lower, by the field of the rating, such as `rating: 3`, `labels.quality: 0.5` or `grade: B`",
        unless_default=True,
    )
    read_language: str = setting(
        "zh",
        "language to read of rows that hold fields in several (`output_zh`, `output_en`); all: each as its own row",
        unless_default=True,
    )
    limit: int | None = setting(None, "read only the first rows of the source, up to this many", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("read_language")
    @classmethod
    def _is_language(cls, value: str) -> str:
        if value not in (*LANGUAGES, "all"):
            known = join_list((*LANGUAGES, "all"))
            raise ValueError(tr("no language '{language}' here; known: {known}", language=value, known=known))
        return value

    @field_validator("min_rating", mode="before")
    @classmethod
    def _are_grades(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        named = {True: "yes", False: "no"}  # YAML reads both words as truth values
        return {name: _read_least(named[least] if isinstance(least, bool) else least) for name, least in value.items()}

    @field_validator("roles", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        return {str(name): role for name, role in value.items()} if isinstance(value, Mapping) else value


def _read_least(least: Any) -> float | str:
    grade = read_grade(least)
    if grade is None:
        raise ValueError(tr("'{least}' is no rating: a number, or a grade such as B, 良 or good", least=least))
    return str(least).strip() if grade.scale else grade.rank


def check_sources(sources: tuple[Source, ...], formats: tuple[str, ...], fields: tuple[str, ...]) -> None:
    """Raise ValueError for a format or a field that the stage does not know."""
    for source in sources:
        if source.format not in ("auto", *formats):
            known = join_list(("auto", *formats))
            raise ValueError(tr("no format '{format}' here; known: {known}", format=source.format, known=known))
        for role in source.roles.values():
            if role not in ROLES:
                known = join_list(ROLES)
                raise ValueError(tr("no role '{role}'; known: {known}", role=role, known=known))
        if source.roles and "role" not in fields:
            raise ValueError(tr("`roles` is for conversations and preferences: documents have no turns"))
        for name in source.fields:
            if name not in fields:
                known = join_list(fields)
                raise ValueError(tr("no field '{name}' here; known: {known}", name=name, known=known))
