"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.config.recipe import Recipe
    from hanlin.pipeline.artifacts import Store

RecipePath = Annotated[Path, typer.Argument(help=say("recipe file (YAML)", "配方文件（YAML）"), show_default=False)]
Changes = Annotated[
    list[str], typer.Option("--set", help=say("stage.setting=value; may repeat", "阶段.设置=值，可重复"))
]
Until = Annotated[str, typer.Option(help=say("last stage to run", "做到此阶段为止"))]
AsJson = Annotated[bool, typer.Option("--json", help=say("print JSON", "输出 JSON"))]
Home = Annotated[
    Path,
    typer.Option(envvar="HANLIN_HOME", help=say("folder of artifacts/ and runs/", "artifacts/ 与 runs/ 所在文件夹")),
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
