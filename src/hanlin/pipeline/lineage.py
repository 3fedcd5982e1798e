"""The lineage of an artifact: everything it was made from, back to the source files; and whether all of it is there."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanlin.core.context import LineageNode
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.pipeline.integrity import Change, check_files
from hanlin.pipeline.manifest import MANIFEST, InputEntry, Manifest, read_manifest

MAX_DEPTH = 200
"""Artifacts one behind the other. Recipes have tens of stages; more than this is a damaged store."""


def lineage(folder: Path) -> LineageNode:
    """The lineage graph of an artifact, read from the manifests beside it. What is reached by two ways is one node.

    Args:
        folder: The artifact's folder, a link to it, or a file or folder in it.

    Raises:
        UserError: The folder has no manifest, or one says that it was made from itself.
    """
    folder = _artifact_folder(folder)
    return _Reader(folder.parent).node_of(folder, _require_manifest(folder))


def _artifact_folder(folder: Path) -> Path:
    folder = folder.resolve()
    return next((above for above in (folder, *folder.parents) if (above / MANIFEST).is_file()), folder)


def _require_manifest(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest is None:
        hint = tr("name a folder below artifacts/ or runs/")
        raise UserError(tr("not an artifact"), folder, hint, None if folder.exists() else "not_found")
    return manifest


class _Reader:
    """Reads each manifest of a store once."""

    def __init__(self, artifacts: Path) -> None:
        self._artifacts = artifacts
        self._nodes: dict[Path, LineageNode] = {}
        self._path: list[Path] = []

    def node_of(self, folder: Path, manifest: Manifest) -> LineageNode:
        if folder in self._nodes:
            return self._nodes[folder]
        if folder in self._path:
            raise UserError(tr("the manifests say that it was made from itself"), folder / MANIFEST)
        if len(self._path) >= MAX_DEPTH:
            raise UserError(tr("more than {limit} artifacts lie one behind the other", limit=MAX_DEPTH), self._path[0])
        self._path.append(folder)
        parents: list[LineageNode] = []
        for entry in manifest.inputs:
            parents += self._parents_of(entry)
        self._path.pop()
        node = LineageNode(
            manifest.folder_name,
            manifest.type,
            manifest.digest,
            metrics=manifest.metrics,
            parents=tuple(parents),
            kind=manifest.kind,
            settings=manifest.settings,
        )
        self._nodes[folder] = node
        return node

    def _parents_of(self, entry: InputEntry) -> Sequence[LineageNode]:
        files = tuple(LineageNode(item.path, "file", item.sha256, entry.license) for item in entry.files)
        if not entry.artifact:
            return files or (LineageNode(entry.reference, "hub", entry.commit or entry.digest, entry.license),)
        found = find_input(self._artifacts, entry)
        if found is None:
            return (LineageNode(entry.artifact, "missing", entry.digest),)
        node = self.node_of(*found)
        return (replace(node, parents=node.parents + files) if files else node,)


def find_input(artifacts: Path, entry: InputEntry) -> tuple[Path, Manifest] | None:
    """The artifact that an input names, as it was when it was read: that of its name, or one that was archived since.

    Returns:
        Its folder and manifest, or None if it is no longer there.
    """
    for folder in (artifacts / entry.artifact, *sorted(artifacts.glob(f"{glob.escape(entry.artifact)}.was-*"))):
        manifest = read_manifest(folder)
        if manifest is not None and _holds(manifest, entry):
            return folder, manifest
    return None


def _holds(manifest: Manifest, entry: InputEntry) -> bool:
    """Whether the artifact holds the bytes that the input names."""
    if not entry.inside:
        return manifest.digest == entry.digest
    return set(entry.files) <= set(manifest.files)


def lineage_json(root: LineageNode) -> dict[str, Any]:
    """A lineage graph as JSON data; of a node that comes again only name, type and digest, with `repeated`."""
    seen: set[tuple[str, str]] = set()

    def row_of(node: LineageNode) -> dict[str, Any]:
        row: dict[str, Any] = {"name": node.name, "type": node.type, "digest": node.digest, "license": node.license}
        if node.parents and (node.name, node.digest) in seen:
            return {**row, "parents": [], "repeated": True}
        seen.add((node.name, node.digest))
        row |= {"metrics": node.metrics, "parents": [row_of(parent) for parent in node.parents]}
        return {**row, "kind": node.kind, "settings": node.settings}

    return row_of(root)


# --- verify -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """What a full check of an artifact found. `changes` is empty if every file is as it was made."""

    folder: Path
    manifest: Manifest
    changes: tuple[Change, ...]
    missing: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The bytes of its files as they were made."""
        return sum(entry.bytes for entry in self.manifest.files)


def verify(path: Path, on_bytes: Callable[[int, int], None] = lambda done, total: None) -> Iterator[Verified]:
    """Hash the files of artifacts, and of all that they were made from, and compare them with the manifests.

    Args:
        path: An artifact or a link to it, a folder `runs/NAME`, or the home of a store.
        on_bytes: Called with the bytes that are hashed and those of all artifacts.

    Yields:
        Each artifact, after those that it was made from; `missing` are inputs that are no longer there.

    Raises:
        UserError: There is no artifact, or a manifest cannot be read.
    """
    graph: dict[Path, tuple[Manifest, tuple[str, ...]]] = {}
    for folder in _find_artifacts(path):
        _collect(folder, _require_manifest(folder), graph, [])
    total = sum(entry.bytes for manifest, _ in graph.values() for entry in manifest.files)
    done = 0

    def count(num_bytes: int, _: int) -> None:
        nonlocal done
        done += num_bytes
        on_bytes(done, total)

    for folder, (manifest, missing) in graph.items():
        yield Verified(folder, manifest, check_files(folder, manifest, {}, count).changes, missing)


def _collect(
    folder: Path, manifest: Manifest, graph: dict[Path, tuple[Manifest, tuple[str, ...]]], path: list[Path]
) -> None:
    if folder in graph:
        return
    if folder in path or len(path) >= MAX_DEPTH:
        raise UserError(tr("the manifests say that it was made from itself"), folder / MANIFEST)
    missing = []
    for entry in manifest.inputs:
        if entry.artifact:
            found = find_input(folder.parent, entry)
            if found is None:
                missing.append(entry.artifact)
            else:
                _collect(*found, graph, [*path, folder])
    graph[folder] = (manifest, tuple(missing))


def _find_artifacts(path: Path) -> list[Path]:
    """The artifacts that a path names, in order."""
    folder = _artifact_folder(path)
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        return [folder]
    inside = folder / "artifacts" if (folder / "artifacts").is_dir() else folder
    found: dict[Path, None] = {}
    for item in sorted(inside.iterdir()):
        # a link to an artifact is a small text file where links are not allowed
        target = item
        if item.is_symlink() and not item.exists():
            raise UserError(tr("the artifact that it leads to is gone"), item, tr("run its recipe again"))
        if item.is_file() and item.stat().st_size < 4096 and not item.suffix:
            target = item.parent / item.read_text(encoding="utf-8", errors="replace").strip()
        if not item.name.startswith(".") and ".partial" not in item.name and (target / MANIFEST).is_file():
            found[target.resolve()] = None
    if not found:
        raise UserError(tr("there is no artifact here"), path, tr("name a folder below artifacts/ or runs/"))
    return list(found)
