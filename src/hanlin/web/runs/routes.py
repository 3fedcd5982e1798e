"""Routes of the runs: the list, a run with its graph and curves, comparison, artifacts, stop and resume."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse

from hanlin.core.errors import UserError
from hanlin.core.i18n import language, tr
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.report import format_number
from hanlin.web.frame import Frame
from hanlin.web.inside import find_artifact_folder, find_file, find_folder
from hanlin.web.runs import control
from hanlin.web.runs.artifact import view_artifact
from hanlin.web.runs.compare import MAX_RUNS, differing_metrics, differing_settings, stages_in_common
from hanlin.web.runs.curves import MAX_POINTS, METRICS_FILE, SPEED_FILE, StageCurves, list_forgetting
from hanlin.web.runs.layout import NODE_HEIGHT, NODE_WIDTH, lay_out
from hanlin.web.runs.names import (
    CURVE_NAMES,
    FIGURE_NAMES,
    REPORT_POLICY,
    STATE_NAMES,
    STATE_SIGNS,
    show_clock,
    show_time,
)
from hanlin.web.runs.stages import LOGS_FOLDER, RunCache, RunView, StageView, list_runs

CURVE_SCRIPTS = ("runs/curves.js", "runs/zoom.js")
_MAX_CURVES = 16
_SHOWN_RUNS = 50


class RunDesk:
    """What the routes share: the store, the views of runs, and the curves that were read."""

    def __init__(self, frame: Frame) -> None:
        self.store = Store(frame.folder)
        self.cache = RunCache(self.store)
        self._curves: OrderedDict[tuple[str, str], StageCurves] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, name: str) -> RunView:
        """A run. Raises NotInsideError if there is none of this name."""
        find_folder(self.store.runs, name)
        return self.cache.view(name, language())

    def stage(self, run: str, name: str) -> StageView:
        """A stage of a run. Raises UserError if there is none."""
        stage = self.view(run).stage(name)
        if stage is None:
            raise UserError(tr("no stage '{name}'", name=name), run)
        return stage

    def curves(self, run: str, stage: StageView) -> StageCurves:
        """The curves of a training stage as they are now."""
        folder = self.store.folder(stage.kind, stage.key)
        if not folder.is_dir():
            folder = self.store.partial_folder(stage.kind, stage.key)
        log = self.store.runs / run / LOGS_FOLDER / f"{stage.name}-{stage.key[:8]}"
        name = (str(folder), str(log))
        with self._lock:
            curves = self._curves.pop(name, None) or StageCurves(folder / METRICS_FILE, log / SPEED_FILE)
            self._curves[name] = curves
            while len(self._curves) > _MAX_CURVES:
                self._curves.popitem(last=False)
        curves.update()
        return curves


def make_router(frame: Frame) -> APIRouter:
    """The routes below `/ui/runs`."""
    router = APIRouter()
    desk = RunDesk(frame)
    start = [Depends(frame.require_start_token)]

    def common() -> dict[str, Any]:
        return {
            "state_names": {name: tr(text) for name, text in STATE_NAMES.items()},
            "state_signs": STATE_SIGNS,
            "number": format_number,
            "clock": show_clock,
            "time": show_time,
        }

    def run_values(run: RunView) -> dict[str, Any]:
        training = [stage for stage in run.stages if stage.trains and stage.state != "run"]
        return {
            "run": run,
            "picture": lay_out(run.stages),
            "node_width": NODE_WIDTH,
            "node_height": NODE_HEIGHT,
            "log": control.read_log(desk.store.runs / run.name),
            "has_report": (desk.store.runs / run.name / "report.html").is_file(),
            "training": training,
            "states": {stage.name: stage.state for stage in training},
            **common(),
        }

    @router.get("/ui/runs")
    def show_runs(request: Request, text: str = "", first: int = 0) -> Response:
        """The runs whose name holds a text, page by page: each one shown is planned, which takes milliseconds."""
        every = list_runs(desk.store)
        names = [name for name in every if text.strip().lower() in name.lower()]
        first = max(0, min(first, len(names) - 1))
        shown = names[first : first + _SHOWN_RUNS]
        values = {
            "runs": [desk.view(name) for name in shown],
            "count": len(names),
            "is_empty": not every,
            "text": text,
            "first": first,
            "step": _SHOWN_RUNS,
        }
        return frame.render(request, "runs/list.html", {**values, **common()}, view="runs", scripts=("runs/list.js",))

    @router.get("/ui/runs/view/{name}")
    def show_run(request: Request, name: str) -> Response:
        values = {**run_values(desk.view(name)), "curve_names": _curve_names()}
        return frame.render(request, "runs/run.html", values, view="runs", scripts=("runs/run.js", *CURVE_SCRIPTS))

    @router.get("/ui/runs/view/{name}/state")
    def show_state(request: Request, name: str) -> Response:
        return frame.render(request, "runs/state.html", run_values(desk.view(name)), view="runs")

    @router.get("/ui/runs/view/{name}/curves/{stage}")
    def get_curves(
        name: str, stage: str, first: int | None = None, last: int | None = None, points: int = MAX_POINTS
    ) -> dict[str, Any]:
        """The pictures of a training stage, reduced to what can be drawn."""
        view = desk.stage(name, stage)
        curves = desk.curves(name, view)
        drawn = curves.drawn(first, last, max(10, min(points, 10_000)))
        progress = view.progress or {}
        return {
            **drawn,
            "state": view.state,
            "figures": _figures(curves, progress),
            "forgetting": [
                {
                    "topic": probe.topic,
                    "measure": probe.measure,
                    "before": format_number(probe.before),
                    "now": format_number(probe.now),
                    "worse": probe.is_worse,
                }
                for probe in list_forgetting(curves.curves)
            ],
        }

    @router.post("/ui/runs/view/{name}/stop", dependencies=start)
    def stop(name: str) -> dict[str, str]:
        find_folder(desk.store.runs, name)
        control.stop_run(desk.store, name)
        return {"run": name}

    @router.post("/ui/runs/view/{name}/resume", dependencies=start)
    def resume(name: str) -> dict[str, str]:
        find_folder(desk.store.runs, name)
        control.resume_run(desk.store, name, frame.folder)
        return {"run": name}

    @router.get("/ui/runs/view/{name}/report")
    def show_report(name: str) -> Response:
        return _send_report(find_file(find_folder(desk.store.runs, name), "report.html"))

    @router.get("/ui/runs/compare")
    def compare(request: Request, run: Annotated[list[str], Query()] = []) -> Response:
        runs = [desk.view(name) for name in _choose(run)]
        if len(runs) < 2:
            raise UserError(tr("choose two runs or more to compare"))
        values = {
            "runs": runs,
            "settings": differing_settings(runs),
            "metrics": differing_metrics(runs),
            "stages": [
                name
                for name in stages_in_common(runs)
                if any((stage := view.stage(name)) is not None and stage.trains for view in runs)
            ],
            "curve_names": _curve_names(),
            **common(),
        }
        scripts = ("runs/compare.js", *CURVE_SCRIPTS)
        return frame.render(request, "runs/compare.html", values, view="runs", scripts=scripts)

    @router.get("/ui/runs/compare/curves")
    def get_compared_curves(
        stage: str, run: Annotated[list[str], Query()] = [], first: int | None = None, last: int | None = None
    ) -> dict[str, Any]:
        """The curves of one stage of several runs, by picture; a curve is called as its run. `step` is the last one."""
        pictures: dict[str, list[dict[str, Any]]] = {}
        step = 0
        for name in _choose(run):
            view = desk.view(name).stage(stage)
            if view is None:
                continue
            drawn = desk.curves(name, view).drawn(first, last)
            step = max(step, drawn["step"])
            for picture in drawn["pictures"]:
                for curve in picture["curves"]:
                    pictures.setdefault(curve["name"], []).append({**curve, "name": name})
        return {"step": step, "pictures": [{"name": name, "curves": curves} for name, curves in pictures.items()]}

    @router.get("/ui/runs/artifact/{name}")
    def show_artifact(request: Request, name: str) -> Response:
        values = {"artifact": view_artifact(desk.store, name), **common()}
        return frame.render(request, "runs/artifact.html", values, view="runs")

    @router.get("/ui/runs/artifact/{name}/report/{path:path}")
    def show_artifact_report(name: str, path: str) -> Response:
        file = find_file(find_artifact_folder(desk.store.artifacts, name), path)
        if file.suffix != ".html":
            raise UserError(tr("this file is no report"), path)
        return _send_report(file)

    return router


def _choose(names: Sequence[str]) -> list[str]:
    """The runs to compare, each once. Raises UserError if they are more than can be told apart."""
    chosen = list(dict.fromkeys(names))
    if len(chosen) > MAX_RUNS:
        raise UserError(tr("at most {limit} runs are compared", limit=MAX_RUNS))
    return chosen


def _send_report(file: Path) -> Response:
    headers = {"Content-Security-Policy": REPORT_POLICY, "X-Frame-Options": "DENY"}
    return FileResponse(file, media_type="text/html; charset=utf-8", headers=headers)


def _curve_names() -> dict[str, str]:
    return {name: tr(text) for name, text in CURVE_NAMES.items()}


def _figures(curves: StageCurves, progress: dict[str, Any] | Any) -> list[dict[str, str]]:
    """What is told of a stage in figures: the last values, and the time that is left."""
    metrics, speed = curves.last_rows
    rows: list[tuple[str, str]] = []
    done, total = progress.get("done"), progress.get("total")
    step = metrics.get("step")
    if isinstance(total, int | float) and isinstance(done, int | float) and total:
        rows.append(("step", f"{max(done, step or 0):,.0f} / {total:,.0f}"))
    elif isinstance(step, int):
        rows.append(("step", f"{step:,}"))
    left = progress.get("left")
    if isinstance(left, int | float):
        rows.append(("left", show_clock(left)))
    for name, row in (
        ("loss", metrics),
        ("validation_loss", {"validation_loss": _last(curves, "validation_loss")}),
        ("learning_rate", metrics),
        ("grad_norm", metrics),
        ("tokens_per_second", speed),
        ("memory_gb", speed),
    ):
        value = row.get(name)
        if isinstance(value, int | float):
            rows.append((name, format_number(float(value))))
    return [{"name": tr(FIGURE_NAMES[name]), "value": value} for name, value in rows]


def _last(curves: StageCurves, name: str) -> float | None:
    curve = curves.curves.get(name)
    return curve.values[-1] if curve is not None and curve.values else None
