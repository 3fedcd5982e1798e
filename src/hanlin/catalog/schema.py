"""The schema of the catalog's data files (`files/*.yaml`): what is known of a model, a data set, a tool and a license.

A name that could not be compared with a second source (the owner's page, or the model lists of LLaMA-Factory and
ms-swift) is listed in `unverified`, and every view says so. `sources` says where a figure or a license was read.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from hanlin.config.settings import sources
from hanlin.core.i18n import Language, mark

Slug = Annotated[str, StringConstraints(pattern=r"[a-z0-9]+([.-][a-z0-9]+)*")]
Repository = Annotated[str, StringConstraints(pattern=r"[\w.-]+/[\w.-]+")]
Revision = Annotated[str, StringConstraints(pattern=r"[0-9a-f]{40}")]
Address = Annotated[str, StringConstraints(pattern=r"https://\S+")]
Hub = Literal["hf", "ms", "wisemodel", "opencsg"]
Use = Literal["corpus", "conversations", "preferences", "unpaired_preferences", "questions", "images"]
Unverified = Literal["hf", "ms", "wisemodel", "opencsg", "license", "rows", "shape", "format", "template"]
Sourced = Literal[Unverified, "size"]
Figure = Literal["rows", "size"]
Missing = Literal["not-published", "grows", "behind-a-form", "not-found"]

WHY_MISSING: dict[Missing, str] = {
    "not-published": mark("its owners give none"),
    "grows": mark("it grows, and its owners give none"),
    "behind-a-form": mark("known to those alone who filled in its owners' form"),
    "not-found": mark("no page was found that gives it"),
}
"""Why a figure of a data set is missing, in words (English; `translate` has the Chinese)."""

FORMATS: dict[Use, tuple[str, ...]] = {
    "corpus": sources.DOCUMENT_FORMAT_NAMES,
    "conversations": sources.CHAT_FORMAT_NAMES,
    "preferences": sources.PREFERENCE_FORMAT_NAMES,
    "unpaired_preferences": sources.UNPAIRED_FORMAT_NAMES,
    "questions": (),
    "images": (),
}
"""Formats of the stage that reads data of a use; questions are read by the evaluation, images by nothing."""


class Strict(BaseModel):
    """Base of the schema: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(Strict):
    """A sentence in both languages."""

    en: str = Field(min_length=2)
    zh: str = Field(min_length=2, pattern=r"[\u3400-\u9fff]")

    def to(self, language: Language) -> str:
        return self.zh if language == "zh" else self.en


class License(Strict):
    """A license: whether it allows commercial use (None: it does not say), and what it forbids."""

    id: Slug
    name: str
    url: str
    commercial: bool | None
    forbids: Text


class Shape(Strict):
    """Dimensions of a Llama model, named as in `estimate.shapes`."""

    vocab_size: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    tied: bool = False
    dtype: Literal["bfloat16", "float16"] = "bfloat16"


class CatalogEntry(Strict):
    """What every entry has.

    Attributes:
        id: Its name in the catalog.
        name: Its name as its owner writes it.
        hubs: Repository on each hub.
        homepage: Where it is described, if it is on no hub.
        revision: The commit on Hugging Face that was looked at.
        license: Id of its license.
        unverified: What could not be compared with a second source.
        sources: The page on which a field was read, for people to look again.
        good_for: What it is good for.
        faults: Known faults of the published files.
        recipe: The shipped recipe that uses it, a path.
        words: Further words to find it by.
    """

    id: Slug
    name: str
    hubs: dict[Hub, Repository] = {}
    homepage: Address | None = None
    revision: Revision | None = None
    license: Slug
    unverified: tuple[Unverified, ...] = ()
    sources: dict[Sourced, Address] = {}
    good_for: Text
    faults: tuple[Text, ...] = ()
    recipe: str | None = Field(None, pattern=r"recipes/\w+\.yaml")
    words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_hubs(self) -> Self:
        if not self.hubs and self.homepage is None:
            raise ValueError(f"{self.id} is on no hub and has no homepage")
        lost = [
            name for name in self.unverified if name in ("hf", "ms", "wisemodel", "opencsg") and name not in self.hubs
        ]
        if lost or (self.revision and "hf" not in self.hubs):
            raise ValueError(f"{self.id} has no name on that hub")
        if both := self.sources.keys() & set(self.unverified):
            raise ValueError(f"{self.id} has a source for what is unverified: {', '.join(sorted(both))}")
        return self


