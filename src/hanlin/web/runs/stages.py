"""The stages of a run as a graph, with the state of each: from the recipe's plan, or from the store alone.

A run that was started by `hanlin run` left a record that names its recipe, which is planned as `hanlin plan` does. Of a
run without one (an earlier version, a notebook, a recipe that is gone) the links below `runs/` and the folders of
unfinished artifacts show what was made of what.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hanlin.config.kinds import KINDS
from hanlin.config.recipe import Recipe
from hanlin.config.recipe_file import read_recipe
from hanlin.core.context import SCRATCH_FOLDER
from hanlin.core.errors import UserError
from hanlin.core.files import load_json_object, parse_json
from hanlin.core.i18n import tr
from hanlin.core.names import describe_name_problem
from hanlin.pipeline.artifacts import PARTIAL_FOLDER, Store
from hanlin.pipeline.manifest import InputEntry, Manifest, read_manifest
from hanlin.pipeline.plan import plan
from hanlin.pipeline.report import summarize_metrics
from hanlin.pipeline.run_record import RUN_FILE, RunRecord, read_run_record
from hanlin.pipeline.step import Step
from hanlin.pipeline.torchrun import REQUEST_FILE
from hanlin.pipeline.worker import PROGRESS_FILE

StageState = Literal["done", "running", "interrupted", "run", "stale", "edited"]
RunState = Literal["running", "done", "failed", "interrupted", "unfinished"]
LOGS_FOLDER = "training-logs"
MAX_VIEWS = 128
"""Views that are kept: more than any page shows. Those of ten thousand runs would be some hundred megabytes."""


@dataclass(frozen=True, slots=True)
class StageView:
    """A stage of a run.

    Attributes:
        name: Its name in the recipe.
        kind: Its kind.
        key: The key of its artifact; empty if that is not known.
        state: What became of it: as a plan says, but that one to resume is `running` or `interrupted`.
        why: How that state came about, for people.
        inputs: The stages that it reads.
        seconds: What making it took, if it is done.
        summary: Its metrics in a line, if it is done.
        progress: How far it is, if it is running or was interrupted.
        settings: Its settings as JSON data.
        metrics: Its metrics, if it is done.
        makes: The type of its artifact.
    """

    name: str
    kind: str
    key: str
    state: StageState
    why: str = ""
    inputs: tuple[str, ...] = ()
    seconds: float | None = None
    summary: str = ""
    progress: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    makes: str = ""

    @property
    def artifact(self) -> str:
        """The name of its artifact's folder."""
        return f"{self.kind}-{self.key}"

    @property
    def trains(self) -> bool:
        """Whether it is a training stage, which has curves."""
        return self.kind in KINDS and KINDS[self.kind].group

    @property
    def has_records(self) -> bool:
        """Whether it made records, which the page of data shows."""
        return self.makes in ("documents", "conversations", "preferences", "unpaired_preferences")


@dataclass(frozen=True, slots=True)
class RunView:
    """A run: its stages in an order in which each comes after those that it reads, and its record if it has one.

    `problem` says why the recipe could not be planned.
    """

    name: str
    state: RunState
    stages: tuple[StageView, ...]
    record: RunRecord | None = None
    problem: str = ""
    changed: float = 0.0

    @property
    def can_stop(self) -> bool:
        return self.record is not None and self.record.is_alive()

    @property
    def can_resume(self) -> bool:
        """Whether the same command would go on: it is known and not done."""
        has_file = self.record is not None and bool(self.record.source.recipe)
        return has_file and self.state in ("failed", "interrupted", "unfinished")

    def stage(self, name: str) -> StageView | None:
        return next((stage for stage in self.stages if stage.name == name), None)


def list_runs(store: Store) -> list[str]:
    """The names of the runs of a store, the one that changed last first; what no recipe can be called is none."""
    try:
        with os.scandir(store.runs) as scan:
            entries = [entry for entry in scan if entry.is_dir(follow_symlinks=False)]
            folders = [entry.path for entry in entries if describe_name_problem(entry.name) is None]
    except OSError:
        return []
    return [os.path.basename(folder) for folder in sorted(folders, key=_changed, reverse=True)]


