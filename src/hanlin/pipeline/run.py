"""Running a plan: every stage that is not done, in order, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hanlin.config.recipe import Recipe
from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.core.text import check_path_encoding
from hanlin.pipeline import torchrun
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.integrity import edited_artifact
from hanlin.pipeline.manifest import InputEntry, read_manifest
from hanlin.pipeline.plan import plan, plan_stage
from hanlin.pipeline.requirements import check_packages
from hanlin.pipeline.run_record import RunSource, record_run
from hanlin.pipeline.step import Step
from hanlin.pipeline.worker_client import WorkerClient


def run(
    recipe: Recipe,
    store: Store,
    on_event: Callable[[str, Step], None] = lambda event, step: None,
    source: RunSource | None = None,
) -> list[Step]:
    """Run every stage that is not done, one after another.

    Args:
        recipe: The recipe.
        store: Where its artifacts are.
        on_event: Called with `skip`, `start` or `made` and the step.
        source: The recipe's file, for the record of the run.

    Returns:
        The steps, all of them done.

    Raises:
        UserError: A package is missing, or a stage refuses its input. What was made stays; the next run resumes.
        KeyboardInterrupt: The run was interrupted; likewise.
    """
    with record_run(recipe.name, store, source):
        return _run(recipe, store, on_event)


def _run(recipe: Recipe, store: Store, on_event: Callable[[str, Step], None]) -> list[Step]:
    done: dict[str, Step] = {}
    steps = plan(recipe, store)
    for step in steps:
        refuse_edited(step, store)
    pending = [step for step in steps if step.state != "done"]
    check_packages(pending, recipe.launch)
    if any(step.stage.kind.heavy for step in pending):
        check_path_encoding(store.home.resolve())  # not after hours, when the next stage opens the model
    with WorkerClient(preload=any(step.stage.kind.heavy for step in pending)) as worker:
        for name, stage in recipe.stages.items():
            step = plan_stage(recipe, stage, done, store)
            refuse_edited(step, store)
            was_done = step.state == "done"
            if was_done:
                on_event("skip", step)
            else:
                on_event("start", step)
                key = step.key
                worker.run_stage(build_request(recipe, step, store))
                step = plan_stage(recipe, stage, done, store)
                if step.key != key:
                    what = tr("stage '{name}': what it reads changed while it ran", name=name)
                    hint = tr("keep artifacts/ and other results out of the folders that it reads")
                    raise UserError(what, stage.where, hint)
                if step.state != "done":
                    raise RuntimeError(f"stage {name} ran but its artifact is not there: {step.why}")
                on_event("made", step)
            try:
                store.link(recipe.name, name, store.folder(stage.kind.name, step.key))
            except OSError:  # a store that can only be read serves what was made before
                if not was_done:
                    raise
            done[name] = step
    store.save_digests()
    return list(done.values())


def refuse_edited(step: Step, store: Store) -> None:
    """Raise UserError if the files of a stage's artifact are not those that were made."""
    if step.state == "edited":
        folder = store.folder(step.stage.kind.name, step.key)
        manifest = read_manifest(folder)
        assert manifest is not None
        raise edited_artifact(folder, store.check(folder, manifest).changes)


def build_request(recipe: Recipe, step: Step, store: Store) -> dict[str, Any]:
    """What a worker must know to make one artifact, as JSON data."""
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
        "log": str(store.log_folder(recipe.name, stage.name, step.key).resolve()),
        "inputs": [
            {
                "entry": _entry_json(item.entry),
                "paths": [str(path.resolve()) for path in item.paths],
                "files": item.files,
            }
            for item in step.inputs
        ],
    }


def launch_commands(recipe: Recipe, store: Store, name: str, path: str, changes: Sequence[str]) -> str:
    """The commands that run a recipe on the machines of its `launch`, and a batch script for Slurm.

    Args:
        recipe: The recipe.
        store: Where its artifacts are.
        name: The training stage to show, or empty for the first.
        path: The recipe's file as the user named it.
        changes: The `--set` options of the command.

    Returns:
        Text for a shell, with comments.

    Raises:
        UserError: There is no such training stage.
    """
    trained = [stage.name for stage in recipe.stages.values() if stage.kind.group]
    if not trained:
        raise UserError(tr("the recipe has no training stage"), path)
    if name and name not in trained:
        what = tr("no training stage '{name}'", name=name)
        raise UserError(what, path, did_you_mean(name, trained))
    step = next(step for step in plan(recipe, store) if step.stage.name == (name or trained[0]))
    request_file = (
        store.partial_folder(step.stage.kind.name, step.key).resolve() / SCRATCH_FOLDER / torchrun.REQUEST_FILE
    )
    words = ["hanlin", "run", path, *(["--until", name] if name else [])]
    words += [word for change in changes for word in ("--set", change)]
    return torchrun.launch_scripts(recipe.launch, words, recipe.name, request_file, str(store.home.resolve()))


def _entry_json(entry: InputEntry) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry)


def read_progress(step: Step, store: Store) -> dict[str, Any] | None:
    """How far a stage is that is being made or was interrupted, or None if it has not said."""
    file = store.partial_folder(step.stage.kind.name, step.key) / SCRATCH_FOLDER / "progress.json"
    try:
        row = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None
