"""Routes of the evaluations: the list, a report down to its questions, and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.report import format_number
from hanlin.web.evaluation.reports import MAX_COMPARED, ReportDesk, TaskReport, list_evaluations
from hanlin.web.frame import Frame
from hanlin.web.links import read_links
from hanlin.web.pages.comparison import number, render_comparison
from hanlin.web.runs.compare import flatten
from hanlin.web.runs.names import REPORT_POLICY

PAGE_QUESTIONS = 50
_BAR_WIDTH = 260
_MAX_SUBJECTS = 120


def make_router(frame: Frame) -> APIRouter:
    """The routes below `/ui/evaluation`."""
    router = APIRouter()
    store = Store(frame.folder)
    desk = ReportDesk(store, frame.folder / "ui" / "cache")

    @router.get("/ui/evaluation")
    def show_evaluations(request: Request) -> Response:
        values = {"rows": list_evaluations(store), "limit": MAX_COMPARED}
        scripts = ("runs/list.js",)
        return frame.render(request, "evaluation/list.html", values, view="evaluation", scripts=scripts)

    @router.get("/ui/evaluation/view/{name}")
    def show_evaluation(
        request: Request,
        name: str,
        task: int = 0,
        subject: str = "",
        wrong: bool = False,
        text: str = "",
        first: int = 0,
    ) -> Response:
        report = desk.report(name)
        tasks = report.tasks
        if tasks and not 0 <= task < len(tasks):
            raise UserError(tr("there is no task {number}", number=task), name)
        chosen = tasks[task] if tasks else None
        questions = [] if chosen is None else _select(chosen, report.model, subject, wrong, text)
        first = max(0, min(first, len(questions)))
        values = {
            "name": name,
            "used_by": read_links(store).find(name),
            "report": report,
            "tasks": [_task_values(item) for item in tasks],
            "task": task,
            "subjects": [] if chosen is None else _subject_values(chosen),
            "chosen": chosen,
            "questions": questions[first : first + PAGE_QUESTIONS],
            "total": len(questions),
            "first": first,
            "step": PAGE_QUESTIONS,
            "subject": subject,
            "wrong": wrong,
            "text": text,
            "figures": [] if tasks else list(flatten(report.manifest.metrics)),
            "show": format_number,
        }
        return frame.render(request, "evaluation/report.html", values, view="evaluation")

    @router.get("/ui/evaluation/view/{name}/comparison")
    def show_stored_comparison(name: str) -> Response:
        report = desk.report(name)
        if not report.comparison:
            raise UserError(tr("this is no comparison"), name)
        return _send_comparison(report.comparison)

    @router.get("/ui/evaluation/compare")
    def compare(run: Annotated[list[str], Query()] = []) -> Response:
        """Compare evaluations: the page that `hanlin compare --page` writes."""
        return _send_comparison(desk.compare(run))

    return router


def _send_comparison(comparison: Mapping[str, Any]) -> Response:
    try:
        page = render_comparison(comparison)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(tr("this comparison cannot be shown: {error}", error=error)) from error
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


def _task_values(task: TaskReport) -> dict[str, Any]:
    figures = task.figures
    score = figures["scores"][0]
    unit = figures["unit"]
    setup = " · ".join(f"{key} {value}" for key, value in figures["setup"].items() if value)
    return {
        "name": tr(figures["description"]) if figures["description"] else figures["name"],
        "setup": setup,
        "questions": figures["questions"],
        "value": number(score["value"], unit),
        "low": number(score["low"], unit),
        "high": number(score["high"], unit),
        "unit": "%" if unit == "share" else unit.replace("_", " "),
        "notes": [(key, format_number(value)) for key, value in flatten(score.get("notes", {}))],
    }


def _subject_values(task: TaskReport) -> list[dict[str, Any]]:
    """The subjects of a task with the lengths of their bars, the best first."""
    unit = task.figures["unit"]
    rows = [(subject, subject["scores"][0]) for subject in task.figures["subjects"]]
    rows.sort(key=lambda row: row[1]["value"], reverse=bool(task.figures["higher_is_better"]))
    longest = 1.0 if unit == "share" else max((score["value"] for _, score in rows), default=1.0) or 1.0
    return [
        {
            "name": subject["name"],
            "questions": subject["questions"],
            "value": number(score["value"], unit),
            "width": round(_BAR_WIDTH * max(0.0, score["value"]) / longest, 1),
        }
        for subject, score in rows[:_MAX_SUBJECTS]
    ]


def _select(task: TaskReport, model: str, subject: str, wrong: bool, text: str) -> list[dict[str, Any]]:
    """The questions that are wanted, each with its answer and whether it is right (None where that is a number)."""
    found = []
    is_share = task.figures["unit"] == "share"
    for row in task.questions:
        answer = row["answers"].get(model, {})
        value = answer.get("value")
        right = None if not is_share or value is None else value >= 0.5
        if (subject and row.get("subject") != subject) or (wrong and right is not False):
            continue
        said = str(answer.get("answer", ""))
        if text and text not in str(row.get("question", "")) and text not in said and text not in str(row["id"]):
            continue
        shown = "" if value is None else f"{value:.3g}"
        found.append({**row, "answer": said, "right": right, "value": shown})
    return found
