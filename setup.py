"""Builds the package: as pyproject.toml says, with the catalogs of messages compiled."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCatalogs(build_py):
    """`build_py` that first compiles every `.po` beside its source, for wheels and editable installs alike."""

    def run(self) -> None:
        from babel.messages.mofile import write_mo
        from babel.messages.pofile import read_po

        for catalog in Path("src/hanlin/locale").rglob("*.po"):
            with catalog.open("rb") as source, catalog.with_suffix(".mo").open("wb") as target:
                write_mo(target, read_po(source))
        super().run()


setup(cmdclass={"build_py": BuildWithCatalogs})