def _changed(folder: str | Path) -> float:
    times = [0.0]
    for path in (folder, f"{folder}/{RUN_FILE}", f"{folder}/report.json"):
        try:
            times.append(os.stat(path).st_mtime)
        except OSError:
            continue
    return max(times)


def view_run(store: Store, name: str) -> RunView:
    """A run of a store; its name is that of a folder below `runs/`, which exists."""
    folder = store.runs / name
    record = read_run_record(folder)
    stages: tuple[StageView, ...] | None = None
    problem = ""
    if record is not None and record.source.recipe:
        try:
            recipe = read_recipe(Path(record.source.recipe), record.source.changes)
            if record.source.until:
                recipe = recipe.until(record.source.until)
            if record.source.folder:
                recipe = replace(recipe, root=Path(record.source.folder) / recipe.root)
            if recipe.name == name:
                stages = _stages_of_plan(recipe, plan(recipe, store), store)
        except (UserError, OSError) as error:
            problem = str(error)
    if stages is None:
        stages = _stages_of_store(store, name)
    return RunView(name, _state_of(record, stages), stages, record, problem, _changed(folder))


def _state_of(record: RunRecord | None, stages: Sequence[StageView]) -> RunState:
    states = {stage.state for stage in stages}
    if "running" in states or (record is not None and record.is_alive()):
        return "running"
    if stages and states == {"done"}:
        return "done"
    if record is None:
        return "interrupted" if "interrupted" in states else "unfinished"
    # one that was killed could not say how it ended
    return "failed" if record.outcome == "failed" else "unfinished" if record.outcome == "done" else "interrupted"


def _stages_of_plan(recipe: Recipe, steps: Iterable[Step], store: Store) -> tuple[StageView, ...]:
    return tuple(
        StageView(
            step.stage.name,
            step.stage.kind.name,
            step.key,
            _stage_state(step, store),
            step.why,
            tuple(recipe.upstream(step.stage)),
            None if step.manifest is None else step.manifest.seconds,
            "" if step.manifest is None else summarize_metrics(step),
            _read_progress(store.partial_folder(step.stage.kind.name, step.key)) if step.state == "resume" else None,
            step.stage.settings.model_dump(mode="json"),
            {} if step.manifest is None else step.manifest.metrics,
            step.stage.makes,
        )
        for step in steps
    )


def _stage_state(step: Step, store: Store) -> StageState:
    if step.state != "resume":
        return step.state
    return "running" if store.is_locked(step.stage.kind.name, step.key) else "interrupted"


