"""What a recipe comes to: the reader's verdict, the plan, and what its training will need on the machine named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.config.recipe import Recipe
from hanlin.config.recipe_file import parse_recipe
from hanlin.config.settings.base import Reference, references
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.estimate.plan import describe_estimate, estimate_plan
from hanlin.estimate.training import Estimate
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.inputs import expand_glob
from hanlin.pipeline.plan import plan
from hanlin.pipeline.report import format_number
from hanlin.pipeline.step import Step
from hanlin.web.recipes.rates import Duration, Rates, is_this_machine, show_duration
from hanlin.web.runs.names import STATE_NAMES, STATE_SIGNS

PLANNED_BYTES = 2 << 30
"""Bytes of source files that are hashed for a plan while a reader types; beyond them `hanlin plan` is for."""


def read_text(text: str, name: str, folder: Path) -> Recipe:
    """The recipe of a text, whose relative root starts at the page's folder.

    Raises:
        UserError: For the first mistake, as `hanlin plan` tells it.
    """
    recipe = parse_recipe(text, f"{name}.yaml", (), name)
    return replace(recipe, root=folder / recipe.root)


def files_outside(recipe: Recipe, folder: Path) -> list[str]:
    """The local paths that a recipe names outside of the page's folder."""
    outside = []
    for stage in recipe.stages.values():
        for item in references(stage.settings):
            path = recipe.resolve(item).path
            if path is None:
                continue
            # of a pattern what is before its first sign
            plain = Path(*_before_pattern(path))
            if not plain.resolve().is_relative_to(folder.resolve()):
                outside.append(item.text)
    return outside


def _before_pattern(path: Path) -> list[str]:
    parts = []
    for part in path.parts:
        if any(sign in part for sign in "*?["):
            break
        parts.append(part)
    return parts


def check_size(recipe: Recipe) -> None:
    """Raise UserError if so many bytes of source files would be hashed that a reader would wait."""
    total = 0
    for stage in recipe.stages.values():
        for item in references(stage.settings):
            for file in _list_hashed(recipe, item):
                total += file.stat().st_size
                if total > PLANNED_BYTES:
                    what = tr("the sources are larger than {limit} GB", limit=PLANNED_BYTES >> 30)
                    raise UserError(what, None, tr("plan it in a terminal: hanlin plan"))


def _list_hashed(recipe: Recipe, item: Reference) -> Iterator[Path]:
    """The files that a reference leads to, those that a pattern matches too; none if the plan will refuse it."""
    path = recipe.resolve(item).path
    if path is None:
        return
    try:
        paths = expand_glob(path, "")
    except UserError:  # nothing is there, which the plan says better
        return
    for found in paths:
        yield from (file for file in found.rglob("*") if file.is_file()) if found.is_dir() else (found,)


def describe_plan(recipe: Recipe, store: Store, rates: Rates, memory: str, device: str) -> dict[str, Any]:
    """The plan of a recipe with what its training will need, as JSON data.

    Args:
        recipe: The recipe.
        store: Where artifacts are.
        rates: How fast this machine trains.
        memory: How much memory there is, such as `24GB`; empty: this machine's.
        device: `auto`, `cpu` or `gpu`.

    Returns:
        `steps`, of each its `stage`, `kind`, `state`, `sign` and `why`; `estimates`, of each training stage its
        `stage` and `unknown`, or figures; `fits`, whether all do, or None if that is not known; `time` of all training
        stages, empty if that of one is not known; `can_measure`, whether a measurement would tell more.

    Raises:
        UserError: A file is missing, or `memory` or `device` is misspelled.
    """
    steps = plan(recipe, store)
    results = estimate_plan(recipe, steps, memory, device, False)
    known = [result for result in results if isinstance(result, Estimate)]
    limits = {result.memory_limit for result in known}
    kinds = {step.stage.name: step.stage.kind.name for step in steps}
    durations = {r.stage: rates.find_duration(kinds[r.stage], r, device) for r in known}
    seconds = [duration.seconds for duration in durations.values() if duration is not None]
    without = [r for r in known if durations[r.stage] is None and r.setup.batch.steps is not None]
    return {
        "steps": [_describe_step(step) for step in steps],
        "estimates": [_describe_estimate(result, durations.get(result.stage)) for result in results],
        "time": show_duration(sum(seconds)) if seconds and len(seconds) == len(results) else "",
        "can_measure": bool(without) and is_this_machine(device),
        "fits": None if len(known) < len(results) or not known or None in limits else all(r.fits for r in known),
        "trains": len(results),
    }


def _describe_step(step: Step) -> dict[str, str]:
    state = "interrupted" if step.state == "resume" else step.state
    return {
        "stage": step.stage.name,
        "kind": step.stage.kind.name,
        "state": tr(STATE_NAMES[state]),
        "class": state,
        "sign": STATE_SIGNS[state],
        "why": step.why,
    }


def measure_plan(recipe: Recipe, store: Store, rates: Rates) -> None:
    """Measure on this machine a step of each training stage of a recipe that is still to be run.

    Raises:
        UserError: A file is missing, another measurement is going on, or it fails.
    """
    steps = plan(recipe, store)
    kinds = {step.stage.name: step.stage.kind.name for step in steps}
    results = estimate_plan(recipe, steps, "", "auto", False)
    rates.measure([(kinds[r.stage], r) for r in results if isinstance(r, Estimate)])


def _describe_estimate(result: Any, duration: Duration | None) -> dict[str, Any]:
    row = {"stage": result.stage, **describe_estimate(result)}
    if isinstance(result, Estimate):
        row["shown"] = _figures(result, duration)
        row["time"] = "" if duration is None else show_duration(duration.seconds)
        row["limit"] = None if result.memory_limit is None else format_number(result.memory_limit / 1e9)
        row["peak"] = format_number(result.memory.peak / 1e9)
        row["suggestions"] = [
            {"setting": change.setting, "peak": format_number(change.peak / 1e9), "another": change.changes_result}
            for change in result.changes
        ]
    return row


def _figures(result: Estimate, duration: Duration | None) -> Sequence[tuple[str, str]]:
    setup = result.setup
    rows = [
        (tr("parameters"), _count(setup.shape.parameters)),
        (tr("trainable"), _count(setup.trained.total)),
        (tr("steps"), "?" if setup.batch.steps is None else f"{setup.batch.steps:,}"),
        (tr("tokens per step"), f"{setup.batch.step_tokens:,.0f}"),
        (tr("disk"), f"{result.disk.peak / 1e9:.3g} GB"),
    ]
    if setup.batch.steps is not None:
        operations = result.operations * setup.batch.steps
        rows.append((tr("work"), f"{operations / 1e15:,.3g} PFLOP"))
        if duration is not None:
            rows += [(tr("time"), show_duration(duration.seconds)), (tr("by the rate"), duration.source)]
        else:  # a rule of thumb until the rate is known
            rows.append((tr("hours at an assumed 100 TFLOP/s"), f"{operations / 1e14 / 3600:.3g}"))
    return rows


def _count(number: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return str(number)
