"""A step of a plan: a stage with its key and its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hanlin.config.recipe import Stage
from hanlin.core.files import HashedFile
from hanlin.pipeline.manifest import InputEntry, Manifest

State = Literal["done", "resume", "run", "stale", "edited"]


@dataclass(frozen=True, slots=True)
class ResolvedInput:
    """What a reference of a stage leads to.

    `entry` is its part of the key and of the manifest. `paths` are known once it exists; `ready` is False while it
    must still be made. `files` holds the hash of each file by its absolute path.
    """

    entry: InputEntry
    paths: tuple[Path, ...] = ()
    files: Mapping[str, HashedFile] = field(default_factory=dict)
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """A stage with its key and its state; `why` tells a person how that state came about.

    States: `done`; `resume` (interrupted, or being made by another process); `run` (to be made); `stale` (made from
    inputs that have changed); `edited` (its files are not those that were made).
    """

    stage: Stage
    key: str
    state: State
    why: str
    inputs: tuple[ResolvedInput, ...] = ()
    key_settings: Mapping[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
