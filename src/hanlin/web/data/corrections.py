"""Corrections that are made on the page: each goes into an overlay file in the page's folder, never into the data.

An overlay belongs to a stage of a recipe: `overlays/<recipe>-<stage>.jsonl`, which the stage names as `overlay`. For an
artifact that no run leads to it is named after the artifact. An artifact that was made with an overlay goes on with it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from hanlin.core.discover import RECORD_KINDS
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, Preference, UnpairedPreference
from hanlin.data.overlay import ACTIONS, Overlay, OverlayEntry, content_of, hash_content, parse_content
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import read_manifest
from hanlin.web.runs.artifact import used_by

OVERLAYS_FOLDER = "overlays"
MAX_NOTE_CHARACTERS = 2_000
_CLASSES = {kind.kind: kind for kind in (Document, Conversation, Preference, UnpairedPreference)}
assert set(_CLASSES) == set(RECORD_KINDS)


@dataclass(frozen=True, slots=True)
class OverlayFile:
    """The overlay of an artifact: where it is, and how a recipe names it.

    `is_applied` says that the artifact was made with this overlay as it was then.
    """

    path: Path
    is_applied: bool

    @property
    def setting(self) -> str:
        """The line of a recipe that names it."""
        return f"overlay: {self.path}"


def find_overlay(store: Store, folder: Path) -> OverlayFile:
    """The overlay in which corrections of an artifact's records are kept; it need not exist yet.

    Raises:
        UserError: The folder of overlays, or the file, is a link.
    """
    overlays = store.home.resolve() / OVERLAYS_FOLDER
    manifest = read_manifest(folder)
    name, is_applied = "", False
    for entry in manifest.inputs if manifest is not None else ():
        if entry.field == "overlay" and len(entry.files) == 1:
            candidate = Path(entry.files[0].path).name
            if (overlays / candidate).is_file():
                name, is_applied = candidate, True
    if not name:
        stem = next((f"{run}-{stage}" for run, stage in used_by(store, folder)), folder.name)
        name = f"{stem}.jsonl"
    path = overlays / name
    for item in (overlays, path):
        if item.is_symlink():
            what = tr("a link is here, and what Hanlin writes would be elsewhere")
            raise UserError(what, item, tr("remove the link"))
    return OverlayFile(path, is_applied)


def read_overlay(file: OverlayFile) -> Overlay:
    """What an overlay holds; an absent one is empty. Raises UserError if it cannot be read."""
    return Overlay.read(file.path) if file.path.is_file() else Overlay()


_LOCK = threading.Lock()


def correct(
    file: OverlayFile, kind: str, row: Mapping[str, Any], action: str, content: Any = None, note: str = ""
) -> OverlayEntry:
    """Write a correction of a record.

    Args:
        file: The overlay.
        kind: The kind of the record.
        row: The record as the artifact has it.
        action: `drop`, `fix` or `note`.
        content: The new content of a fix.
        note: What the reader wrote.

    Returns:
        The entry.

    Raises:
        UserError: The action or the content is none, or the overlay cannot be read or written.
    """
    if action not in ACTIONS:
        raise UserError(tr("there is no action {name}", name=repr(action)))
    note = note.strip()
    if len(note) > MAX_NOTE_CHARACTERS:
        raise UserError(tr("the note is longer than {limit:,} characters", limit=MAX_NOTE_CHARACTERS))
    record_id = str(row.get("id", ""))
    fixed: dict[str, Any] = {}
    if action == "fix":
        if not isinstance(content, dict):
            raise UserError(tr("not a JSON object"), record_id)
        fixed = content_of(parse_content(_CLASSES[kind], content, record_id).to_json())
        if hash_content(fixed) == hash_content(row):
            raise UserError(tr("the new content is the old one"), record_id)
    with _changing(file):
        overlay = read_overlay(file)
        earlier = overlay.find(row)
        sha256 = hash_content(row) if earlier is None else earlier.sha256
        entry = OverlayEntry.from_json(OverlayEntry(record_id, sha256, action, fixed, note).to_json(), record_id)
        overlay.with_entry(entry).write(file.path)
    return entry


def undo(file: OverlayFile, sha256: str) -> None:
    """Take a correction back. Raises UserError if there is none of this hash."""
    with _changing(file):
        overlay = read_overlay(file)
        if sha256 not in overlay.by_hash:
            raise UserError(tr("this correction is no longer there"), file.path.name)
        overlay.without_entry(sha256).write(file.path)


@contextmanager
def _changing(file: OverlayFile) -> Iterator[None]:
    """Only one request, and one process, changes an overlay at a time."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK, filelock.FileLock(file.path.with_name(f".{file.path.name}.lock")):
        yield
