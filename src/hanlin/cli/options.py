"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.pipeline.artifacts import Store

RecipePath = Annotated[Path, typer.Argument(help=tr("recipe file (YAML)"), show_default=False)]
Changes = Annotated[list[str], typer.Option("--set", help=tr("stage.setting=value; may repeat"))]
Until = Annotated[str, typer.Option(help=tr("last stage to run"))]
AsJson = Annotated[bool, typer.Option("--json", help=tr("print JSON"))]
Home = Annotated[
    Path,
    typer.Option(envvar="HANLIN_HOME", help=tr("folder of artifacts/ and runs/")),
]
EngineName = Annotated[str, typer.Option(help="auto, transformers, llama_cpp, llama_server, vllm")]


def open_recipe(path: Path, changes: list[str], until: str, home: Path) -> tuple[Recipe, Store]:
    """Read a recipe, cut down to `until` and what it needs, and open the store in `home`.

    Raises:
        UserError: The recipe is not valid, or it has no stage `until`.
    """
    from hanlin.config.recipe_file import read_recipe
    from hanlin.pipeline.artifacts import Store

    recipe = read_recipe(path, changes)
    return (recipe.until(until) if until else recipe), Store(home)
