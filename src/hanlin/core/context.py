"""What the function of a stage gets besides its settings: its inputs, and the context that it runs in.

Work functions have the form `run(settings, inputs, out, context)`. They know nothing of recipes, keys or manifests: a
plain `StageContext()` in a test or a notebook gives the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.core.files import FileState
from hanlin.core.progress import Progress

SCRATCH_FOLDER = ".work"
"""The folder inside an unfinished artifact for checkpoints and other intermediate files."""


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A node of a lineage graph: an artifact with what it was made from, or a source file with hash and license."""

    name: str
    type: str
    digest: str
    license: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[LineageNode, ...] = ()
    kind: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def walk(self) -> Iterator[LineageNode]:
        """This node and its ancestors, breadth first; a node that is reached by several paths comes once."""
        seen: set[tuple[str, str]] = set()
        queue = [self]
        while queue:
            node = queue.pop(0)
            if (node.name, node.digest) not in seen:
                seen.add((node.name, node.digest))
                yield node
                queue += node.parents


@dataclass(frozen=True, slots=True)
class Inputs:
    """The artifacts and files that a stage reads.

    `by_field` holds the paths of each reference field of the settings, in order; a reference inside a list has a
    dotted name such as `sources.0.path`. `lineage` holds the lineage node of each artifact by field, for kinds that
    write down where their inputs come from. `states` holds, by absolute path, the state in which a file was hashed:
    what is read in another state is not what the manifest will name.
    """

    by_field: Mapping[str, tuple[Path, ...]]
    lineage: Mapping[str, tuple[LineageNode, ...]] = field(default_factory=dict)
    states: Mapping[str, FileState] = field(default_factory=dict)

    def path(self, field_name: str) -> Path:
        """The path of a field that names exactly one."""
        (path,) = self.by_field[field_name]
        return path

    def optional_path(self, field_name: str) -> Path | None:
        """The first path of a field, or None if it is not set."""
        paths = self.by_field.get(field_name, ())
        return paths[0] if paths else None

    def paths(self, field_name: str) -> tuple[Path, ...]:
        """All paths of a field, none if it is not set."""
        return self.by_field.get(field_name, ())


@dataclass(frozen=True, slots=True)
class StageContext:
    """How a stage runs. Apart from `seed` nothing here changes a result beyond rounding.

    Attributes:
        seed: Seed of every random choice.
        progress: Where the work reports how far it is.
        mode: How a process group divides a model (`launch.mode` of a recipe): `ddp`, `zero2`, `fsdp`, ...
        offload: Whether the optimizer state is kept in main memory.
        prepare_only: Return before a process group would start: only the data is prepared.
        log: Folder for what depends on the clock and is no part of the result (training curves), or None.
        cores: Processor cores that the work may use on this machine.
        ray: Address of a Ray cluster that does the work instead, or empty.
    """

    seed: int = 42
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    mode: str = "ddp"
    offload: bool = False
    prepare_only: bool = False
    log: Path | None = None
    cores: int = 1
    ray: str = ""

    def log_folder(self, out: Path) -> Path:
        """The folder `log`, or one in the scratch folder of `out` if none is set; it is created."""
        folder = self.log if self.log is not None else self.scratch_folder(out) / "log"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def scratch_folder(self, out: Path) -> Path:
        """A folder inside `out` for intermediate files (checkpoints, packed rows); it is created.

        It survives a kill, so that a rerun can resume from it, and is deleted when the artifact is complete.
        """
        folder = out / SCRATCH_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder
