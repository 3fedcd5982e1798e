"""Whether the files of an artifact are those that were made: by size, time and inode; by hash if one of these differs.

The state that each file had when it was hashed is kept in `artifacts/.states/`. A copied store has other inodes: its
files are hashed once, and then known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import FileState, file_state, parse_json, write_json
from hanlin.core.i18n import tr
from hanlin.pipeline.manifest import MANIFEST, FileEntry, Manifest, digest_files, hash_file, read_manifest

STATES_FOLDER = ".states"
"""The folder beside artifacts that holds the states of their files."""
_LITTER = frozenset(("Thumbs.db", "desktop.ini"))
"""What file managers leave in a folder; files that begin with a dot are passed over too."""
States = Mapping[str, FileState]


@dataclass(frozen=True, slots=True)
class Change:
    """What is not as it was made: a file of the artifact (or its manifest), and what is wrong with it."""

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class Check:
    """The changes of an artifact, and the state of each file that its hash was compared in."""

    changes: tuple[Change, ...]
    states: States


def check_files(
    folder: Path, manifest: Manifest, known: States, on_bytes: Callable[[int, int], None] = lambda count, total: None
) -> Check:
    """Compare the files of an artifact with its manifest.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        known: States of files whose hash was compared; the others are hashed. None are known for a full check.
        on_bytes: Called with the bytes of each chunk that was hashed, and those of all files that are hashed.
    """
    changes: list[Change] = []
    states: dict[str, FileState] = {}
    unknown: list[FileEntry] = []
    for entry in manifest.files:
        try:
            state = file_state(os.stat(f"{folder}/{entry.path}"))
        except OSError:
            changes.append(Change(entry.path, tr("it is missing")))
            continue
        if state.size != entry.bytes:
            changes.append(Change(entry.path, tr("it was changed after it was made")))
        elif known.get(entry.path) == state:
            states[entry.path] = state
        else:
            unknown.append(entry)
    total = sum(entry.bytes for entry in unknown)
    for entry in unknown:
        sha256, state = hash_file(folder / entry.path, lambda count: on_bytes(count, total))
        if (sha256, state.size) == (entry.sha256, entry.bytes):
            states[entry.path] = state
        else:
            changes.append(Change(entry.path, tr("it was changed after it was made")))
    for path in sorted(_list_files(folder).difference(entry.path for entry in manifest.files)):
        changes.append(Change(path, tr("it was added after the artifact was made")))
    if digest_files(list(manifest.files)) != manifest.digest:
        changes.append(Change(MANIFEST, tr("it was changed after it was made")))
    return Check(tuple(changes), states)


def find_edits(path: Path) -> tuple[Change, ...]:
    """What can be told quickly of a model that is opened where it is: files of an artifact that were edited in place.

    Files are hashed if they are in another state and others beside them are not. A copy, in which every file has
    another state, is compared by size: a server does not hash its model each time it starts.

    Args:
        path: The folder, a file in it, or a link; anything that is no artifact has no edits.
    """
    folder = path.resolve()
    folder = folder.parent if folder.is_file() else folder
    try:
        manifest = read_manifest(folder)
    except UserError:
        return ()
    if manifest is None:
        return ()
    known = load_states(folder.parent / STATES_FOLDER / f"{folder.name}.json", manifest.digest)
    changes = []
    current: dict[str, FileState] = {}
    for entry in manifest.files:
        try:
            current[entry.path] = file_state(os.stat(f"{folder}/{entry.path}"))
        except OSError:
            changes.append(Change(entry.path, tr("it is missing")))
    is_copy = not any(known.get(name) == state for name, state in current.items())
    for entry in manifest.files:
        state = current.get(entry.path)
        if state is None or state == known.get(entry.path):
            continue
        if state.size != entry.bytes or (not is_copy and hash_file(folder / entry.path)[0] != entry.sha256):
            changes.append(Change(entry.path, tr("it was changed after it was made")))
    return tuple(changes)


def describe_changes(changes: Sequence[Change]) -> str:
    """The first change in words, and how many more there are."""
    first = changes[0]
    more = tr(" (and {count} more)", count=len(changes) - 1) if len(changes) > 1 else ""
    return f"{first.path}: {first.what}{more}"


def edited_artifact(folder: Path, changes: Sequence[Change]) -> UserError:
    """The error for an artifact whose files are not those that were made."""
    return UserError(
        describe_changes(changes),
        folder,
        tr(
            "move the folder away, and it is made again; to use what it holds now, copy its files without {manifest} "
            "and name the copy by its path",
            manifest=MANIFEST,
        ),
        "changed",
    )


def _list_files(folder: Path) -> set[str]:
    """The files of an artifact by their relative paths, but for the manifest and what is hidden."""
    found: set[str] = set()
    start = len(str(folder)) + 1
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = f"{base[start:]}/".replace(os.sep, "/") if len(base) >= start else ""
        found.update(prefix + name for name in names if not name.startswith(".") and name not in _LITTER)
    return found - {MANIFEST}


def load_states(file: Path, digest: str) -> States:
    """Read what `save_states` wrote for an artifact with this digest; empty if there is nothing to be read."""
    try:
        row = parse_json(file.read_text(encoding="utf-8"))
        if row["digest"] != digest:
            return {}
        return {str(path): FileState(*map(int, state)) for path, state in row["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def save_states(file: Path, digest: str, states: States) -> None:
    """Keep the states of an artifact's files; a failure is ignored, they are hashed again."""
    row: dict[str, Any] = {"digest": digest, "files": {path: list(state) for path, state in states.items()}}
    if file.parent.is_symlink():
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, row, indent=None, shared=True)
    except OSError:
        pass
