"""Reading recipe files: one YAML file, read strictly, with overrides from the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hanlin.config.budgets import BUDGET, apply_budget
from hanlin.config.recipe import Recipe, build_recipe
from hanlin.config.yaml_text import MAX_BYTES, load_yaml
from hanlin.core.errors import UserError, did_you_mean, suggest_path
from hanlin.core.i18n import join_list, tr


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: The file.
        changes: Overrides, `stage.setting=value`, or `seed=`, `root=`, `name=`, `launch.threads=` and so on; before all
            others `budget=`, one of the recipe's budgets.

    Returns:
        The recipe.

    Raises:
        UserError: For the first mistake, with file and line.
    """
    try:
        with path.open("rb") as file:
            data_bytes = file.read(MAX_BYTES + 1)
        text = data_bytes[:MAX_BYTES].decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise UserError(tr("no such file"), path, _suggest_recipe(path), "not_found") from error
    except UnicodeDecodeError as error:
        hint = tr("save it as UTF-8")
        raise UserError(tr("not UTF-8"), path, hint) from error
    except OSError as error:
        recipes = join_list(sorted(file.name for file in path.glob("*.yaml"))) if path.is_dir() else ""
        hint = tr("name a recipe in it: {recipes}", recipes=recipes)
        what = tr("cannot be read: {strerror}", strerror=error.strerror)
        raise UserError(what, path, hint if recipes else tr("name a recipe file")) from error
    if len(data_bytes) > MAX_BYTES:
        what = tr("larger than a recipe may be ({limit} MiB)", limit=MAX_BYTES >> 20)
        raise UserError(what, path, tr("name a recipe file"))
    return parse_recipe(text, str(path), changes, path.stem)


def parse_recipe(text: str, where: str, changes: Sequence[str] = (), default_name: str = "recipe") -> Recipe:
    """Check the text of a recipe file.

    Args:
        text: The YAML.
        where: Its file, for messages.
        changes: Overrides, as in `read_recipe`.
        default_name: The recipe's name if it has none.

    Returns:
        The recipe.

    Raises:
        UserError: For the first mistake, with `where` and the line.
    """
    try:
        data, node = load_yaml(text)
        lines = _lines(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        at = f"{where}:{mark.line + 1}" if mark else where
        raise UserError(tr("not YAML: {problem}", problem=problem), at) from error
    if not isinstance(data, dict) or not isinstance(data.get("stages"), dict):
        hint = tr("a recipe is a mapping with `name` and `stages`")
        raise UserError(tr("not a recipe"), where, hint)
    budget, changes = _take_budget(changes)
    data, lines = apply_budget(data, where, lines, budget)
    for change in changes:
        _apply(data, change)
    return build_recipe(data, where, lines, default_name=default_name)


def read_value(text: str, where: str) -> Any:
    """Parse a setting's value from the command line. Raises UserError, with `where`, if it is not YAML."""
    try:
        return load_yaml(text)[0] if text else ""
    except yaml.YAMLError as error:
        raise UserError(tr("'{text}' is not valid YAML", text=text), where, getattr(error, "problem", None)) from error


def _take_budget(changes: Sequence[str]) -> tuple[Any, list[str]]:
    """The budget that the changes choose, None if they choose none, and the other changes."""
    chosen = [change for change in changes if change.partition("=")[0].strip() == BUDGET]
    value = read_value(chosen[-1].partition("=")[2], f"--set {BUDGET}") if chosen else None
    return value, [change for change in changes if change not in chosen]


def _apply(data: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    keys = [key.strip() for key in name.split(".")]
    if not equals or not all(keys):
        hint = tr("write --set stage.setting=value")
        raise UserError(tr("'{change}' is not an override", change=change), "--set", hint)
    value = read_value(text, f"--set {name}")
    current: Any = data
    if keys[0] not in ("seed", "root", "name", "launch"):
        current = data["stages"]
        if keys[0] in current and len(keys) < 2:
            hint = tr("write --set stage.setting=value")
            raise UserError(tr("'{change}' is not an override", change=change), "--set", hint)
        if keys[0] not in current:
            raise UserError(
                tr("no stage '{keys}'", keys=keys[0]),
                f"--set {change}",
                did_you_mean(keys[0], current),
            )
    for depth, key in enumerate(keys[:-1]):
        at: Any = _index(current, key, change) if isinstance(current, list) else key
        child = current[at] if isinstance(current, list) else current.get(at)
        if child is not None and not isinstance(child, dict | list):
            name = ".".join(keys[: depth + 1])
            raise UserError(
                tr("{name} has no settings below it", name=name),
                f"--set {change}",
            )
        # a copy: by an anchor of YAML the same mapping may stand in other stages, which the change does not name
        current[at] = list(child) if isinstance(child, list) else dict(child or {})
        current = current[at]
    if isinstance(current, list):
        current[_index(current, keys[-1], change)] = value
    else:
        current[keys[-1]] = value


def _index(items: list[Any], key: str, change: str) -> int:
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    hint = tr("its length is {count}; items are counted from 0", count=len(items))
    raise UserError(tr("the list has no item '{key}'", key=key), f"--set {change}", hint)


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


def _suggest_recipe(path: Path) -> str:
    folders = {path.parent, Path("recipes")}
    recipes = sorted(str(item) for folder in folders for item in folder.glob("[!.]*.yaml"))
    return did_you_mean(str(path), recipes) or suggest_path(path)
