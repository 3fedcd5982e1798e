"""The documentation that comes with the package: pages in two languages, `llms.txt` and the page for agents.

A wheel has them in `shipped_docs` (setup.py puts them there), a checkout in `docs` and in its root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import Language, tr

_PACKAGE = Path(__file__).resolve().parents[3]
ROOT_PAGES = {"llms": "llms.txt", "skill": "SKILL.md"}
"""Pages that are in no language's folder, because programs read them: the list of pages, and how an agent works."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page: the name it is asked for by, its file and its title."""

    name: str
    file: Path
    title: str

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")


def list_pages(language: Language) -> list[Page]:
    """The pages of a language by name, after those that programs read."""
    return [*_root_pages(), *(_open(file.stem, file) for file in sorted(_folder(language).glob("*.md")))]


def find_page(name: str, language: Language) -> Page:
    """A page by its name, or by its path in the repository: `agents`, `docs/en/agents.md`, `llms.txt`.

    Raises:
        UserError: There is no such page.
    """
    wanted = PurePath(name.partition("#")[0]).stem.casefold().replace("-", "_")
    pages = list_pages(language)
    for page in pages:
        if page.name == wanted:
            return page
    hint = did_you_mean(wanted, [page.name for page in pages])
    hint = hint if hint is not None and len(hint) < 100 else tr("'hanlin docs' lists them")
    raise UserError(tr("there is no page '{name}'", name=name), "docs", hint, "not_found")


def _folder(language: Language) -> Path:
    shipped = _PACKAGE / "shipped_docs"
    return (shipped if shipped.is_dir() else _PACKAGE.parents[1] / "docs") / language


def _root_pages() -> Iterator[Page]:
    shipped = _PACKAGE / "shipped_docs"
    folder = shipped if shipped.is_dir() else _PACKAGE.parents[1]
    for name, file in ROOT_PAGES.items():
        yield _open(name, folder / file)


def _open(name: str, file: Path) -> Page:
    with file.open(encoding="utf-8") as lines:
        title = next((line[2:].strip() for line in lines if line.startswith("# ")), name)
    return Page(name, file, title)
