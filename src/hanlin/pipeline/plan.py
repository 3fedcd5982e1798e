"""From a recipe to artifacts: what is done, what must run and why, and the running itself.

Owns the plan and the order. Does not own the work: every stage runs in a process of its own (`worker`).
"""

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
from hanlin.core.i18n import say
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.inputs import _source
from hanlin.pipeline.manifest import Manifest, key_of
from hanlin.pipeline.step import Step


def plan(recipe: Recipe, store: Store) -> list[Step]:
    """The state of every stage, in order, without running anything. Raises UserError for a file that is not there."""
    steps: dict[str, Step] = {}
    for name, stage in recipe.stages.items():
        steps[name] = _step(recipe, stage, steps, store)
    store.remember_digests()
    return list(steps.values())


def _step(recipe: Recipe, stage: Stage, before: Mapping[str, Step], store: Store) -> Step:
    sources = tuple(_source(recipe, stage, item, before, store) for item in references(stage.settings))
    settings = _counted_with_resources(stage.settings)
    key = key_of(
        stage.kind.name,
        stage.kind.version,
        settings,
        recipe.seed,
        [(source.entry.field, source.entry.key) for source in sources],
    )
    step = Step(stage, key, "run", "", sources, settings)
    manifest = store.manifest(stage.kind.name, key)
    waiting = [source.entry.reference for source in sources if not source.ready]
    if manifest is not None:
        if waiting:
            why = say(f"{', '.join(waiting)} will be made again first", f"先要重做 {'、'.join(waiting)}")
            return replace(step, state="stale", why=why, manifest=manifest)
        changed = [
            new.reference
            for old, new in zip(manifest.inputs, (source.entry for source in sources), strict=False)
            if old.digest != new.digest
        ]
        if changed:
            why = say(f"was made from another {', '.join(changed)}", f"产出时所读的 {'、'.join(changed)} 已不同")
            return replace(step, state="stale", why=why, manifest=manifest)
        return replace(step, state="done", why=_when(manifest), manifest=manifest)
    if store.partial(stage.kind.name, key).exists():
        busy = store.busy(stage.kind.name, key)
        why = say("is being made by another run", "另一次运行正在制作") if busy else say("was broken off", "上次中断")
        return replace(step, state="resume", why=why)
    return replace(step, why=_why_new(recipe, stage, step, store))


def _when(manifest: Manifest) -> str:
    return say(
        f"made {manifest.finished} in {manifest.seconds:.1f} s",
        f"{manifest.finished} 完成，用时 {manifest.seconds:.1f} 秒",
    )


def _why_new(recipe: Recipe, stage: Stage, step: Step, store: Store) -> str:
    """What differs from what this stage made last time."""
    try:
        last = store.linked(recipe.name, stage.name)
    except UserError:
        last = None
    if last is None:
        return say("never made", "尚未制作")
    if last.kind != stage.kind.name:
        return say(f"was a {last.kind} before", f"此前是 {last.kind}")
    if last.version != stage.kind.version:
        return say("the kind has a new version", "该类型有了新版本")
    if last.seed != recipe.seed:
        return say(f"seed {last.seed} → {recipe.seed}", f"种子 {last.seed} → {recipe.seed}")
    old, new = dict(_flat(last.key_settings)), dict(_flat(step.key_settings))
    changes = [
        f"{name} {_short(old.get(name))} → {_short(new.get(name))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    before = {entry.reference: entry.key for entry in last.inputs}
    changes += [
        say(f"{source.entry.reference} is another", f"{source.entry.reference} 已不同")
        for source in step.sources
        if before.get(source.entry.reference) != source.entry.key
    ]
    return "; ".join(changes[:3]) or say("its artifact is gone", "产物已不在")


def _flat(row: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(row, Mapping):
        for name, value in row.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, row


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "..."


def _counted_with_resources(settings: Settings) -> dict[str, Any]:
    """The settings that count, and beside each name of a packaged text (a chat template) the hash of that text."""
    row = key_settings(settings)
    for name, info in type(settings).model_fields.items():
        resource = setting_info(info).resource
        value = getattr(settings, name)
        if resource and value is not None:
            row[f"{name} (text)"] = _resource_hash(resource, value)
    return row


def _resource_hash(resource: str, name: str) -> str:
    folder = Path(__file__).parents[1] / {"template": "chat/templates"}[resource]
    file = folder / f"{name}.jinja"
    if not file.is_file():
        known = [item.stem for item in folder.glob("*.jinja")]
        raise UserError(say(f"no {resource} '{name}'", f"没有名为“{name}”的模板"), None, did_you_mean(name, known))
    return hashlib.sha256(file.read_bytes()).hexdigest()
