"""The store of artifacts: where a result lies, what made it, and that it is whole.

Owns keys, digests, manifests, locks and the rename that makes a folder visible. Does not own what a stage does.

An artifact is `artifacts/<kind>-<key>/`; while it is made it is `<kind>-<key>.partial/`, so a folder without the
ending is whole by construction. The key says which run it is and is known beforehand; the digest says which bytes came.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import filelock

from hanlin.core.context import SCRATCH, Ancestor
from hanlin.core.errors import UserError
from hanlin.core.i18n import say

MANIFEST = "manifest.json"
PARTIAL = ".partial"
_KEY_DIGITS = 16


def canonical(data: Any) -> bytes:
    """JSON with one spelling for equal data."""
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def key_of(kind: str, version: int, settings: Mapping[str, Any], seed: int, inputs: list[tuple[str, str]]) -> str:
    """The name of a result before it is made: what kind, how set, with which seed, from what (`inputs`: field, key)."""
    row = {"kind": kind, "version": version, "settings": settings, "seed": seed, "inputs": inputs}
    return hashlib.sha256(canonical(row)).hexdigest()[:_KEY_DIGITS]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(files: list[FileEntry]) -> str:
    """One hash over names, sizes and contents; the order of the list does not count."""
    rows = sorted([entry.path, entry.bytes, entry.sha256] for entry in files)
    return hashlib.sha256(canonical(rows)).hexdigest()


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file inside an artifact or among a stage's sources; `path` is relative, with forward slashes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class InputEntry:
    """What a stage read through one reference: an artifact (`artifact` is its folder's name) or local files.

    `reference` is the text in the recipe, kept for people; it counts for nothing.
    """

    field: str
    reference: str
    key: str
    digest: str
    artifact: str = ""
    inside: str = ""
    files: tuple[FileEntry, ...] = ()
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is known of an artifact. `settings` are all of them, also those that do not count in the key."""

    kind: str
    type: str
    version: int
    key: str
    digest: str
    settings: Mapping[str, Any]
    seed: int
    inputs: tuple[InputEntry, ...]
    files: tuple[FileEntry, ...]
    metrics: Mapping[str, Any]
    made_by: Mapping[str, Any]
    started: str
    finished: str
    seconds: float
    counted: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        files = tuple(FileEntry(**entry) for entry in row["files"])
        inputs = tuple(
            InputEntry(**{**entry, "files": tuple(FileEntry(**item) for item in entry["files"])})
            for entry in row["inputs"]
        )
        return cls(**{**row, "files": files, "inputs": inputs})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def folder_name(self) -> str:
        return f"{self.kind}-{self.key}"


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of an artifact folder, or None where there is none."""
    try:
        return Manifest.from_json(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = say("delete this artifact's folder and run again", "请删除该产物文件夹后重新运行")
        raise UserError(say("the manifest cannot be read", "清单文件无法读取"), folder / MANIFEST, hint) from error


def refresh_manifest(folder: Path) -> None:
    """Hash the files of a copied artifact again, after a path in one of them was set to its new place."""
    manifest = read_manifest(folder)
    assert manifest is not None
    files = tuple(
        FileEntry(entry.path, (folder / entry.path).stat().st_size, sha256_of(folder / entry.path))
        for entry in manifest.files
    )
    renewed = replace(manifest, files=files, digest=digest_of(list(files)))
    text = json.dumps(renewed.to_json(), ensure_ascii=False, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


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
        if (partial / SCRATCH).exists():
            os.replace(partial / SCRATCH, gone)
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


def lineage(folder: Path) -> Ancestor:
    """Everything that an artifact came from, back to the source files. Raises UserError when a manifest is missing."""
    folder = folder.resolve()
    if folder.is_file():
        folder = folder.parent
    manifest = read_manifest(folder)
    if manifest is None:
        hint = say("name a folder below artifacts/ or runs/", "请给出 artifacts/ 或 runs/ 下的文件夹")
        raise UserError(say("not an artifact", "不是产物文件夹"), folder, hint)
    return _ancestor(manifest, folder.parent)


def _ancestor(manifest: Manifest, artifacts: Path) -> Ancestor:
    parents: list[Ancestor] = []
    for entry in manifest.inputs:
        files = tuple(Ancestor(item.path, "file", item.sha256, entry.licence) for item in entry.files)
        if entry.artifact:
            above = read_manifest(artifacts / entry.artifact)
            if above is None:
                parents.append(Ancestor(entry.artifact, "missing", entry.digest))
                continue
            node = _ancestor(above, artifacts)
            parents.append(replace(node, parents=node.parents + files) if files else node)
        elif files:
            parents.extend(files)
        else:
            parents.append(Ancestor(entry.reference, "hub", entry.digest, entry.licence))
    return Ancestor(
        manifest.folder_name,
        manifest.type,
        manifest.digest,
        metrics=manifest.metrics,
        parents=tuple(parents),
        kind=manifest.kind,
        settings=manifest.settings,
    )
