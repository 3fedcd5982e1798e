"""From a recipe to artifacts: what is done, what must run and why, and the running itself.

Owns the plan and the order. Does not own the work: every stage runs in a process of its own (`worker`).
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hanlin.config.recipe_file import Recipe, Stage
from hanlin.config.settings.base import Reference, Settings, counted, knob_of, references
from hanlin.core.context import SCRATCH
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.models.folder.checks import check_model_folder
from hanlin.pipeline import torchrun
from hanlin.pipeline.artifacts import FileEntry, InputEntry, Manifest, Store, digest_of, key_of, read_manifest
from hanlin.pipeline.worker import Host

State = Literal["done", "resume", "run", "stale"]


@dataclass(frozen=True, slots=True)
class Source:
    """What one reference comes to: its part of the key, and, once it exists, its digest and its paths."""

    entry: InputEntry
    paths: tuple[Path, ...] = ()
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """A stage with its key and its state; `why` says in words how that state came about."""

    stage: Stage
    key: str
    state: State
    why: str
    sources: tuple[Source, ...] = ()
    counted: Mapping[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None


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
    old, new = dict(_flat(last.counted)), dict(_flat(step.counted))
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
    row = counted(settings)
    for name, info in type(settings).model_fields.items():
        resource = knob_of(info).resource
        value = getattr(settings, name)
        if resource and value is not None:
            row[f"{name} (text)"] = _resource_hash(resource, value)
    return row


def _resource_hash(resource: str, name: str) -> str:
    folder = Path(__file__).parent / {"template": "tokens/templates"}[resource]
    file = folder / f"{name}.jinja"
    if not file.is_file():
        known = [item.stem for item in folder.glob("*.jinja")]
        raise UserError(say(f"no {resource} '{name}'", f"没有名为“{name}”的模板"), None, did_you_mean(name, known))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _source(recipe: Recipe, stage: Stage, item: Reference, before: Mapping[str, Step], store: Store) -> Source:
    where = f"{stage.where}, {item.field}"
    found = recipe.resolve(item, where)
    entry = InputEntry(item.field, item.text, "", "", licence=_licence_beside(stage.settings, item.field))
    if found.hub:
        key = f"hf:{found.hub}@{found.revision}"
        return Source(replace(entry, key=key, digest=key))
    if found.stage:
        upstream = before[found.stage]
        folder = store.folder(upstream.stage.kind.name, upstream.key)
        key = f"{upstream.key}/{found.inside}" if found.inside else upstream.key
        entry = replace(entry, key=key, artifact=folder.name, inside=found.inside)
        if upstream.state != "done" or upstream.manifest is None:
            return Source(entry, ready=False)
        if not found.inside:
            return Source(replace(entry, digest=upstream.manifest.digest), (folder,))
        files = _inside(upstream.manifest, found.inside, where)
        return Source(replace(entry, digest=digest_of(list(files)), files=files), _expand(folder / found.inside, where))
    assert found.path is not None
    return _local(entry, found.path, item, where, store)


def _local(entry: InputEntry, path: Path, item: Reference, where: str, store: Store) -> Source:
    paths = _expand(path, where)
    if len(paths) == 1 and paths[0].is_dir():
        manifest = read_manifest(paths[0])
        if manifest is not None:
            _check_type(manifest.type, item, where)
            entry = replace(entry, key=manifest.digest, digest=manifest.digest, artifact=manifest.folder_name)
            return Source(entry, (paths[0].resolve(),))
    if "files" not in item.types:
        made = _sniff(paths[0])
        if made is None:
            hint = _hint_for(item.types)
            wanted = " / ".join(item.types)
            raise UserError(say(f"{path} is not a {wanted}", f"{path} 不是 {wanted}"), where, hint)
        _check_type(made, item, where)
        if made == "model":
            check_model_folder(paths[0], experts=True)
    files = tuple(
        FileEntry(relative, file.stat().st_size, store.digest_file(file))
        for base in paths
        for relative, file in _files_of(base)
    )
    digest = digest_of(list(files))
    return Source(replace(entry, key=digest, digest=digest, files=files), tuple(place.resolve() for place in paths))


def _check_type(made: str, item: Reference, where: str) -> None:
    if made not in item.types and "files" not in item.types:
        wanted = " / ".join(item.types)
        raise UserError(
            say(f"{item.text} is {made}, but {wanted} is needed", f"{item.text} 是 {made}，而此处需要 {wanted}"), where
        )


_SIGNS = (
    ("adapter", "adapter_config.json"),
    ("model", "config.json"),
    ("gguf", "*.gguf"),
    ("documents", "documents*.jsonl"),
    ("conversations", "conversations.jsonl"),
    ("preferences", "preferences.jsonl"),
    ("judgements", "judgements.jsonl"),
    ("evaluation", "answers.jsonl"),
    ("tokenizer", "tokenizer.json*"),
    ("tokenizer", "tokenizer.model"),
    ("model", "*.bin"),
    ("model", "*.pt*"),
    ("model", "*.safetensors"),
)


def _sniff(path: Path) -> str | None:
    """What type of artifact a folder that we did not make holds."""
    if path.is_file():
        return "gguf" if path.suffix == ".gguf" else None
    return next((kind for kind, sign in _SIGNS if any(path.glob(sign))), None)


def _hint_for(types: tuple[str, ...]) -> str | None:
    converters = {"documents": "corpus"} | {name: name for name in ("conversations", "preferences", "judgements")}
    for name in types:
        if name in converters:
            kind = converters[name]
            return say(f"put a `{kind}` stage before it", f"请在前面加一个 {kind} 阶段")
    return None


def _expand(path: Path, where: str) -> tuple[Path, ...]:
    if glob.has_magic(str(path)):
        found = _each_once(Path(name) for name in sorted(glob.glob(str(path), recursive=True)))
    else:
        found = (path,) if path.exists() else ()
    if not found:
        hint = say("relative paths start at `root` of the recipe", "相对路径以配方的 root 为起点")
        raise UserError(say(f"nothing at {path}", f"{path} 不存在"), where, hint)
    return found


def _each_once(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths without those that only lead to another one of them through a linked folder, as in a loop of links."""
    shortest: dict[Path, Path] = {}
    for path in paths:
        place = path.resolve()
        if place not in shortest or len(path.parts) < len(shortest[place].parts):
            shortest[place] = path
    return tuple(sorted(shortest.values(), key=str))


