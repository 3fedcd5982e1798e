"""An artifact for people: its manifest, what it was made from, and the reports that lie in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.context import LineageNode
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.lineage import lineage
from hanlin.pipeline.manifest import Manifest, read_manifest
from hanlin.web.inside import find_artifact_folder
from hanlin.web.links import read_links
from hanlin.web.runs.compare import flatten

REPORT_ENDINGS = (".html",)
"""Files of an artifact that are pages of their own, such as the quality report of an export."""
MAX_FILES = 200


@dataclass(frozen=True, slots=True)
class LineageRow:
    """A node of a lineage graph as a row of an indented list; `artifact` is its folder's name if it is still there."""

    depth: int
    node: LineageNode
    artifact: str
    repeated: bool


@dataclass(frozen=True, slots=True)
class ArtifactView:
    """An artifact with all that is shown of it."""

    folder: Path
    manifest: Manifest
    settings: tuple[tuple[str, Any], ...]
    metrics: tuple[tuple[str, Any], ...]
    lineage: tuple[LineageRow, ...]
    reports: tuple[str, ...]
    used_by: tuple[tuple[str, str], ...]
    problem: str = ""


def view_artifact(store: Store, name: str) -> ArtifactView:
    """An artifact of a store.

    Raises:
        NotInsideError: There is none of this name.
        UserError: Its manifest cannot be read.
    """
    folder = find_artifact_folder(store.artifacts, name)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(tr("not an artifact"), name)
    rows: tuple[LineageRow, ...] = ()
    problem = ""
    try:
        rows = tuple(_rows(lineage(folder), store, 0, set()))
    except UserError as error:
        problem = str(error)
    reports = tuple(entry.path for entry in manifest.files[:MAX_FILES] if entry.path.endswith(REPORT_ENDINGS))
    return ArtifactView(
        folder,
        manifest,
        tuple((name, _show(value)) for name, value in flatten(manifest.settings)),
        tuple(flatten(manifest.metrics)),
        rows,
        reports,
        tuple(used_by(store, folder)),
        problem,
    )


def _show(value: Any) -> str:
    """A setting as it is written in JSON; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(node: LineageNode, store: Store, depth: int, seen: set[tuple[str, str]]) -> Iterator[LineageRow]:
    repeated = bool(node.parents) and (node.name, node.digest) in seen
    seen.add((node.name, node.digest))
    is_here = node.type not in ("file", "hub", "missing") and (store.artifacts / node.name).is_dir()
    yield LineageRow(depth, node, node.name if is_here else "", repeated)
    if not repeated:
        for parent in node.parents:
            yield from _rows(parent, store, depth + 1, seen)


def used_by(store: Store, folder: Path) -> Iterator[tuple[str, str]]:
    """The runs and stages whose links lead to an artifact, the run that changed last first."""
    yield from read_links(store).find(folder.name)
