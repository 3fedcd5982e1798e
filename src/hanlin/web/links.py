"""Which stages of which runs made an artifact: the links below `runs/`, of ten thousand runs too.

A folder is read once, and again when it has changed: what a view asks then takes one look at the time of each folder.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from pathlib import Path

from hanlin.core.names import describe_name_problem
from hanlin.pipeline.artifacts import Store

_FRESH_SECONDS = 1.0
"""A view asks several times; within this time the folders are not looked at again."""


class RunLinks:
    """The links of the runs of a store.

    Args:
        runs: The folder of the runs.
        artifacts: The folder of the artifacts, in which a link must end.
    """

    def __init__(self, runs: Path, artifacts: Path) -> None:
        self._runs, self._artifacts = str(runs), os.path.normpath(artifacts)
        self._read: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {}
        self._by_artifact: dict[str, list[tuple[str, str]]] = {}
        self._refreshed_at = -_FRESH_SECONDS
        self._lock = threading.Lock()

    def find(self, artifact: str) -> list[tuple[str, str]]:
        """The runs and stages whose links lead to an artifact, the run that changed last first."""
        return self.by_artifact().get(artifact, [])

    def by_artifact(self) -> dict[str, list[tuple[str, str]]]:
        """For each artifact that is linked the runs and stages, the run that changed last first."""
        with self._lock:
            if time.monotonic() - self._refreshed_at >= _FRESH_SECONDS:
                self._refresh()
                self._refreshed_at = time.monotonic()
            return self._by_artifact

    def _refresh(self) -> None:
        read: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {}
        try:
            with os.scandir(self._runs) as scan:
                folders = [(entry.name, entry.path, entry.stat().st_mtime_ns) for entry in scan if _is_folder(entry)]
        except OSError:
            folders = []
        for name, path, changed in folders:
            known = self._read.get(name)
            is_same = known is not None and known[0] == changed
            read[name] = known if is_same and known is not None else (changed, self._read_folder(path))
        if read == self._read:
            return
        self._read = read
        self._by_artifact = {}
        for name, (_, links) in sorted(read.items(), key=lambda item: (-item[1][0], item[0])):
            for stage, artifact in links:
                self._by_artifact.setdefault(artifact, []).append((name, stage))

    def _read_folder(self, folder: str) -> tuple[tuple[str, str], ...]:
        links = []
        try:
            with os.scandir(folder) as scan:
                for entry in scan:
                    if entry.is_symlink():
                        target = os.path.normpath(os.path.join(folder, os.readlink(entry.path)))
                        if os.path.dirname(target) != self._artifacts:
                            target = os.path.realpath(target)  # through a link on the way
                        if os.path.dirname(target) in (self._artifacts, os.path.realpath(self._artifacts)):
                            links.append((entry.name, os.path.basename(target)))
        except OSError:  # it was removed meanwhile
            pass
        return tuple(sorted(links))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and describe_name_problem(entry.name) is None


@functools.lru_cache(maxsize=8)
def _open(runs: Path, artifacts: Path) -> RunLinks:
    return RunLinks(runs, artifacts)


def read_links(store: Store) -> RunLinks:
    """The links of a store, which all views share."""
    return _open(store.runs, store.artifacts)
