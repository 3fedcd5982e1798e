"""Options that several commands share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.output import echo
from hanlin.core.errors import UserError
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
NO_TOKEN_LIMIT = 2**31 - 1
"""The longest answer of one without a limit: the context ends it before."""
EngineName = Annotated[str, typer.Option(help="auto, transformers, llama_cpp, llama_server, vllm")]


def refuse_key_in_command(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Callback of an option that holds a key: every user of a machine can read the commands of the others.

    Raises:
        UserError: The key was typed, and does not come from the environment.
    """
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name == "COMMANDLINE":
        what = tr("every user of this machine can read a key in a command (ps)")
        raise UserError(what, parameter.opts[0], tr("set the key in HANLIN_API_KEY"))
    return value


def refuse_options(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that would be ignored; one that the environment sets may stay.

    Args:
        context: The command's.
        names: Parameters of the command's function.
        why: Why they have no meaning here.

    Raises:
        UserError: One of them was typed.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise UserError(why, parameter.opts[0], tr("leave it out"), "usage")


def open_recipe(path: Path, changes: list[str], until: str, home: Path, verify: bool = False) -> tuple[Recipe, Store]:
    """Read a recipe, cut down to `until` and what it needs, and open the store in `home`; `verify` as in `Store`.

    Raises:
        UserError: The recipe is not valid, or it has no stage `until`.
    """
    from hanlin.config.recipe_file import read_recipe
    from hanlin.pipeline.artifacts import Store

    try:
        recipe = read_recipe(path, changes)
        return (recipe.until(until) if until else recipe), Store(home, verify)
    except UserError as error:
        if error.code == "bad_input":
            error.code = "recipe"
        raise


def read_sampling(max_new_tokens: int, **values: Any) -> dict[str, Any]:
    """Fields of `SamplingParams` as they are typed: `--top-p 0`, `--top-k -1`, `--seed -1` mean what they mean to
    servers (`serve.api.fields.clean_sampling`). What was not typed is left out; `max_new_tokens` is None for -1, which
    is no limit.

    Raises:
        UserError: `max_new_tokens` is 0.
    """
    from hanlin.serve.api.fields import clean_sampling

    if max_new_tokens == 0:
        raise UserError(tr("must be at least 1, or -1 for no limit"), "--max-new-tokens")
    cleaned = clean_sampling({**values, "max_new_tokens": max_new_tokens})
    return {name: value for name, value in cleaned.items() if value is not None or name == "max_new_tokens"}


def tell_edits(model: str | Path) -> None:
    """Say on standard error if a model that is opened is an artifact with files that were changed since it was made."""
    from hanlin.pipeline.integrity import describe_changes, find_edits

    path = Path(model)
    if os.path.exists(path) and (changes := find_edits(path)):
        echo(
            tr("note: {model} is not as it was made: {change}", model=model, change=describe_changes(changes)), err=True
        )


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
