"""The recipes that can be started from: those that come with Hanlin, and those in the page's folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hanlin.config.yaml_text import MAX_BYTES
from hanlin.core.errors import UserError
from hanlin.core.i18n import language, tr
from hanlin.core.names import describe_name_problem, show_name
from hanlin.web.inside import NotInsideError, find_file

OWN_FOLDER = "recipes"
"""The folder below the page's folder in which recipes of the form are saved."""
_HAN = re.compile("[\u4e00-\u9fff]")
_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """A recipe that can be opened.

    Attributes:
        source: `shipped` or `own`.
        name: Its file below that folder, without the ending.
        summary: What it says of itself in the reader's language; empty if it says nothing.
    """

    source: str
    name: str
    summary: str


def shipped_folder() -> Path:
    """The folder of the recipes that come with Hanlin: in the package, or of a checkout beside `src`."""
    packaged = _PACKAGE / "shipped_recipes"
    return packaged if packaged.is_dir() else _PACKAGE.parents[1] / "recipes"


def list_recipes(folder: Path) -> list[RecipeChoice]:
    """The recipes to choose from: the reader's own, then the shipped ones, the quickstart first.

    Args:
        folder: The page's folder.
    """
    own = folder / OWN_FOLDER
    choices = [RecipeChoice("own", file.stem, _summary(file)) for file in _recipe_files(own) if not file.is_symlink()]
    shipped = [RecipeChoice("shipped", file.stem, _summary(file)) for file in _recipe_files(shipped_folder())]
    return choices + sorted(shipped, key=lambda choice: (choice.name != "quickstart", choice.name))


def _recipe_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.yaml") if file.is_file() and not file.name.startswith("."))


def find_recipe(folder: Path, source: str, name: str) -> Path:
    """The file of a recipe.

    Raises:
        NotInsideError: There is none of this name.
    """
    parent = {"own": folder / OWN_FOLDER, "shipped": shipped_folder()}.get(source)
    if parent is None or parent.is_symlink() or describe_name_problem(name) is not None:
        raise NotInsideError(tr("there is no {name} here", name=show_name(name)))
    return find_file(parent, f"{name}.yaml")


def read_recipe_text(file: Path) -> str:
    """The text of a recipe file. Raises UserError if it is too large or not UTF-8."""
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(tr("larger than a recipe may be ({limit} MiB)", limit=MAX_BYTES >> 20), file.name)
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise UserError(tr("not UTF-8"), file.name, tr("save it as UTF-8")) from error


def _summary(file: Path) -> str:
    """The first sentences of the comment that a recipe begins with, in the reader's language."""
    try:
        lines = read_recipe_text(file).splitlines()[:12]
    except (UserError, OSError):
        return ""
    texts = []
    for line in lines:
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").strip()
        if text and not text.startswith("yaml-language-server"):
            texts.append(text)
        elif texts:
            break
    wanted = language() == "zh"
    return " ".join(text for text in texts if bool(_HAN.search(text)) == wanted)[:300]
