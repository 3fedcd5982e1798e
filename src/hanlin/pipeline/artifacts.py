"""The store of artifacts: where a result lies, what made it, and that it is whole.

Owns keys, digests, manifests, locks and the rename that makes a folder visible. Does not own what a stage does.

An artifact is `artifacts/<kind>-<key>/`; while it is made it is `<kind>-<key>.partial/`, so a folder without the
ending is whole by construction. The key says which run it is and is known beforehand; the digest says which bytes came.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock

from hanlin.core.context import SCRATCH_FOLDER
from hanlin.pipeline.manifest import MANIFEST, FileEntry, Manifest, digest_of, read_manifest, sha256_of

PARTIAL = ".partial"


class Store:
    """All artifacts below one folder, and the links `runs/<recipe>/<stage>` that people follow to them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.artifacts = home / "artifacts"
        self.runs = home / "runs"
        self._digests: dict[str, list[Any]] | None = None
        self._digests_new = False

    def folder(self, kind: str, key: str) -> Path:
        return self.artifacts / f"{kind}-{key}"

    def partial(self, kind: str, key: str) -> Path:
        return self.artifacts / f"{kind}-{key}{PARTIAL}"

    def manifest(self, kind: str, key: str) -> Manifest | None:
        return read_manifest(self.folder(kind, key))

    @contextmanager
    def lock(self, kind: str, key: str) -> Iterator[None]:
        """Hold the right to make one artifact; waits while another process holds it. The kernel frees it at a kill."""
        folder = self.artifacts / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{kind}-{key}.lock")
        with lock.acquire():
            yield

    def busy(self, kind: str, key: str) -> bool:
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

    def seal(self, partial: Path, describe: Manifest) -> Manifest:
        """Make a finished folder visible: drop its scratch, hash its files, write the manifest, rename. All or nothing.

        `describe` is the manifest without files and digest; the whole one is returned.
        """
        # out of sight first: half deleted, what a killed run leaves would pass for a whole scratch folder
        gone = partial.with_name(f".{partial.name}-scratch")
        shutil.rmtree(gone, ignore_errors=True)
        if (partial / SCRATCH_FOLDER).exists():
            os.replace(partial / SCRATCH_FOLDER, gone)
            shutil.rmtree(gone, ignore_errors=True)
        (partial / MANIFEST).unlink(missing_ok=True)
        files = [
            FileEntry(path.relative_to(partial).as_posix(), path.stat().st_size, sha256_of(path))
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        ]
        whole = replace(describe, files=tuple(files), digest=digest_of(files))
        text = json.dumps(whole.to_json(), ensure_ascii=False, indent=1)
        with (partial / MANIFEST).open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        place = self.folder(whole.kind, whole.key)
        if place.exists():
            self.set_aside(place)
        os.replace(partial, place)
        return whole

    def set_aside(self, folder: Path) -> Path:
        """Move a stale artifact out of the way; nothing that was whole is ever deleted."""
        old = read_manifest(folder)
        ending = old.digest[:8] if old else "unknown"
        place = folder.with_name(f"{folder.name}.was-{ending}")
        if place.exists():
            shutil.rmtree(folder)
        else:
            os.replace(folder, place)
        return place

    def log(self, recipe: str, stage: str, key: str) -> Path:
        """The folder for what is told of a stage while it is made, and depends on the clock."""
        return self.runs / recipe / "training-logs" / f"{stage}-{key[:8]}"  # no stage can have that name

    def link(self, recipe: str, stage: str, folder: Path) -> Path:
        """Point `runs/<recipe>/<stage>` at an artifact; where links are not allowed a small text file names it."""
        place = self.runs / recipe / stage
        place.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath(folder, place.parent)
        if place.is_symlink() and os.readlink(place) == target:
            return place
        aside = place.with_name(place.name + ".linking")
        aside.unlink(missing_ok=True)
        try:
            aside.symlink_to(target, target_is_directory=True)
        except OSError:
            aside.write_text(target, encoding="utf-8")
        os.replace(aside, place)
        return place

    def linked(self, recipe: str, stage: str) -> Manifest | None:
        """The manifest of what this stage last made, whatever its key was."""
        place = self.runs / recipe / stage
        folder = place.parent / place.read_text(encoding="utf-8") if place.is_file() else place
        return read_manifest(folder) if folder.is_dir() else None

    def digest_file(self, path: Path) -> str:
        """SHA-256 of a source file, remembered by place, size and time of change."""
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
        sha = sha256_of(path)
        self._digests[name] = [state.st_size, state.st_mtime_ns, state.st_ino, sha]
        self._digests_new = True
        return sha

    def remember_digests(self) -> None:
        """Keep the hashes of source files for the next plan; best effort, they can always be computed again."""
        if not self._digests_new or self._digests is None:
            return
        try:
            self.artifacts.mkdir(parents=True, exist_ok=True)
            aside = self.artifacts / f".digests.{os.getpid()}.writing"
            aside.write_text(json.dumps(self._digests), encoding="utf-8")
            os.replace(aside, self.artifacts / ".digests.json")
            self._digests_new = False
        except OSError:
            pass
