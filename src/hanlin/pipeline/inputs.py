"""What a reference comes to: files, their type and their digest."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanlin.config.recipe import Recipe, Stage
from hanlin.config.settings.base import Reference, Settings
from hanlin.core.discover import RECORD_KINDS, record_pattern
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.models.folder.checks import check_model_folder
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import FileEntry, InputEntry, Manifest, digest_of, read_manifest
from hanlin.pipeline.step import Source, Step


def _source(recipe: Recipe, stage: Stage, item: Reference, before: Mapping[str, Step], store: Store) -> Source:
    where = f"{stage.where}, {item.field}"
    found = recipe.resolve(item, where)
    entry = InputEntry(item.field, item.text, "", "", license=_licence_beside(stage.settings, item.field))
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
    *((kind, record_pattern(kind)) for kind in RECORD_KINDS),
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
    converters = {"documents": "corpus"} | {
        name: name for name in ("conversations", "preferences", "unpaired_preferences")
    }
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
    """The `license` setting that stands beside a reference, if there is one."""
    owner: Any = settings
    for part in field_name.split(".")[:-1]:
        owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
    return str(getattr(owner, "license", "") or "")
