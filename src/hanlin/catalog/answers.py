"""The answers that a first recipe is made from, and the model that it begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from hanlin.catalog.schema import Model
from hanlin.estimate.shapes import ModelShape

Have = Literal["chats", "text", "preferences"]
Want = Literal["chat", "knowledge", "chinese_answers", "try"]
Method = Literal["full", "lora", "qlora"]
FromHub = Literal["hf", "ms"]
WANTS: tuple[Want, ...] = get_args(Want)
FROM_HUBS: tuple[FromHub, ...] = get_args(FromHub)
HAVES: tuple[Have, ...] = get_args(Have)
NEEDS: dict[Want, Have | None] = {"chat": "chats", "knowledge": "text", "chinese_answers": "preferences", "try": None}
"""The data that each aim cannot do without."""
MODELSCOPE_BRANCH = "master"
"""The catalog has no commits of ModelScope, and its repositories have this branch."""
NEW_ENTRIES = 8000
SMALL_VOCABULARY = 60_000
"""Vocabularies below this hold few Chinese characters, and get `NEW_ENTRIES` learned from the text, if there is any."""


@dataclass(frozen=True, slots=True)
class TargetMachine:
    """The machine: whether it trains on a GPU, and the bytes of that GPU's memory, or of main memory."""

    gpu: bool
    memory: float


@dataclass(frozen=True, slots=True)
class Answers:
    """The three answers, and the model if one was named.

    Attributes:
        have: Paths of data by what they are.
        want: The aim.
        machine: The machine.
        model: Id of the catalog, `hf:owner/name@commit`, `ms:owner/name@commit`, or a folder; none: chosen by the
            machine.
        name: Name of the recipe.
        hub: Where a model of the catalog comes from; none: where it is better had (`_better_hub`).
    """

    have: Mapping[Have, str]
    want: Want
    machine: TargetMachine
    model: str | None = None
    name: str = "my_recipe"
    hub: FromHub | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a recipe begins with: its reference, its catalog entry and its dimensions where they are known."""

    reference: str
    entry: Model | None = None
    shape: ModelShape | None = None
    template: str | None = None


def extends_vocabulary(answers: Answers, base: Base) -> bool:
    """Whether the vocabulary is extended first."""
    return "text" in answers.have and base.shape is not None and base.shape.vocab_size < SMALL_VOCABULARY
