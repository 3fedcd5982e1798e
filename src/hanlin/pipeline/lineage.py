"""The lineage of an artifact: everything it was made from, back to the source files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hanlin.core.context import LineageNode
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.pipeline.manifest import Manifest, read_manifest


def lineage(folder: Path) -> LineageNode:
    """The lineage graph of an artifact, read from the manifests beside it.

    Args:
        folder: The artifact's folder, a link to it, or a file in it.

    Raises:
        UserError: The folder has no manifest.
    """
    folder = folder.resolve()
    if folder.is_file():
        folder = folder.parent
    manifest = read_manifest(folder)
    if manifest is None:
        hint = tr("name a folder below artifacts/ or runs/")
        raise UserError(tr("not an artifact"), folder, hint)
    return _node_of(manifest, folder.parent)


def _node_of(manifest: Manifest, artifacts: Path) -> LineageNode:
    parents: list[LineageNode] = []
    for entry in manifest.inputs:
        files = tuple(LineageNode(item.path, "file", item.sha256, entry.license) for item in entry.files)
        if entry.artifact:
            parent = read_manifest(artifacts / entry.artifact)
            if parent is None:
                parents.append(LineageNode(entry.artifact, "missing", entry.digest))
                continue
            node = _node_of(parent, artifacts)
            parents.append(replace(node, parents=node.parents + files) if files else node)
        elif files:
            parents.extend(files)
        else:
            parents.append(LineageNode(entry.reference, "hub", entry.digest, entry.license))
    return LineageNode(
        manifest.folder_name,
        manifest.type,
        manifest.digest,
        metrics=manifest.metrics,
        parents=tuple(parents),
        kind=manifest.kind,
        settings=manifest.settings,
    )
