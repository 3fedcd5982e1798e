"""Whether the files of an artifact are those that were made: by size, time and inode; by hash if one of these differs.

The state that each file had when it was hashed is kept in `artifacts/.states/`. A copied store has other inodes: its
files are hashed once, and then known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import FileState, file_state, write_json
from hanlin.core.i18n import tr
from hanlin.pipeline.manifest import MANIFEST, FileEntry, Manifest, digest_files, hash_file

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
    folder: Path, manifest: Manifest, known: States, on_bytes: Callable[[int], None] = lambda count: None
) -> Check:
    """Compare the files of an artifact with its manifest.

    Args:
        folder: The artifact.
        manifest: Its manifest.
        known: States of files whose hash was compared; the others are hashed. None are known for a full check.
        on_bytes: Called with the number of bytes that were hashed.
    """
    changes: list[Change] = []
    states: dict[str, FileState] = {}
    for entry in manifest.files:
        try:
            state = file_state((folder / entry.path).stat())
        except OSError:
            changes.append(Change(entry.path, tr("it is missing")))
            continue
        if state.size == entry.bytes and known.get(entry.path) != state:
            sha256, state = hash_file(folder / entry.path, on_bytes)
            if sha256 != entry.sha256:
                changes.append(Change(entry.path, tr("it was changed after it was made")))
                continue
        if state.size != entry.bytes:
            changes.append(Change(entry.path, tr("it was changed after it was made")))
            continue
        states[entry.path] = state
    for path in sorted(set(_list_files(folder)).difference(entry.path for entry in manifest.files)):
        changes.append(Change(path, tr("it was added after the artifact was made")))
    if digest_files(list(manifest.files)) != manifest.digest:
        changes.append(Change(MANIFEST, tr("it was changed after it was made")))
    return Check(tuple(changes), states)


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
    )


def unknown_bytes(folder: Path, entries: Sequence[FileEntry], known: States) -> int:
    """How many bytes `check_files` would hash."""
    total = 0
    for entry in entries:
        try:
            state = file_state((folder / entry.path).stat())
        except OSError:
            continue
        total += 0 if known.get(entry.path) == state else entry.bytes
    return total


def _list_files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and path.name not in _LITTER and relative.as_posix() != MANIFEST and path.is_file():
            yield relative.as_posix()


def load_states(file: Path, digest: str) -> States:
    """Read what `save_states` wrote for an artifact with this digest; empty if there is nothing to be read."""
    try:
        row = json.loads(file.read_text(encoding="utf-8"))
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
