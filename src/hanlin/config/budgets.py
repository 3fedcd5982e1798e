"""Budgets of a recipe: named sets of settings that make the same stages smaller or larger.

    budgets:
      small: { pretrained: { steps: 40 }, english: { limit: 50 } }

`--set budget=small` replaces these settings of these stages; without it the stages stand as they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr

BUDGET, BUDGETS = "budget", "budgets"

Lines = dict[tuple[str, ...], int]


def apply_budget(data: Mapping[str, Any], where: str, lines: Lines, choice: Any = None) -> tuple[dict[str, Any], Lines]:
    """Replace settings of stages by those of the chosen budget.

    Args:
        data: A recipe as YAML gives it, with `stages`, and perhaps `budget` and `budgets`.
        where: Its file, for messages.
        lines: The line of each key, by its path of keys.
        choice: The budget to use; none: the recipe's own `budget`, if it has one.

    Returns:
        The recipe without its budgets, and its lines, where a replaced setting has the line of the budget.

    Raises:
        UserError: There is no such budget, or one of the budgets names a stage that does not exist.
    """

    def location(*keys: str) -> str:
        return f"{where}:{lines[keys]}" if keys in lines else where

    budgets = data.get(BUDGETS) or {}
    if not isinstance(budgets, dict) or not all(isinstance(name, str) for name in budgets):
        hint = _shape()
        raise UserError(tr("budgets must be a mapping"), location(BUDGETS), hint)
    for name, changes in budgets.items():
        _check(name, changes, data["stages"], location)
    rest = {key: value for key, value in data.items() if key not in (BUDGET, BUDGETS)}
    at = location(BUDGET) if choice is None else f"--set {BUDGET}={choice}"
    choice = data.get(BUDGET) if choice is None else choice
    if choice is None:
        return rest, lines
    if not isinstance(choice, str) or choice not in budgets:
        known = did_you_mean(str(choice), budgets) if budgets else tr("the recipe has no budgets")
        raise UserError(tr("no budget '{name}'", name=choice), at, known)
    stages, lines = dict(data["stages"]), dict(lines)
    for stage, settings in budgets[choice].items():
        stages[stage] = {**stages[stage], **settings}
        for setting in settings:
            replaced = ("stages", stage, setting)
            lines = {key: line for key, line in lines.items() if key[:3] != replaced}
            for key, line in list(lines.items()):
                if key[:4] == (BUDGETS, choice, stage, setting):
                    lines[(*replaced, *key[4:])] = line
    return {**rest, "stages": stages}, lines


def _shape() -> str:
    return tr("below `budgets` write names, below each name stages, below each stage its settings")


def _check(name: str, changes: Any, stages: Mapping[str, Any], location: Any) -> None:
    if not isinstance(changes, dict):
        hint = _shape()
        raise UserError(tr("the budget '{name}' is not a mapping", name=name), location(BUDGETS, name), hint)
    for stage, settings in changes.items():
        at = location(BUDGETS, name, str(stage))
        if stage not in stages or not isinstance(stages[stage], dict):
            what = tr("the budget '{name}' names a stage '{stage}' that does not exist", name=name, stage=stage)
            raise UserError(what, at, did_you_mean(str(stage), map(str, stages)))
        if not isinstance(settings, dict):
            hint = _shape()
            raise UserError(tr("the budget '{name}' is not a mapping", name=f"{name}.{stage}"), at, hint)
        if "kind" in settings:
            what = tr("a budget cannot change the kind of a stage")
            raise UserError(what, location(BUDGETS, name, str(stage), "kind"))
