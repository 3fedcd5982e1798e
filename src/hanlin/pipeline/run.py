"""Running a plan, stage by stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hanlin.config.recipe import Recipe
from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.pipeline import torchrun
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import InputEntry
from hanlin.pipeline.plan import _step, plan
from hanlin.pipeline.step import Step
from hanlin.pipeline.worker_client import Host


def run(
    recipe: Recipe,
    store: Store,
    tell: Callable[[str, Step], None] = lambda event, step: None,
) -> list[Step]:
    """Make everything that is not done, one stage after another; return the steps, all done.

    `tell` is called with "skip", "start" or "made".
    Raises UserError when a stage refuses its input, and KeyboardInterrupt; what was made stays, the rest resumes.
    """
    done: dict[str, Step] = {}
    pending = [step for step in plan(recipe, store) if step.state != "done"]
    with Host(preload=any(step.stage.kind.heavy for step in pending)) as host:
        for name, stage in recipe.stages.items():
            step = _step(recipe, stage, done, store)
            if step.state == "done":
                tell("skip", step)
            else:
                tell("start", step)
                host.make(_job(recipe, step, store))
                step = _step(recipe, stage, done, store)
                if step.state != "done":
                    raise RuntimeError(f"stage {name} ran but its artifact is not there: {step.why}")
                tell("made", step)
            store.link(recipe.name, name, store.folder(stage.kind.name, step.key))
            done[name] = step
    store.remember_digests()
    return list(done.values())


def _job(recipe: Recipe, step: Step, store: Store) -> dict[str, Any]:
    """All that a worker must know to make one artifact, as JSON: the same text reruns the stage by hand."""
    stage = step.stage
    return {
        "home": str(store.home.resolve()),
        "stage": stage.name,
        "kind": stage.kind.name,
        "key": step.key,
        "settings": stage.settings.model_dump(mode="json"),
        "key_settings": dict(step.key_settings),
        "seed": recipe.seed,
        "launch": recipe.launch.model_dump(mode="json"),
        "threads": recipe.launch.threads,
        "log": str(store.log(recipe.name, stage.name, step.key).resolve()),
        "inputs": [
            {"entry": _entry_json(source.entry), "paths": [str(path.resolve()) for path in source.paths]}
            for source in step.sources
        ],
    }


def commands(recipe: Recipe, store: Store, name: str, path: str, changes: Sequence[str]) -> str:
    """What to type on each machine to run the recipe as its `launch` says, and a script for Slurm; `name` is the
    training stage that is shown, or empty for the first. Raises UserError when that is no training stage."""
    trained = [stage.name for stage in recipe.stages.values() if stage.kind.group]
    if not trained or (name and name not in trained):
        what = say(f"no training stage '{name}'", f"没有名为“{name}”的训练阶段") if name else None
        raise UserError(what or say("there is no training stage", "没有训练阶段"), path, did_you_mean(name, trained))
    step = next(step for step in plan(recipe, store) if step.stage.name == (name or trained[0]))
    job_file = store.partial(step.stage.kind.name, step.key).resolve() / SCRATCH_FOLDER / torchrun.JOB
    words = ["hanlin", "run", path, *(["--until", name] if name else [])]
    words += [word for change in changes for word in ("--set", change)]
    return torchrun.scripts(recipe.launch, words, recipe.name, job_file, str(store.home.resolve()))


def _entry_json(entry: InputEntry) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry)


def progress_of(step: Step, store: Store) -> dict[str, Any] | None:
    """How far a stage has come that is being made, or was broken off."""
    file = store.partial(step.stage.kind.name, step.key) / SCRATCH_FOLDER / "progress.json"
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None
