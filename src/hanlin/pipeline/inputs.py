"""What a reference of a stage leads to: an artifact, local files or a hub repository, with type and digest."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hanlin.config.kinds import KINDS
from hanlin.config.recipe import Recipe, Stage, adapter_hint
from hanlin.config.settings.base import Reference, Settings
from hanlin.core.discover import RECORD_KINDS, list_files, record_pattern
from hanlin.core.errors import UserError, suggest_path
from hanlin.core.files import FileState, HashedFile, changed_while_read, file_state, show_file_name
from hanlin.core.i18n import join_list, mark, tr
from hanlin.models.folder.checks import check_model_folder, gguf_hint
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.integrity import edited_artifact
from hanlin.pipeline.manifest import FileEntry, InputEntry, Manifest, digest_files, hash_file, read_manifest
from hanlin.pipeline.step import ResolvedInput, Step


def resolve_input(
    recipe: Recipe, stage: Stage, item: Reference, earlier: Mapping[str, Step], store: Store
) -> ResolvedInput:
    """What a reference leads to.

    Args:
        recipe: The recipe.
        stage: The stage that holds the reference.
        item: The reference.
        earlier: The steps of the stages before it, by name.
        store: Where artifacts are.

    Raises:
        UserError: A path does not exist, or leads to something of another type.
    """
    where = f"{stage.where}, {item.field}"
    target = recipe.resolve(item, where)
    entry = InputEntry(item.field, item.text, "", "", license=_license_of(stage.settings, item.field))
    if target.repository:
        key = str(target.repository)
        return ResolvedInput(replace(entry, key=key, digest=key))
    if target.stage:
        upstream = earlier[target.stage]
        folder = store.folder(upstream.stage.kind.name, upstream.key)
        key = f"{upstream.key}/{target.inside}" if target.inside else upstream.key
        entry = replace(entry, key=key, artifact=folder.name, inside=target.inside)
        if upstream.state != "done" or upstream.manifest is None:
            return ResolvedInput(entry, ready=False)
        check = store.check(folder, upstream.manifest)
        if check.changes:
            raise edited_artifact(folder, check.changes)
        if not target.inside:
            return ResolvedInput(
                replace(entry, digest=upstream.manifest.digest),
                (folder,),
                _hashed_files(folder, upstream.manifest.files, check.states),
            )
        files = _entries_inside(upstream.manifest, target.inside, where)
        return ResolvedInput(
            replace(entry, digest=digest_files(list(files)), files=files),
            expand_glob(folder / target.inside, where),
            _hashed_files(folder, files, check.states),
        )
    assert target.path is not None
    return _resolve_local(entry, target.path, item, where, store)


def _resolve_local(entry: InputEntry, path: Path, item: Reference, where: str, store: Store) -> ResolvedInput:
    paths = expand_glob(path, where)
    if len(paths) == 1 and paths[0].is_dir():
        manifest = read_manifest(paths[0])
        if manifest is not None:
            _check_type(manifest.type, item, where)
            folder = paths[0].resolve()
            check = store.check(folder, manifest)
            if check.changes:
                raise edited_artifact(folder, check.changes)
            entry = replace(entry, key=manifest.digest, digest=manifest.digest, artifact=manifest.folder_name)
            return ResolvedInput(entry, (folder,), _hashed_files(folder, manifest.files, check.states))
    if "files" not in item.types:
        detected = _detect_type(paths[0])
        if detected is None:
            what = tr("{path} is not {expected}", path=path, expected=_names_of(item.types))
            raise UserError(what, where, _hint_for(item.types))
        _check_type(detected, item, where)
        if detected == "model":
            check_model_folder(paths[0], experts=True)
    bases = tuple(base.resolve() for base in paths)
    files: list[FileEntry] = []
    hashed: dict[str, HashedFile] = {}
    for base, named in zip(bases, paths, strict=True):
        for relative, file in walk_files(base, named.name):
            sha256, state = store.digest_file(file)
            files.append(FileEntry(relative, state.size, sha256))
            hashed[str(file)] = HashedFile(state, sha256)
    digest = digest_files(files)
    return ResolvedInput(replace(entry, key=digest, digest=digest, files=tuple(files)), bases, hashed)


def _hashed_files(folder: Path, entries: Iterable[FileEntry], states: Mapping[str, FileState]) -> dict[str, HashedFile]:
    folder = folder.resolve()
    return {str(folder / entry.path): HashedFile(states[entry.path], entry.sha256) for entry in entries}


class SeenFile(NamedTuple):
    """A file of an input as it was found: its state, that of its link if it is one, and the time of its folder."""

    state: FileState
    link: FileState
    folder_mtime_ns: int

    @classmethod
    def look(cls, name: str) -> SeenFile:
        """Raises OSError if there is no such file."""
        folder = os.stat(os.path.dirname(name) or ".")
        return cls(file_state(os.stat(name)), file_state(os.lstat(name)), folder.st_mtime_ns)

    def may_have_been_another(self, now: SeenFile) -> bool:
        """Whether the file was perhaps replaced or written since, even if its bytes are the same again.

        A rename away and back, as any other, changes the time of the inode and that of its folder. What changes the
        inode's time alone is a new hard link (of a backup), or other rights.
        """
        old, new = self.state, now.state
        if self.link not in (now.link, self.state):
            return True
        return old != new and (old[:3] != new[:3] or self.folder_mtime_ns != now.folder_mtime_ns)


def check_inputs(
    rows: Sequence[Mapping[str, Any]], before: Mapping[str, SeenFile] | None = None
) -> dict[str, SeenFile]:
    """Check that the files of a stage's inputs hold the bytes that were hashed.

    Args:
        rows: The inputs of a request to the worker.
        before: What was returned before the stage ran: a file that was another one meanwhile is refused, although it
            holds the same bytes again, since nobody knows which of the two was read.

    Returns:
        The files as they were found.

    Raises:
        UserError: A file holds other bytes, is missing, or was added to a folder that is read as it is.
    """
    seen: dict[str, SeenFile] = {}
    for row in rows:
        for name, (state, sha256) in row["files"].items():
            try:
                seen[name] = SeenFile.look(name)
                # touched, linked or copied back: the bytes tell
                is_same = seen[name].state == FileState(*state) or hash_file(Path(name))[0] == sha256
                if before is not None:
                    is_same = is_same and not before[name].may_have_been_another(SeenFile.look(name))
            except OSError:
                is_same = False
            if not is_same:
                raise changed_while_read(Path(name))
        if not row["entry"]["artifact"]:
            for base in map(Path, row["paths"]):
                for _, file in walk_files(base, ""):
                    if str(file) not in row["files"] and not file.name.startswith("."):
                        hint = tr("keep artifacts/ and other results out of the folders that it reads")
                        raise UserError(tr("it was added while its folder was read"), file, hint)
    return seen


def _check_type(detected: str, item: Reference, where: str) -> None:
    if detected not in item.types and "files" not in item.types:
        names = {"text": item.text, "detected": tr(_TYPE_NAMES[detected]), "expected": _names_of(item.types)}
        ways = {"adapter": adapter_hint, "gguf": gguf_hint} if "model" in item.types else {}
        hint = ways[detected]() if detected in ways else _hint_for(item.types)
        raise UserError(tr("{text} is {detected}, but {expected} is needed", **names), where, hint)


_TYPE_PATTERNS = (  # the first that matches a file of a folder
    ("adapter", "adapter_config.json"),
    ("model", "config.json"),
    ("gguf", "*.gguf"),
    *((kind, record_pattern(kind)) for kind in RECORD_KINDS),
    *(("evaluation", name) for name in ("answers.jsonl", "results.json", "perplexity.jsonl")),
    ("tokenizer", "tokenizer.json*"),
    ("tokenizer", "tokenizer.model"),
    ("model", "*.bin"),
    ("model", "*.pt*"),
    ("model", "*.safetensors"),
)


def _detect_type(path: Path) -> str | None:
    """The artifact type of a folder without manifest, or None if it is not known."""
    if path.is_file():
        return "gguf" if path.suffix == ".gguf" else None
    return next((kind for kind, pattern in _TYPE_PATTERNS if any(path.glob(pattern))), None)


_TYPE_NAMES = {
    "files": mark("a folder of files"),
    "documents": mark("a document dataset"),
    "conversations": mark("a conversation dataset"),
    "preferences": mark("a preference dataset"),
    "unpaired_preferences": mark("an unpaired preference dataset"),
    "reference_logprobs": mark("a folder of reference log-probabilities"),
    "tokenizer": mark("a tokenizer folder"),
    "model": mark("a model folder"),
    "adapter": mark("an adapter folder"),
    "importance": mark("an importance matrix"),
    "quality_model": mark("a quality model"),
    "gguf": mark("a GGUF model"),
    "quantized": mark("a quantized model folder"),
    "evaluation": mark("an evaluation result"),
    "package": mark("a package folder"),
}
"""The artifact types in words."""

_TYPE_FILES = {
    "tokenizer": mark("a tokenizer folder has tokenizer.json or tokenizer.model"),
    "model": mark("a model folder has config.json, tokenizer files and weights (*.safetensors)"),
    "adapter": mark("an adapter folder has adapter_config.json and its weights"),
    "gguf": mark("name a .gguf file or a folder of .gguf files"),
}
"""How to know the types that also come from elsewhere."""


def _names_of(types: tuple[str, ...]) -> str:
    *others, last = [tr(_TYPE_NAMES[name]) for name in types]
    return tr("{names} or {last}", names=join_list(others), last=last) if others else last


def _hint_for(types: tuple[str, ...]) -> str | None:
    if types[0] in _TYPE_FILES:
        return tr(_TYPE_FILES[types[0]])
    kind = next((kind.name for kind in KINDS.values() if kind.makes == types[0]), None)
    if kind is None:
        return None
    command = kind.replace("_", "-")
    return tr(
        "add a stage of kind `{kind}` before it, or make one by `hanlin {command} --out FOLDER`",
        kind=kind,
        command=command,
    )


def expand_glob(path: Path, where: str) -> tuple[Path, ...]:
    """The paths that a glob pattern matches, sorted, or the path itself. Raises UserError if there are none."""
    if path.exists():
        matches: tuple[Path, ...] = (path,)
    elif glob.has_magic(str(path)):
        names = sorted(glob.glob(str(path), recursive=True))
        # `x/**` also gives `x/` itself, whether it exists or not
        matches = _without_linked_duplicates(Path(name) for name in names if os.path.lexists(name))
    else:
        matches = ()
    if not matches and glob.has_magic(str(path)):
        folder = next(parent for parent in path.absolute().parents if not glob.has_magic(str(parent)))
        raise UserError(
            tr("no file matches {path}", path=path), where, tr("it was looked for in {folder}", folder=folder)
        )
    if not matches:
        raise UserError(tr("{path} does not exist", path=path), where, suggest_path(path), "not_found")
    return matches


def _without_linked_duplicates(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths, each file once: of those that lead to one file through linked folders, the shortest."""
    shortest: dict[Path, Path] = {}
    for path in paths:
        target = path.resolve()
        if target not in shortest or len(path.parts) < len(shortest[target].parts):
            shortest[target] = path
    return tuple(sorted(shortest.values(), key=str))


def walk_files(base: Path, name: str) -> Iterator[tuple[str, Path]]:
    r"""The files at a path, as `list_files` finds them, with their names in manifests, which begin with `name`.

    Bytes that are not UTF-8 are shown as escapes (`\xff`).
    """
    if base.is_file():
        yield show_file_name(name), base
    else:
        for file in list_files(base):
            yield show_file_name(f"{name}/{file.relative_to(base).as_posix()}"), file


def _entries_inside(manifest: Manifest, inside: str, where: str) -> tuple[FileEntry, ...]:
    from fnmatch import fnmatchcase

    inside = inside.rstrip("/")
    files = tuple(
        entry
        for entry in manifest.files
        if entry.path == inside or entry.path.startswith(inside + "/") or fnmatchcase(entry.path, inside)
    )
    if not files:
        raise UserError(tr("{folder_name} holds no {inside}", folder_name=manifest.folder_name, inside=inside), where)
    return files


def _license_of(settings: Settings, field_name: str) -> str:
    """The `license` setting beside a reference, or empty."""
    owner: Any = settings
    for part in field_name.split(".")[:-1]:
        owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
    return str(getattr(owner, "license", "") or "")
