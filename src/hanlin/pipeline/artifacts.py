"""The store of artifacts: folders named by their key, made under a lock and made visible by one rename.

An artifact is `artifacts/<kind>-<key>/`. While it is made it is `<kind>-<key>.partial/`, so a folder without that
ending
is complete. The key identifies a run and is known before it; the digest is the hash of the bytes that came out.
"""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.discover import STORE_FOLDERS, STORE_LOCKS
from hanlin.core.errors import UserError
from hanlin.core.files import FileState, file_state, parse_json, write_json
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.pipeline.integrity import STATES_FOLDER, Check, check_files, load_states, save_states
from hanlin.pipeline.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    digest_files,
    hash_file,
    read_manifest,
    write_manifest,
)

PARTIAL_FOLDER = ".partial"
"""The ending of the folder of an artifact that is not complete."""
_DIGESTS_FILE = ".digests.json"
_SHOWN_BYTES = 256 << 20
"""Hashing more than this shows its progress; it takes a second."""


class Store:
    """All artifacts below the folder `home`, and the links `runs/<recipe>/<stage>` that lead people to them.

    Args:
        home: The folder of `artifacts/` and `runs/`.
        verify: Hash every file that is read, whatever is known of its state.
    """

    def __init__(self, home: str | Path, verify: bool = False) -> None:
        self.home = home = Path(home)
        if os.path.exists(home) and not home.is_dir():
            raise UserError(tr("this is a file, not a folder"), home, tr("name a folder for artifacts/ and runs/"))
        self.artifacts, self.runs = (home / name for name in STORE_FOLDERS)
        self._verify = verify
        self._digests: dict[str, list[Any]] | None = None
        self._new_digests: dict[str, list[Any]] = {}
        self._checks: dict[tuple[Path, str], Check] = {}

    def folder(self, kind: str, key: str) -> Path:
        """The folder of an artifact, whether it exists or not."""
        return self.artifacts / f"{kind}-{key}"

    def partial_folder(self, kind: str, key: str) -> Path:
        """The folder of an artifact while it is made."""
        return self.artifacts / f"{kind}-{key}{PARTIAL_FOLDER}"

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """The manifest of an artifact, or None if it has not been made."""
        return read_manifest(self.folder(kind, key))

    def mark(self) -> None:
        """Make the folder by which a store is known, before its own folder is read as data (`list_files`).

        Raises OSError in a store that can only be read.
        """
        (self.artifacts / STORE_LOCKS).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Hold the lock of an artifact; waits while another process holds it. The kernel frees it when one is
        killed.
        """
        folder = self.artifacts / STORE_LOCKS
        _refuse_links(folder, folder / f"{kind}-{key}.lock")
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{kind}-{key}.lock")
        try:
            lock.acquire()
        except NotImplementedError as error:
            what = tr("this file system has no locks, which keep two runs apart")
            raise UserError(what, folder, tr("keep the store on another disk")) from error
        try:
            yield
        finally:
            lock.release()

    def is_locked(self, kind: str, key: str) -> bool:
        """Whether some process is making this artifact now."""
        path = self.artifacts / STORE_LOCKS / f"{kind}-{key}.lock"
        if path.is_symlink() or not path.exists():  # a lock empties the file that it is
            return False
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        except OSError:  # a store that can only be read
            return False
        lock.release()
        return False

    def open_partial(self, kind: str, key: str, *, keep: bool = True) -> Path:
        """Make the folder in which an artifact is made, with its scratch folder, or find what an earlier run left.

        Args:
            kind: The kind of stage.
            key: The key of the artifact.
            keep: Keep what is there; if not, it is removed, or it would be taken for a part of the artifact.

        Raises:
            UserError: A link is there or in it: what is written would be elsewhere.
        """
        partial = self.partial_folder(kind, key)
        _refuse_links(partial, partial / SCRATCH_FOLDER)
        if not keep:
            shutil.rmtree(partial, ignore_errors=True)
        (partial / SCRATCH_FOLDER).mkdir(parents=True, exist_ok=True)
        _refuse_links(*partial.rglob("*"))
        return partial

    def check(self, folder: Path, manifest: Manifest) -> Check:
        """Compare the files of an artifact with its manifest, which need not be in this store.

        A file is hashed only if it is not in the state in which it was hashed before, or with `verify` once.
        """
        inside = folder.resolve().parent == self.artifacts.resolve()
        states_file = self._states_file(folder.name)
        checked = self._checks.get((folder, manifest.digest))
        if checked is not None:
            known = checked.states
        elif self._verify:
            known = {}
        else:
            known = load_states(states_file, manifest.digest) if inside else self._known_states(folder, manifest)
        with _hashing(folder.name) as on_bytes:
            check = check_files(folder, manifest, known, on_bytes)
        self._checks[folder, manifest.digest] = check
        if inside and not check.changes and check.states != known:
            save_states(states_file, manifest.digest, check.states)
        elif not inside:
            self._remember(folder, manifest, check)
        return check

    def _states_file(self, name: str) -> Path:
        return self.artifacts / STATES_FOLDER / f"{name}.json"

    def _known_states(self, folder: Path, manifest: Manifest) -> dict[str, FileState]:
        """The states in which files of an artifact from elsewhere had the hashes of its manifest."""
        known = {}
        for entry in manifest.files:
            row = self._load_digests().get(_cache_name(folder / entry.path))
            if row and row[-1] == entry.sha256 and len(row) == len(FileState._fields) + 1:
                known[entry.path] = FileState(*row[:-1])
        return known

    def _remember(self, folder: Path, manifest: Manifest, check: Check) -> None:
        for entry in manifest.files:
            if entry.path in check.states:
                row = [*check.states[entry.path], entry.sha256]
                name = _cache_name(folder / entry.path)
                if self._load_digests().get(name) != row:
                    self._load_digests()[name] = self._new_digests[name] = row

    def commit(self, partial: Path, manifest: Manifest) -> Manifest:
        """Make a finished folder visible: delete its scratch folder, hash its files, write the manifest, rename it.

        Args:
            partial: The folder in which the artifact was made.
            manifest: Its manifest without files and digest.

        Returns:
            The manifest with files and digest, as written.
        """
        # renamed before it is deleted: a scratch folder that was deleted halfway would look like one to resume from
        doomed = partial.with_name(f".{partial.name}-scratch")
        shutil.rmtree(doomed, ignore_errors=True)
        if (partial / SCRATCH_FOLDER).exists():
            os.replace(partial / SCRATCH_FOLDER, doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        (partial / MANIFEST).unlink(missing_ok=True)
        _refuse_links(*partial.rglob("*"))
        files, states = [], {}
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                sha256, state = hash_file(path)
                files.append(FileEntry(path.relative_to(partial).as_posix(), state.size, sha256))
                states[files[-1].path] = state
        complete = replace(manifest, files=tuple(files), digest=digest_files(files))
        write_manifest(partial, complete)
        folder = self.folder(complete.kind, complete.key)
        if folder.exists():
            self.archive(folder)
        os.replace(partial, folder)
        save_states(self._states_file(folder.name), complete.digest, states)
        return complete

    def archive(self, folder: Path) -> Path:
        """Move a stale artifact to `<folder>.was-<digest>`; a complete artifact is never deleted."""
        try:
            manifest = read_manifest(folder)
        except UserError:
            manifest = None
        digest = manifest.digest[:8] if manifest else "unknown"
        archived = folder.with_name(f"{folder.name}.was-{digest}")
        if archived.exists() and manifest is not None and not self.check(folder, manifest).changes:
            shutil.rmtree(folder)  # the same bytes are there already
            return archived
        return self.archive_as(folder, f"was-{digest}")

    def archive_as(self, folder: Path, ending: str) -> Path:
        """Rename a folder to `<folder>.<ending>`, with a number if that exists; return the new path."""
        target = folder.with_name(f"{folder.name}.{ending}")
        names = (target.with_name(f"{target.name}-{number}") for number in itertools.count(2))
        while os.path.lexists(target):
            target = next(names)
        os.replace(folder, target)
        return target

    def log_folder(self, recipe: str, stage: str, key: str) -> Path:
        """The folder for a stage's logs, which depend on the clock and are no part of the artifact."""
        folder = self.runs / recipe / "training-logs" / f"{stage}-{key[:8]}"  # no stage can have that name
        _refuse_links(self.runs / recipe, folder.parent, folder, *folder.glob("*"))
        return folder

    def run_folder(self, recipe: str) -> Path:
        """The folder of a recipe's links and report; it is created. Raises UserError if a link is there."""
        folder = self.runs / recipe
        _refuse_links(folder)
        if folder.exists() and not folder.is_dir():
            raise UserError(tr("this is a file, not a folder"), folder, tr("move it away"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def link(self, recipe: str, stage: str, folder: Path) -> Path:
        """Let `runs/<recipe>/<stage>` lead to an artifact; if links are not allowed, a small text file names it."""
        link = self.run_folder(recipe) / stage
        target = os.path.relpath(folder, link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            return link
        # two runs of one recipe link at the same time, in processes or threads: each has a name of its own
        new = link.with_name(f"{link.name}.{os.getpid()}-{threading.get_ident()}.linking")
        new.unlink(missing_ok=True)
        if link.is_dir() and not link.is_symlink():
            raise UserError(tr("a folder is here, where a link to the artifact belongs"), link, tr("move it away"))
        try:
            new.symlink_to(target, target_is_directory=True)
        except OSError:
            new.write_text(target, encoding="utf-8")
        os.replace(new, link)
        return link

    def last_manifest(self, recipe: str, stage: str) -> Manifest | None:
        """The manifest of the artifact that a stage made last, whatever its key was."""
        link = self.runs / recipe / stage
        folder = link.parent / link.read_text(encoding="utf-8") if link.is_file() else link
        return read_manifest(folder) if folder.is_dir() else None

    def digest_file(self, path: Path) -> tuple[str, FileState]:
        """The SHA-256 of a source file and the state in which it has it; cached by path and state."""
        name = _cache_name(path)
        known = self._load_digests().get(name)
        state = file_state(path.stat())
        is_known = known is not None and known[:-1] == list(state) and (not self._verify or name in self._new_digests)
        if known is not None and is_known:
            return str(known[-1]), state
        num_bytes = state.size
        with _hashing(path.name) as on_bytes:
            sha256, state = hash_file(path, lambda count: on_bytes(count, num_bytes))
        self._load_digests()[name] = self._new_digests[name] = [*state, sha256]
        return sha256, state

    def _load_digests(self) -> dict[str, list[Any]]:
        if self._digests is None:
            self._digests = self._read_digests()
        return self._digests

    def _read_digests(self) -> dict[str, list[Any]]:
        try:
            rows = parse_json((self.artifacts / _DIGESTS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return {name: row for name, row in rows.items() if isinstance(row, list)} if isinstance(rows, dict) else {}

    def save_digests(self) -> None:
        """Keep the hashes of source files for the next plan; a failure is ignored, they can be computed again."""
        if not self._new_digests:
            return
        try:
            self.artifacts.mkdir(parents=True, exist_ok=True)
            rows = {**self._read_digests(), **self._new_digests}  # another run may have saved some meanwhile
            write_json(self.artifacts / _DIGESTS_FILE, rows, indent=None, shared=True)
            if not self._verify:
                self._new_digests = {}
        except OSError:
            pass


def _cache_name(path: Path) -> str:
    """The path of a file as a text that UTF-8 can hold, whatever bytes are in its name."""
    return os.fsencode(path.resolve()).decode("utf-8", "backslashreplace")


@contextmanager
def _hashing(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far hashing is, if there are so many bytes that it takes a while."""
    done = 0
    progress = Progress(tr("checking {name}", name=name))

    def on_bytes(count: int, total: int) -> None:
        nonlocal done
        done += count
        if total > _SHOWN_BYTES:
            progress.update(done, total, tr("bytes"))

    try:
        yield on_bytes
    finally:
        progress.close()


def _refuse_links(*paths: Path) -> None:
    """Raise UserError if one of the paths is a link: what is written there would be elsewhere."""
    for path in paths:
        if path.is_symlink():
            what = tr("a link is here, and what Hanlin writes would be elsewhere")
            raise UserError(what, path, tr("remove the link; only artifacts/ and runs/ themselves may be links"))
