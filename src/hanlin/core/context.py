"""What a stage's work is given besides its settings: inputs, seed, how it was launched, a way to say how far it is.

Owns no control: work that is handed a plain `StageContext()` in a test or a notebook behaves the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.core.progress import Progress


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A node of a lineage: an artifact, or a source file with its hash and license."""

    name: str
    type: str
    digest: str
    license: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[LineageNode, ...] = ()
    kind: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def walk(self) -> Iterator[LineageNode]:
        """This node and everything above it, the nearest first; what stands in several places comes once."""
        seen: set[tuple[str, str]] = set()
        left = [self]
        while left:
            node = left.pop(0)
            if (node.name, node.digest) not in seen:
                seen.add((node.name, node.digest))
                yield node
                left += node.parents


@dataclass(frozen=True, slots=True)
class Inputs:
    """The artifacts and files that a stage reads: for each reference field of its settings, the paths, in order.

    `lineage` is given to kinds that write down what their inputs came from: for each field the node of each artifact.
    """

    paths: Mapping[str, tuple[Path, ...]]
    lineage: Mapping[str, tuple[LineageNode, ...]] = field(default_factory=dict)

    def one(self, field_name: str) -> Path:
        (path,) = self.paths[field_name]
        return path

    def maybe(self, field_name: str) -> Path | None:
        paths = self.paths.get(field_name, ())
        return paths[0] if paths else None

    def many(self, field_name: str) -> tuple[Path, ...]:
        return self.paths.get(field_name, ())


@dataclass(frozen=True, slots=True)
class StageContext:
    """`seed` for every random choice; `progress` to report with. How it was launched (`launch` in a recipe) changes no
    result but for rounding: `mode` and `offload` are how a group of processes divides a model among them, `cores` how
    many the work may take on this machine, `ray` the address of a cluster to do it on instead. With `only_prepares` the
    work ends where a group of processes would begin. `log` is a folder for what depends on the clock and is no part of
    the result."""

    seed: int = 42
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    mode: str = "ddp"
    offload: bool = False
    only_prepares: bool = False
    log: Path | None = None
    cores: int = 1
    ray: str = ""

    def log_folder(self, out: Path) -> Path:
        """The folder `log`; where none was named, one in the scratch folder."""
        folder = self.log if self.log is not None else self.scratch(out) / "log"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def scratch(self, out: Path) -> Path:
        """A folder inside `out` for what is needed only while working: checkpoints, rows. It survives a kill and is
        deleted when the artifact is whole."""
        folder = out / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder


SCRATCH = ".work"
