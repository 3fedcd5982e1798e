"""Builds the package: as pyproject.toml says, with compiled catalogs of messages, the shipped recipes and the pages."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {
    "shipped_recipes": ("recipes/*.yaml",),
    "shipped_docs": ("llms.txt", "SKILL.md"),
    "shipped_docs/en": ("docs/en/*.md",),
    "shipped_docs/zh": ("docs/zh/*.md",),
}
"""Folders of the package in a wheel, and what they hold of the repository; a checkout has it beside `src`."""


class BuildWithCatalogs(build_py):
    """`build_py` that first compiles every `.po` beside its source, for wheels and editable installs, and puts recipes
    and pages into wheels.
    """

    def run(self) -> None:
        from babel.messages.mofile import write_mo
        from babel.messages.pofile import read_po

        for catalog in Path("src/hanlin/locale").rglob("*.po"):
            with catalog.open("rb") as source, catalog.with_suffix(".mo").open("wb") as target:
                write_mo(target, read_po(source))
        super().run()
        if not self.editable_mode:
            for folder, patterns in SHIPPED.items():
                self._ship(Path(self.build_lib) / "hanlin" / folder, patterns)

    def _ship(self, target: Path, patterns: tuple[str, ...]) -> None:
        """Copy files of the repository into the package. A wheel without them would say so only when it is used."""
        target.mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            files = sorted(Path().glob(pattern))
            if not files:
                raise SystemExit(f"setup.py: there is no {pattern} beside it, which belongs into the package")
            for file in files:
                copyfile(file, target / file.name)


setup(cmdclass={"build_py": BuildWithCatalogs})
