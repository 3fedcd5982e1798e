"""The store of artifacts: folders named by their key, made under a lock and made visible by one rename.

An artifact is `artifacts/<kind>-<key>/`. While it is made it is `<kind>-<key>.partial/`, so a folder without that
ending
is complete. The key identifies a run and is known before it; the digest is the hash of the bytes that came out.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError
from hanlin.core.files import write_json
from hanlin.core.i18n import tr
from hanlin.pipeline.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    digest_files,
    read_manifest,
    sha256_file,
    write_manifest,
)

PARTIAL_FOLDER = ".partial"
"""The ending of the folder of an artifact that is not complete."""


class Store:
    """All artifacts below the folder `home`, and the links `runs/<recipe>/<stage>` that lead people to them."""

    def __init__(self, home: str | Path) -> None:
        self.home = home = Path(home)
        if os.path.exists(home) and not home.is_dir():
            raise UserError(tr("this is a file, not a folder"), home, tr("name a folder for artifacts/ and runs/"))
        self.artifacts = home / "artifacts"
        self.runs = home / "runs"
        self._digests: dict[str, list[Any]] | None = None
        self._digests_changed = False

    def folder(self, kind: str, key: str) -> Path:
        """The folder of an artifact, whether it exists or not."""
        return self.artifacts / f"{kind}-{key}"

    def partial_folder(self, kind: str, key: str) -> Path:
        """The folder of an artifact while it is made."""
        return self.artifacts / f"{kind}-{key}{PARTIAL_FOLDER}"

    def manifest(self, kind: str, key: str) -> Manifest | None:
        """The manifest of an artifact, or None if it has not been made."""
        return read_manifest(self.folder(kind, key))

    @contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Hold the lock of an artifact; waits while another process holds it. The kernel frees it when one is
        killed.
        """
        folder = self.artifacts / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{kind}-{key}.lock")
        with lock.acquire():
            yield

    def is_locked(self, kind: str, key: str) -> bool:
        """Whether some process is making this artifact now."""
        path = self.artifacts / ".locks" / f"{kind}-{key}.lock"
        if not path.exists():
            return False
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return True
        lock.release()
        return False

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
        files = [
            FileEntry(path.relative_to(partial).as_posix(), path.stat().st_size, sha256_file(path))
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        ]
        complete = replace(manifest, files=tuple(files), digest=digest_files(files))
        write_manifest(partial, complete)
        folder = self.folder(complete.kind, complete.key)
        if folder.exists():
            self.archive(folder)
        os.replace(partial, folder)
        return complete

    def archive(self, folder: Path) -> Path:
        """Move a stale artifact to `<folder>.was-<digest>`; a complete artifact is never deleted."""
        manifest = read_manifest(folder)
        digest = manifest.digest[:8] if manifest else "unknown"
        archived = folder.with_name(f"{folder.name}.was-{digest}")
        if archived.exists():  # the same bytes are there already
            shutil.rmtree(folder)
        else:
            os.replace(folder, archived)
        return archived

    def log_folder(self, recipe: str, stage: str, key: str) -> Path:
        """The folder for a stage's logs, which depend on the clock and are no part of the artifact."""
        return self.runs / recipe / "training-logs" / f"{stage}-{key[:8]}"  # no stage can have that name

    def link(self, recipe: str, stage: str, folder: Path) -> Path:
        """Let `runs/<recipe>/<stage>` lead to an artifact; if links are not allowed, a small text file names it."""
        link = self.runs / recipe / stage
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(folder, link.parent)
        if link.is_symlink() and os.readlink(link) == target:
            return link
        # two runs of one recipe link at the same time, in processes or threads: each has a name of its own
        new = link.with_name(f"{link.name}.{os.getpid()}-{threading.get_ident()}.linking")
        new.unlink(missing_ok=True)
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

    def digest_file(self, path: Path) -> str:
        """The SHA-256 of a source file, cached by path, size, modification time and inode."""
        if self._digests is None:
            try:
                self._digests = json.loads((self.artifacts / ".digests.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self._digests = {}
        assert self._digests is not None
        state = path.stat()
        name = str(path.resolve())
        known = self._digests.get(name)
        if known and known[:3] == [state.st_size, state.st_mtime_ns, state.st_ino]:
            return str(known[3])
        sha = sha256_file(path)
        self._digests[name] = [state.st_size, state.st_mtime_ns, state.st_ino, sha]
        self._digests_changed = True
        return sha

    def save_digests(self) -> None:
        """Keep the hashes of source files for the next plan; a failure is ignored, they can be computed again."""
        if not self._digests_changed or self._digests is None:
            return
        try:
            self.artifacts.mkdir(parents=True, exist_ok=True)
            write_json(self.artifacts / ".digests.json", self._digests, indent=None, shared=True)
            self._digests_changed = False
        except OSError:
            pass