def _files_of(base: Path) -> Iterator[tuple[str, Path]]:
    if base.is_file():
        yield base.name, base
    else:
        for file in sorted(base.rglob("*")):
            if file.is_file():
                yield f"{base.name}/{file.relative_to(base).as_posix()}", file


def _inside(manifest: Manifest, inside: str, where: str) -> tuple[FileEntry, ...]:
    from fnmatch import fnmatchcase

    inside = inside.rstrip("/")
    files = tuple(
        entry
        for entry in manifest.files
        if entry.path == inside or entry.path.startswith(inside + "/") or fnmatchcase(entry.path, inside)
    )
    if not files:
        raise UserError(
            say(f"{manifest.folder_name} holds no {inside}", f"{manifest.folder_name} 中没有 {inside}"), where
        )
    return files


def _licence_beside(settings: Settings, field_name: str) -> str:
    """The `licence` setting that stands beside a reference, if there is one."""
    owner: Any = settings
    for part in field_name.split(".")[:-1]:
        owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
    return str(getattr(owner, "licence", "") or "")


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
        "counted": dict(step.counted),
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
    job_file = store.partial(step.stage.kind.name, step.key).resolve() / SCRATCH / torchrun.JOB
    words = ["hanlin", "run", path, *(["--until", name] if name else [])]
    words += [word for change in changes for word in ("--set", change)]
    return torchrun.scripts(recipe.launch, words, recipe.name, job_file, str(store.home.resolve()))


def _entry_json(entry: InputEntry) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry)


def progress_of(step: Step, store: Store) -> dict[str, Any] | None:
    """How far a stage has come that is being made, or was broken off."""
    file = store.partial(step.stage.kind.name, step.key) / SCRATCH / "progress.json"
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None