class Model(CatalogEntry):
    """A model.

    Attributes:
        kind: What it was trained for; an adapter is no whole model.
        base: Id of the model that it was made from.
        shape: Name of its dimensions, if they are a Llama's.
        context_length: Tokens of its context.
        template: The packaged chat template that it was trained with; `own`: that of its folder; none: it has none.
        gated: Whether the hub asks for an agreement first.
        variants: Other forms of it on the hubs (`gguf`, `lora`, ...).
        refused: Why Hanlin does not read it, if it does not.
    """

    kind: Literal["base", "chat", "reasoning", "adapter", "experts", "images"]
    base: Slug | None = None
    shape: Slug | None = None
    context_length: int | None = Field(None, ge=512)
    template: str | None = None
    gated: bool = False
    variants: dict[Slug, Annotated[str, StringConstraints(pattern=r"(hf|ms|wisemodel):[\w.-]+/[\w.-]+")]] = {}
    refused: Text | None = None

    @property
    def first_recipe(self) -> str | None:
        """The command that writes a recipe for it, if it can be trained and its files have a name to be fetched by."""
        fetched = self.revision is not None or "ms" in self.hubs
        trained = self.refused is None and self.kind != "adapter"
        return f"hanlin recipe new --model {self.id}" if fetched and trained else None

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if self.refused is None and self.kind != "adapter" and self.shape is None:
            raise ValueError(f"{self.id} has no shape")
        if self.kind in ("chat", "reasoning") and self.refused is None and self.template is None:
            raise ValueError(f"{self.id} has no template")
        return self


class DataSet(CatalogEntry):
    """A data set.

    Attributes:
        use: The stage that reads it.
        format: The format of its rows, as `sources.format` names it.
        fields: Renamed fields that the stage needs, as `sources.fields` takes them.
        rows: Number of its rows, rounded if its source rounds it.
        size: What is downloaded, such as `1.17 GB`.
        missing: Why it has no `rows` or no `size`; a figure is given or its absence explained.
        languages: Languages of its texts.
        refused: Why Hanlin does not read it, if it does not.
    """

    use: Use
    format: str | None = None
    fields: dict[str, str] = {}
    rows: int | None = Field(None, gt=0)
    size: str | None = Field(None, pattern=r"[\d.]+ (kB|MB|GB|TB)")
    missing: dict[Figure, Missing] = {}
    languages: tuple[Literal["zh", "en", "many"], ...]
    refused: Text | None = None

    @model_validator(mode="after")
    def _check_format(self) -> Self:
        known = FORMATS[self.use]
        if self.format is not None and self.format not in known:
            raise ValueError(f"{self.id}: {self.use} has no format {self.format}")
        if known and self.format is None and self.refused is None:
            raise ValueError(f"{self.id} has no format")
        if self.size is not None and "size" not in self.sources:
            raise ValueError(f"{self.id} has a size without a source")
        if self.rows is not None and "rows" not in {*self.sources, *self.unverified}:
            raise ValueError(f"{self.id} has a number of rows that is neither sourced nor unverified")
        given = {figure for figure in ("rows", "size") if getattr(self, figure) is not None}
        if both := sorted(given & self.missing.keys()):
            raise ValueError(f"{self.id} has what it calls missing: {', '.join(both)}")
        if lost := sorted({"rows", "size"} - given - self.missing.keys()):
            raise ValueError(f"{self.id} does not say why it has no {', '.join(lost)}")
        return self


class ListedTool(CatalogEntry):
    """A program beside Hanlin.

    Attributes:
        sort: What it does.
        with_hanlin: How the two meet.
        state: Whether it is cared for.
    """

    sort: Literal["train", "infer", "evaluate", "data", "merge", "apps", "learn"]
    with_hanlin: Text
    state: Literal["active", "frozen", "archived"] = "active"
