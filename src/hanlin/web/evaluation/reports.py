"""Evaluation artifacts for people: the scores of their tasks down to each question, and several of them compared.

What is computed is computed by `evaluate.comparison`, as `hanlin compare` does it.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import load_json_object
from hanlin.core.i18n import tr
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.lineage import lineage
from hanlin.pipeline.manifest import Manifest, read_manifest
from hanlin.web.inside import find_artifact_folder
from hanlin.web.links import read_links
from hanlin.web.runs.artifact import used_by

RESAMPLES = 1_000
"""Draws of the bootstrap on the page; `hanlin compare` takes 5,000."""
MAX_COMPARED = 12
_KEPT = 4
_SHOWN_RUNS = 3
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """An evaluation in the list: its folder's name, what runs call it, its kind and what it says in a line."""

    name: str
    runs: tuple[tuple[str, str], ...]
    kind: str
    finished: str
    can_compare: bool


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task of one evaluation.

    `figures` are those of `evaluate.comparison.compare`; `questions` every question with its answer.
    """

    figures: Mapping[str, Any]
    questions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """An evaluation: its manifest and its tasks; `problem` says why the tasks cannot be shown."""

    manifest: Manifest
    model: str
    tasks: tuple[TaskReport, ...] = ()
    problem: str = ""
    comparison: Mapping[str, Any] = field(default_factory=dict)


def list_evaluations(store: Store) -> list[EvaluationRow]:
    """The evaluations of a store, the newest first."""
    rows = []
    names = read_links(store).by_artifact()
    for folder in store.artifacts.iterdir() if store.artifacts.is_dir() else ():
        if "." in folder.name or folder.is_symlink() or not folder.is_dir():
            continue
        try:
            manifest = read_manifest(folder)
        except UserError:
            continue
        if manifest is not None and manifest.type == "evaluation":
            can_compare = manifest.kind in ("evaluate", "perplexity", "probe")
            found = tuple(names.get(folder.name, ())[:_SHOWN_RUNS])
            rows.append(EvaluationRow(folder.name, found, manifest.kind, manifest.finished, can_compare))
    return sorted(rows, key=lambda row: row.finished, reverse=True)


class ReportDesk:
    """Reads evaluations, and keeps the last few: the intervals of a large exam take seconds to compute."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self._store, self._scratch = store, scratch
        self._kept: OrderedDict[tuple[str, str], EvaluationReport] = OrderedDict()
        self._lock = threading.Lock()

    def report(self, name: str) -> EvaluationReport:
        """One evaluation.

        Raises:
            NotInsideError: There is none of this name.
            UserError: It is none.
        """
        folder = find_artifact_folder(self._store.artifacts, name)
        manifest = read_manifest(folder)
        if manifest is None or manifest.type != "evaluation":
            raise UserError(tr("not an evaluation"), name)
        key = (name, manifest.digest)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        report = self._read(folder, manifest)
        if not report.problem:  # which is in a reader's language
            with self._lock:
                self._kept[key] = report
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return report

    def _read(self, folder: Path, manifest: Manifest) -> EvaluationReport:
        from hanlin.evaluate.comparison.compare import compare
        from hanlin.evaluate.comparison.names import COMPARISON
        from hanlin.evaluate.comparison.results import read_results

        if manifest.kind == "compare":
            return EvaluationReport(manifest, "", comparison=load_json_object(folder / COMPARISON, _MAX_BYTES))
        try:
            results = read_results(folder, lineage(folder))
            compared = compare([results], [results.model], seed=42, resamples=RESAMPLES)
        except UserError as error:
            return EvaluationReport(manifest, "", problem=str(error))
        tasks = tuple(TaskReport(task.figures, task.questions) for task in compared)
        return EvaluationReport(manifest, results.model, tasks)

    def compare(self, names: Sequence[str]) -> dict[str, Any]:
        """Compare evaluations; the first model is what the others are compared with.

        Returns:
            What `comparison.json` of the stage `compare` holds.

        Raises:
            UserError: There are fewer than two, or they are of different tasks or questions.
        """
        from hanlin.config.settings.probe import Compare
        from hanlin.core.context import Inputs, StageContext
        from hanlin.evaluate.comparison.names import COMPARISON
        from hanlin.evaluate.comparison.stage import run

        folders = [find_artifact_folder(self._store.artifacts, name) for name in dict.fromkeys(names)]
        if len(folders) < 2:
            raise UserError(tr("choose two evaluations or more to compare"))
        if len(folders) > MAX_COMPARED:
            raise UserError(tr("at most {limit} evaluations are compared", limit=MAX_COMPARED))
        titles = tuple(self._title(folder) for folder in folders)
        settings = Compare(results=tuple(map(str, folders)), names=titles, resamples=RESAMPLES, common=True)
        nodes = tuple(lineage(folder) for folder in folders)
        self._scratch.mkdir(parents=True, exist_ok=True)
        out = Path(tempfile.mkdtemp(prefix="comparison-", dir=self._scratch))
        try:
            run(settings, Inputs({"results": tuple(folders)}, {"results": nodes}), out, StageContext())
            return load_json_object(out / COMPARISON, _MAX_BYTES)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _title(self, folder: Path) -> str:
        """What an evaluation is called in a comparison: as its runs call it, else as its folder."""
        return next((f"{run}/{stage}" for run, stage in used_by(self._store, folder)), folder.name)
