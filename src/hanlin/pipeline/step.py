"""A step of a plan: a stage, its key and its state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hanlin.config.recipe import Stage
from hanlin.pipeline.manifest import InputEntry, Manifest

State = Literal["done", "resume", "run", "stale"]


@dataclass(frozen=True, slots=True)
class Source:
    """What one reference comes to: its part of the key, and, once it exists, its digest and its paths."""

    entry: InputEntry
    paths: tuple[Path, ...] = ()
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """A stage with its key and its state; `why` says in words how that state came about."""

    stage: Stage
    key: str
    state: State
    why: str
    sources: tuple[Source, ...] = ()
    key_settings: Mapping[str, Any] = field(default_factory=dict)
    manifest: Manifest | None = None
