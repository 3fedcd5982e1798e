"""Reading recipe files: one YAML file, read strictly, with overrides from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hanlin.config.recipe import Recipe, build_recipe
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number (YAML 1.2) and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{key}'", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: The file.
        changes: Overrides, `stage.setting=value`, or `seed=`, `root=`, `name=`, `launch.threads=` and so on.

    Returns:
        The recipe.

    Raises:
        UserError: For the first mistake, with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(tr("no such file"), path, _suggest_recipe(path)) from error
    except UnicodeDecodeError as error:
        hint = tr("save it as UTF-8")
        raise UserError(tr("not UTF-8"), path, hint) from error
    except OSError as error:
        recipes = join_list(sorted(file.name for file in path.glob("*.yaml"))) if path.is_dir() else ""
        hint = tr("name a recipe in it: {recipes}", recipes=recipes)
        what = tr("cannot be read: {strerror}", strerror=error.strerror)
        raise UserError(what, path, hint if recipes else tr("name a recipe file")) from error
    try:
        data = yaml.load(text, _Loader)
        lines = _lines(yaml.compose(text, _Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(tr("not YAML: {problem}", problem=problem), where) from error
    if not isinstance(data, dict) or not isinstance(data.get("stages"), dict):
        hint = tr("a recipe is a mapping with `name` and `stages`")
        raise UserError(tr("not a recipe"), path, hint)
    for change in changes:
        _apply(data, change)
    return build_recipe(data, str(path), lines, default_name=path.stem)


def read_value(text: str, where: str) -> Any:
    """Parse a setting's value from the command line. Raises UserError, with `where`, if it is not YAML."""
    try:
        return yaml.load(text, _Loader) if text else ""
    except yaml.YAMLError as error:
        raise UserError(tr("'{text}' is not valid YAML", text=text), where) from error


def _apply(data: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        hint = tr("write --set stage.setting=value")
        raise UserError(tr("'{change}' is not an override", change=change), "--set", hint)
    value = read_value(text, f"--set {name}")
    current: Any = data
    if keys[0] not in ("seed", "root", "name", "launch"):
        current = data["stages"]
        if keys[0] not in current or len(keys) < 2:
            raise UserError(
                tr("no stage '{keys}'", keys=keys[0]),
                f"--set {change}",
                did_you_mean(keys[0], current),
            )
    for depth, key in enumerate(keys[:-1]):
        child = current[int(key)] if isinstance(current, list) and key.isdigit() else current.get(key)
        if child is None:
            child = current[key] = {}
        if not isinstance(child, dict | list):
            name = ".".join(keys[: depth + 1])
            raise UserError(
                tr("{name} has no settings below it", name=name),
                f"--set {change}",
            )
        current = child
    if isinstance(current, list):
        current[int(keys[-1])] = value
    else:
        current[keys[-1]] = value


def _lines(node: yaml.Node | None) -> dict[tuple[str, ...], int]:
    """The line of each key, by its path of keys."""
    lines: dict[tuple[str, ...], int] = {}

    def walk(current: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(current, yaml.MappingNode):
            for key, value in current.value:
                key_path = (*path, str(key.value))
                lines[key_path] = key.start_mark.line + 1
                walk(value, key_path)
        elif isinstance(current, yaml.SequenceNode):
            for index, value in enumerate(current.value):
                lines[(*path, str(index))] = value.start_mark.line + 1
                walk(value, (*path, str(index)))

    if node is not None:
        walk(node, ())
    return lines


def _suggest_recipe(path: Path) -> str | None:
    folders = {path.parent, Path("recipes")}
    recipes = sorted(str(item) for folder in folders for item in folder.glob("[!.]*.yaml"))
    return did_you_mean(str(path), recipes) if recipes else None
