"""Builds the package: as pyproject.toml says, with the catalogs of messages compiled and the shipped recipes."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCatalogs(build_py):
    """`build_py` that first compiles every `.po` beside its source, for wheels and editable installs, and puts the
    recipes into wheels.
    """

    def run(self) -> None:
        from babel.messages.mofile import write_mo
        from babel.messages.pofile import read_po

        for catalog in Path("src/hanlin/locale").rglob("*.po"):
            with catalog.open("rb") as source, catalog.with_suffix(".mo").open("wb") as target:
                write_mo(target, read_po(source))
        super().run()
        if not self.editable_mode:  # a checkout has them beside `src`, where the page finds them
            target = Path(self.build_lib) / "hanlin" / "shipped_recipes"
            target.mkdir(parents=True, exist_ok=True)
            for recipe in sorted(Path("recipes").glob("*.yaml")):
                copyfile(recipe, target / recipe.name)


setup(cmdclass={"build_py": BuildWithCatalogs})
