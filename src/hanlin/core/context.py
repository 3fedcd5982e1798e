"""What a stage's work is given besides its settings: inputs, seed, how it was launched, a way to say how far it is.

Owns no control: work that is handed a plain `Job()` in a test or a notebook behaves the same.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.core.i18n import say


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A node of a lineage: an artifact, or a source file with its hash and licence."""

    name: str
    type: str
    digest: str
    licence: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Ancestor, ...] = ()
    kind: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def walk(self) -> Iterator[Ancestor]:
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
    lineage: Mapping[str, tuple[Ancestor, ...]] = field(default_factory=dict)

    def one(self, field_name: str) -> Path:
        (path,) = self.paths[field_name]
        return path

    def maybe(self, field_name: str) -> Path | None:
        paths = self.paths.get(field_name, ())
        return paths[0] if paths else None

    def many(self, field_name: str) -> tuple[Path, ...]:
        return self.paths.get(field_name, ())


@dataclass(slots=True)
class Progress:
    """Says how far something long has come: a line on the terminal and, where a path is given, a small JSON file.

    Both are renewed at most once in `every` seconds, so that calling `at` for each row costs nothing.
    """

    name: str = ""
    file: Path | None = None
    quiet: bool = False
    every: float = 1.0
    _started: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _last: float = 0.0
    _width: int = 0

    def at(self, done: float, total: float, unit: str, force: bool = False, **figures: float) -> None:
        """`done` of `total` units; `figures` (loss, tokens a second) stand beside. Pace counts from the first call."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._started = done, now
        pause = self.every if sys.stderr.isatty() else max(self.every, 5.0)
        if not force and now - self._last < pause:
            return
        self._last = now
        elapsed = now - self._started
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        left = (total - done) / rate if rate > 0 else None
        if self.file is not None:
            row = {"name": self.name, "done": done, "total": total, "unit": unit, "rate": rate, "left": left, **figures}
            try:
                aside = self.file.with_name(self.file.name + ".writing")
                aside.write_text(json.dumps(row), encoding="utf-8")
                os.replace(aside, self.file)
            except OSError:  # to be told of progress is not worth a failure; a full disk shows itself at the work
                pass
        if not self.quiet:
            shown = " · ".join(f"{key} {value:.4g}" for key, value in figures.items())
            share = 100 * done / total if total else 100
            eta = "" if left is None else say(f" · {_clock(left)} left", f" · 剩余 {_clock(left)}")
            pace = f" · {rate:,.1f}/s" if rate > 0 else ""
            line = f"  {self.name} {share:3.0f}% · {done:,.0f}/{total:,.0f} {unit}{pace}"
            line += (f" · {shown}" if shown else "") + eta
            if sys.stderr.isatty():
                pad = " " * max(0, self._width - len(line))
                sys.stderr.write("\r" + line + pad)
                self._width = len(line)
            else:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def note(self, sentence: str) -> None:
        """Say something that a person should know, on a line of its own."""
        if not self.quiet:
            self._clear()
            sys.stderr.write(f"  {self.name}: {sentence}\n" if self.name else f"  {sentence}\n")
            sys.stderr.flush()

    def done(self) -> None:
        self._clear()
        self._first, self._width = None, 0

    def _clear(self) -> None:
        if self._width and sys.stderr.isatty():
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass(frozen=True, slots=True)
class Job:
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


def die_with_parent() -> None:
    """Ask Linux to end this process with its parent, so that a killed command leaves nobody writing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
