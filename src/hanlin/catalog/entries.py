"""The entries of the catalog: read from the data files beside this one, checked, and found by words."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

from hanlin.catalog.schema import CatalogEntry, DataSet, License, ListedTool, Model, Shape
from hanlin.config.yaml_text import load_yaml
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr

T = TypeVar("T", bound=CatalogEntry)


def _load(start: str) -> list[dict[str, Any]]:
    """The content of each data file whose name begins so, in the order of their names."""
    folder = resources.files("hanlin.catalog") / "files"
    names = sorted(file.name for file in folder.iterdir() if file.name.startswith(start))
    return [load_yaml((folder / name).read_text(encoding="utf-8"))[0] for name in names]


def _read(start: str, entry_class: type[T]) -> tuple[T, ...]:
    """The entries of all files of a sort: `entries`, each with the file's `defaults` where it says nothing itself.

    Faults of the defaults come before an entry's own.
    """
    entries: list[T] = []
    for content in _load(start):
        defaults = content.get("defaults", {})
        for row in content["entries"]:
            faults = [*defaults.get("faults", ()), *row.get("faults", ())]
            merged = {**defaults, **row} | ({"faults": faults} if faults else {})
            entries.append(entry_class.model_validate(merged))
    return tuple(entries)


@functools.cache
def models() -> tuple[Model, ...]:
    """Every model of the catalog."""
    return _read("models_", Model)


@functools.cache
def datasets() -> tuple[DataSet, ...]:
    """Every data set of the catalog."""
    return _read("datasets_", DataSet)


@functools.cache
def tools() -> tuple[ListedTool, ...]:
    """Every tool of the catalog."""
    return _read("tools", ListedTool)


@functools.cache
def licenses() -> Mapping[str, License]:
    """Every license by its id."""
    (content,) = _load("licenses")
    return {row["id"]: License.model_validate(row) for row in content["licenses"]}


@functools.cache
def shapes() -> Mapping[str, Shape]:
    """The dimensions of models by their name."""
    (content,) = _load("shapes")
    return {name: Shape.model_validate(row) for name, row in content["shapes"].items()}


def select_entries(entries: Iterable[T], words: Sequence[str]) -> list[T]:
    """The entries in which every word occurs: in id, name, hub names, license, texts of both languages or `words`."""
    wanted = [word.casefold() for word in words]
    return [entry for entry in entries if all(word in _searched_text(entry) for word in wanted)]


def _searched_text(entry: CatalogEntry) -> str:
    license = licenses()[entry.license]
    parts = [entry.id, entry.name, *entry.hubs.values(), license.id, license.name, *entry.words]
    parts += [entry.good_for.en, entry.good_for.zh]
    for field in ("kind", "use", "sort", "format", "template"):
        parts.append(str(getattr(entry, field, None) or ""))
    return "\n".join(parts).casefold()


def get_model(id: str) -> Model:
    """A model by its id, or by its name on a hub. Raises UserError if there is none."""
    for model in models():
        if id in (model.id, *model.hubs.values()):
            return model
    what = tr("the catalog has no model '{id}'", id=id)
    near = did_you_mean(id, [model.id for model in models()])
    lists = tr("`hanlin catalog models` lists them; another one of a hub is written hf:owner/name or ms:owner/name")
    raise UserError(what, None, near if near and len(near) < 200 else lists)
