"""Options that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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


def open_recipe(path: Path, changes: list[str], until: str, home: Path, verify: bool = False) -> tuple[Recipe, Store]:
    """Read a recipe, cut down to `until` and what it needs, and open the store in `home`; `verify` as in `Store`.

    Raises:
        UserError: The recipe is not valid, or it has no stage `until`.
    """
    from hanlin.config.recipe_file import read_recipe
    from hanlin.pipeline.artifacts import Store

    recipe = read_recipe(path, changes)
    return (recipe.until(until) if until else recipe), Store(home, verify)


_RULE_PARAMETER = re.compile(r"(?P<rule>\w+)\.(?P<name>\w+)=(?P<value>.*)", re.DOTALL)


def read_rule(text: str, where: str) -> Any:
    """A cleaning rule as it is typed: YAML as in a recipe, or a parameter of one without braces.

    Raises:
        UserError: It is not YAML.

    Example:
        `language.keep=zh-Hans` is `{"language": {"keep": "zh-Hans"}}`.
    """
    from hanlin.config.recipe_file import read_value

    if typed := _RULE_PARAMETER.fullmatch(text):
        return {typed["rule"]: {typed["name"]: read_value(typed["value"], where)}}
    return read_value(text, where)