def _read_progress(partial: Path) -> dict[str, Any] | None:
    try:
        row = parse_json((partial / SCRATCH_FOLDER / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) else None


# --- without a recipe -------------------------------------------------------------------------------------------------


def _stages_of_store(store: Store, name: str) -> tuple[StageView, ...]:
    """The stages that left a link or an unfinished artifact."""
    found: dict[str, tuple[StageView, list[str]]] = {}
    for stage, manifest in sorted(linked_artifacts(store, name), key=lambda pair: pair[1].finished):
        names = [entry.artifact for entry in manifest.inputs if entry.artifact]
        found[stage] = (_view_of_manifest(stage, manifest), names)
    for stage, view, names in _unfinished(store, name):
        found[stage] = (view, names)
    stage_of = {view.artifact: stage for stage, (view, _) in found.items()}
    views = {
        stage: _with_inputs(view, tuple(dict.fromkeys(stage_of[name] for name in names if name in stage_of)))
        for stage, (view, names) in found.items()
    }
    return tuple(_sort(views))


def _with_inputs(view: StageView, inputs: tuple[str, ...]) -> StageView:
    return replace(view, inputs=tuple(name for name in inputs if name != view.name))


def _sort(views: Mapping[str, StageView]) -> list[StageView]:
    """Stages after those that they read; what reads itself, in a damaged store, comes where it is met."""
    ordered: dict[str, StageView] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name not in ordered and name not in path:
            for upstream in views[name].inputs:
                visit(upstream, (*path, name))
            ordered[name] = views[name]

    for name in views:
        visit(name, ())
    return list(ordered.values())


def linked_artifacts(store: Store, name: str) -> Iterable[tuple[str, Manifest]]:
    """The stages of a run that is there with what each made last, by the links in the run's folder."""
    for link in sorted((store.runs / name).iterdir()):
        if link.suffix or link.name == LOGS_FOLDER or link.name.startswith("."):
            continue
        try:
            target = (link.parent / link.read_text(encoding="utf-8").strip()) if link.is_file() else link
            folder = target.resolve()
            manifest = read_manifest(folder) if folder.parent == store.artifacts.resolve() else None
        except (OSError, UserError, ValueError, RuntimeError):  # the last for links in a circle
            continue
        if manifest is not None:
            yield link.name, manifest


def _view_of_manifest(name: str, manifest: Manifest) -> StageView:
    why = tr("made {finished} in {seconds:.1f} s", finished=manifest.finished, seconds=manifest.seconds)
    return StageView(
        name,
        manifest.kind,
        manifest.key,
        "done",
        why,
        (),
        manifest.seconds,
        summarize_manifest(name, manifest),
        None,
        manifest.settings,
        manifest.metrics,
        manifest.type,
    )


def summarize_manifest(name: str, manifest: Manifest) -> str:
    """The metrics of an artifact in a line, as `summarize_metrics` has those of a step."""
    from hanlin.config.recipe import Stage
    from hanlin.config.settings.base import Settings

    if manifest.kind not in KINDS:
        return ""
    stage = Stage(name, KINDS[manifest.kind], Settings(), "")
    return summarize_metrics(Step(stage, manifest.key, "done", "", manifest=manifest))


def _unfinished(store: Store, name: str) -> Iterable[tuple[str, StageView, list[str]]]:
    """Unfinished artifacts whose request says that they belong to the run, by the folder of their logs."""
    logs = (store.runs / name / LOGS_FOLDER).resolve()
    for partial in sorted(store.artifacts.glob(f"*{PARTIAL_FOLDER}")):
        try:
            request = load_json_object(partial / SCRATCH_FOLDER / REQUEST_FILE, max_bytes=256 << 20)
            if Path(request["log"]).parent != logs or partial.name != f"{request['kind']}-{request['key']}.partial":
                continue
            entries = [InputEntry(**{**row["entry"], "files": ()}) for row in request["inputs"]]
            kind, key = str(request["kind"]), str(request["key"])
        except (OSError, UserError, KeyError, TypeError):
            continue
        busy = store.is_locked(kind, key)
        view = StageView(
            str(request["stage"]),
            kind,
            key,
            "running" if busy else "interrupted",
            tr("another run is making it") if busy else tr("was interrupted"),
            progress=_read_progress(partial),
            settings=request.get("settings") or {},
        )
        yield view.name, view, [entry.artifact for entry in entries if entry.artifact]


class RunCache:
    """Views of runs that several requests share: a plan looks at every file that a recipe reads.

    Args:
        store: The store.
        seconds: How long a view is good for.
    """

    def __init__(self, store: Store, seconds: float = 1.5) -> None:
        self._store, self._seconds = store, seconds
        self._views: OrderedDict[tuple[str, str], tuple[float, RunView]] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, name: str, language: str = "") -> RunView:
        """The view of a run; texts in it are of the language of the request."""
        now = time.monotonic()
        with self._lock:
            known = self._views.get((name, language))
        if known is not None and now - known[0] < self._seconds:
            return known[1]
        view = view_run(self._store, name)
        with self._lock:
            self._views[name, language] = (time.monotonic(), view)
            self._views.move_to_end((name, language))
            while len(self._views) > MAX_VIEWS:
                self._views.popitem(last=False)
        return view
