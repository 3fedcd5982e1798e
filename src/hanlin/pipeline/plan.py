"""The plan of a recipe: for each stage its key, whether it is done or must run, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.config.recipe import Recipe, Stage
from hanlin.config.settings.base import Settings, key_settings, references, setting_info
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import is_file_name
from hanlin.core.i18n import join_list, tr
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.inputs import resolve_input
from hanlin.pipeline.integrity import describe_changes
from hanlin.pipeline.manifest import Manifest, compute_key
from hanlin.pipeline.step import Step


def plan(recipe: Recipe, store: Store) -> list[Step]:
    """The state of every stage, in order, without running anything. Raises UserError if a file is missing."""
    steps: dict[str, Step] = {}
    for name, stage in recipe.stages.items():
        steps[name] = plan_stage(recipe, stage, steps, store)
    store.save_digests()
    return list(steps.values())


def plan_stage(recipe: Recipe, stage: Stage, earlier: Mapping[str, Step], store: Store) -> Step:
    """The state of one stage, after the steps of the stages that it reads."""
    inputs = tuple(resolve_input(recipe, stage, item, earlier, store) for item in references(stage.settings))
    settings = _key_settings_with_resources(stage.settings)
    key = compute_key(
        stage.kind.name,
        stage.kind.version,
        settings,
        recipe.seed,
        [(item.entry.field, item.entry.key) for item in inputs],
    )
    step = Step(stage, key, "run", "", inputs, settings)
    manifest = store.manifest(stage.kind.name, key)
    waiting = [item.entry.reference for item in inputs if not item.ready]
    if manifest is not None:
        if waiting:
            names = join_list(waiting)
            why = tr("{names} will be made again first", names=names)
            return replace(step, state="stale", why=why, manifest=manifest)
        changed = [
            new.reference
            for old, new in zip(manifest.inputs, (item.entry for item in inputs), strict=False)
            if old.digest != new.digest
        ]
        if changed:
            names = join_list(changed)
            why = tr("{names} changed since it was made", names=names)
            return replace(step, state="stale", why=why, manifest=manifest)
        changes = store.check(store.folder(stage.kind.name, key), manifest).changes
        if changes:
            why = describe_changes(changes)
            return replace(step, state="edited", why=why, manifest=manifest)
        return replace(step, state="done", why=_when(manifest), manifest=manifest)
    if store.partial_folder(stage.kind.name, key).exists():
        busy = store.is_locked(stage.kind.name, key)
        why = tr("another run is making it") if busy else tr("was interrupted")
        return replace(step, state="resume" if busy or stage.kind.resumes else "run", why=why)
    return replace(step, why=_reason_to_run(recipe, stage, step, store))


def _when(manifest: Manifest) -> str:
    return tr("made {finished} in {seconds:.1f} s", finished=manifest.finished, seconds=manifest.seconds)


def _reason_to_run(recipe: Recipe, stage: Stage, step: Step, store: Store) -> str:
    """How a stage differs from what it made last time."""
    try:
        last = store.last_manifest(recipe.name, stage.name)
    except UserError:
        last = None
    if last is None:
        return tr("not made yet")
    if last.kind != stage.kind.name:
        return tr("the kind was {kind}", kind=last.kind)
    if last.version != stage.kind.version:
        return tr("the stage kind has a new version")
    if last.seed != recipe.seed:
        return tr("seed {old} → {new}", old=last.seed, new=recipe.seed)
    old, new = dict(_flatten(last.key_settings)), dict(_flatten(step.key_settings))
    changes = [
        f"{name} {_abbreviate(old.get(name))} → {_abbreviate(new.get(name))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    before = {entry.reference: entry.key for entry in last.inputs}
    changes += [
        tr("{reference} changed", reference=item.entry.reference)
        for item in step.inputs
        if before.get(item.entry.reference) != item.entry.key
    ]
    return "; ".join(changes[:3]) or tr("its artifact was deleted")


def _flatten(row: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(row, Mapping):
        for name, value in row.items():
            yield from _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, row


def _abbreviate(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _key_settings_with_resources(settings: Settings) -> dict[str, Any]:
    """The settings that affect the key, and for each name of a packaged text (a chat template) that text's hash."""
    row = key_settings(settings)
    for name, info in type(settings).model_fields.items():
        resource = setting_info(info).resource
        value = getattr(settings, name)
        if resource and value is not None and not is_file_name(value):
            row[f"{name} (text)"] = _resource_hash(resource, value)
    return row


def _resource_hash(resource: str, name: str) -> str:
    folder = Path(__file__).parents[1] / {"template": "chat/templates"}[resource]
    file = folder / f"{name}.jinja"
    if not file.is_file():
        known = [item.stem for item in folder.glob("*.jinja")]
        raise UserError(tr("no chat template '{name}'", name=name), None, did_you_mean(name, known))
    return hashlib.sha256(file.read_bytes()).hexdigest()
