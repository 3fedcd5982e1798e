"""Files of probe prompts: those of the package in `prompts/`, and a user's own in the same form.

A file is one JSON object:

    {"name": "arithmetic", "version": 1, "figures": ["arithmetic"], "prompts": [
      {"id": "zh-01", "language": "zh", "prompt": "17 加 26 等于多少？", "expect": {"number": "43"}}
    ]}

`language` is the language in which the answer should be. `figures` are those of `checks.FIGURES` that need prompts of
their own; the figures that any answer has are counted for every file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hanlin.config.settings.base import Settings
from hanlin.config.validation import read_settings
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import load_json_object
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Message
from hanlin.evaluate.probes.checks import ANY_ANSWER, FIGURES, REQUIRED

PROMPTS = Path(__file__).with_name("prompts")


class Expectation(Settings):
    """What an answer must be, besides in its language; at most one of the forms of `follows_format`."""

    number: str | None = Field(None, pattern=r"^-?\d+(\.\d+)?$")
    json_keys: tuple[str, ...] | None = Field(None, alias="json")
    lines: int | None = Field(None, ge=1)
    numbered: int | None = Field(None, ge=1)
    one_of: tuple[str, ...] | None = None
    matches: str | None = None
    table: int | None = Field(None, ge=1)
    max_characters: int | None = Field(None, ge=1)
    max_words: int | None = Field(None, ge=1)
    max_sentences: int | None = Field(None, ge=1)

    @field_validator("matches")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(tr("not a regular expression: {error}", error=error)) from error
        return pattern

    def given(self) -> dict[str, Any]:
        """The expectations that are set, by name."""
        return {name: value for name, value in self if value is not None}


class ProbePrompt(Settings):
    """One prompt of a probe."""

    id: str = Field(min_length=1)
    language: Literal["zh", "en"]
    prompt: str = Field(min_length=1)
    system: str = ""
    expect: Expectation = Expectation()
    skip: tuple[str, ...] = ()
    """Figures of any answer that this prompt does not count for, such as a refusal that would be right."""


class _PromptFile(Settings):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int = Field(ge=1)
    figures: tuple[str, ...]
    prompts: tuple[ProbePrompt, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> _PromptFile:
        named = (*self.figures, *(name for prompt in self.prompts for name in prompt.skip))
        for name in named:
            if name not in FIGURES:
                near = did_you_mean(name, FIGURES) or join_list(FIGURES)
                raise ValueError(tr("no figure '{name}' ({near})", name=name, near=near))
        seen: set[str] = set()
        for prompt in self.prompts:
            if prompt.id in seen:
                raise ValueError(tr("two prompts have the id '{id}'", id=prompt.id))
            seen.add(prompt.id)
            for figure in self.figures:
                needed = REQUIRED.get(figure, ())
                if needed and not any(name in prompt.expect.given() for name in needed):
                    raise ValueError(
                        tr("prompt '{id}' has no `expect` that {figure} needs: {names}", id=prompt.id, figure=figure,
                           names=join_list(_as_written(needed)))
                    )  # fmt: skip
            given = prompt.expect.given()
            forms = [name for name in REQUIRED["follows_format"] if name in given]
            if len(forms) > 1:
                what = tr("prompt '{id}' expects two forms: {names}", id=prompt.id, names=join_list(_as_written(forms)))
                raise ValueError(what)
            for figure, names in REQUIRED.items():  # what no figure counts would be asked for in vain
                ignored = [] if figure in self.figures else [name for name in names if name in given]
                if ignored:
                    names_of = join_list(_as_written(ignored))
                    raise ValueError(
                        tr("prompt '{id}' expects {names}, and `figures` lacks {figure}", id=prompt.id, figure=figure,
                           names=names_of)
                    )  # fmt: skip
        return self


def _as_written(names: Sequence[str]) -> list[str]:
    """The names of expectations as a file has them."""
    return [Expectation.model_fields[name].alias or name for name in names]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A file of prompts.

    Attributes:
        name: Its name.
        version: Raised when prompts or checks change: figures of two versions do not compare.
        figures: What is counted over its answers, those of any answer included.
        prompts: The prompts in order.
        sha256: Hash of the file's bytes.
    """

    name: str
    version: int
    figures: tuple[str, ...]
    prompts: tuple[ProbePrompt, ...]
    sha256: str


def messages_of(prompt: ProbePrompt, system: str = "") -> tuple[Message, ...]:
    """The conversation that asks a prompt; `system` is used if the prompt has no system text of its own."""
    text = prompt.system or system
    return (*((Message("system", text),) if text else ()), Message("user", prompt.prompt))


@cache
def packaged_names() -> tuple[str, ...]:
    """The names of the probes of the package, in the order in which they are asked."""
    return tuple(sorted(file.stem for file in PROMPTS.glob("*.json")))


def read_prompt_set(path: Path) -> PromptSet:
    """Read a file of prompts. Raises UserError, naming the field, if it is not one."""
    row = load_json_object(path)
    try:
        parsed = read_settings(_PromptFile, row, path, tr("a file of prompts"))
    except UserError as error:
        raise UserError(error.what, error.where, tr("docs/en/evaluation.md shows the form")) from error
    figures = dict.fromkeys((*parsed.figures, *ANY_ANSWER))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return PromptSet(parsed.name, parsed.version, tuple(figures), parsed.prompts, sha256)


def choose_probes(names: Sequence[str], files: Sequence[Path], languages: Sequence[str]) -> list[PromptSet]:
    """The packaged probes of these names (empty: all, or none if there are files), and those of files.

    Args:
        names: Names of packaged probes.
        files: A user's own files of prompts.
        languages: The languages of the prompts to keep.

    Raises:
        UserError: There is no probe of a name, two have the same name, or no prompt is left.
    """
    for name in names:
        if name not in packaged_names():
            hint = did_you_mean(name, packaged_names()) or join_list(packaged_names())
            raise UserError(tr("no probe '{name}'", name=name), "probes", hint)
    chosen = names or (() if files else packaged_names())
    probes = [read_prompt_set(PROMPTS / f"{name}.json") for name in dict.fromkeys(chosen)]
    probes += [read_prompt_set(file) for file in files]
    seen: set[str] = set()
    kept = []
    for probe in probes:
        if probe.name in seen:
            raise UserError(tr("two probes are called '{name}'", name=probe.name), "files", tr("rename one"))
        seen.add(probe.name)
        prompts = tuple(prompt for prompt in probe.prompts if prompt.language in languages)
        if prompts:
            kept.append(PromptSet(probe.name, probe.version, probe.figures, prompts, probe.sha256))
    if not kept:
        raise UserError(tr("no prompt is left to ask"), "languages")
    return kept
