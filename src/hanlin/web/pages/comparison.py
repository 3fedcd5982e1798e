"""The page of a comparison of models: what was gained and forgotten, by task, subject and question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hanlin.core.i18n import mark
from hanlin.web.pages.render import in_both_languages, render_page, show_both

ROW_HEIGHT, LABEL_WIDTH, PLOT_WIDTH = 22, 210.0, 420.0
MAX_SUBJECTS = 80
"""Subjects of a picture; of more, those in the middle, which changed least, are left out."""
LABEL_CHARACTERS = 30
_SETUP = {"greedy": mark("greedy"), "sampled": mark("sampled"), "plain": mark("plain text"), "chat": mark("as a chat")}


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """One HTML page in both languages, without outside resources, from what `comparison.json` holds."""
    models = [model["name"] for model in comparison["models"]]
    tasks = [_task(task, models, index) for index, task in enumerate(comparison["tasks"])]
    values = {
        "comparison": comparison,
        "models": models,
        "tasks": tasks,
        "summaries": [_summary(tasks, comparison.get("format", ()), model) for model in models[1:]],
        "pictures": [task for task in tasks if task["picture"]],
        "formats": [{**task, "title": _title({**task, "description": ""})} for task in comparison.get("format", ())],
        "signed": signed,
        "split": [task for task in tasks if "contamination" in task],
        "asked": [task for task in tasks if task.get("asked")],
        "noted": [task for task in tasks if any("notes" in score for score in task["scores"])],
    }
    return render_page("comparison.html", values)


def _task(task: Mapping[str, Any], models: Sequence[str], index: int) -> dict[str, Any]:
    scores = {score["model"]: score for score in task["scores"]}
    return {
        **task,
        "anchor": f"task-{index}",
        "title": _title(task),
        "form": in_both_languages(_SETUP[form]) if (form := task["setup"].get("form", "")) in _SETUP else form,
        "cells": [_show(scores.get(model), task["unit"]) for model in models],
        "picture": draw_subjects(task) if len(task["subjects"]) > 2 and len(models) > 1 else [],
        "changed": [
            {**row, "rows": [(model, row["answers"][model]) for model in models if model in row["answers"]]}
            for row in task["changed"]
        ],
    }


def _title(task: Mapping[str, Any]) -> Markup:
    """The task and how it was asked."""
    name = in_both_languages(task["description"]) if task["description"] else show_both(task["name"], task["name"])
    parts = [
        in_both_languages(_SETUP[value])
        if value in _SETUP
        else show_both(f"{value} shots", f"{value} 例")
        if key == "shots"
        else show_both(str(value), str(value))
        for key, value in task["setup"].items()
        if value
    ]
    return name + (Markup(" · ") + Markup(" · ").join(parts) if parts else Markup(""))


def number(value: float, unit: str) -> str:
    """A share in percent, bits per byte as they are."""
    return f"{100 * value:.1f}" if unit == "share" else f"{value:.4f}"


def signed(value: float, unit: str) -> str:
    """A difference with its sign."""
    return ("+" if value >= 0 else "−") + number(abs(value), unit)


def _show(score: Mapping[str, Any] | None, unit: str) -> dict[str, Any] | None:
    if score is None:
        return None
    shown: dict[str, Any] = {
        "model": score["model"],
        "value": number(score["value"], unit),
        "low": number(score["low"], unit),
        "high": number(score["high"], unit),
        "difference": None,
        "verdict": "same",
    }
    if difference := score.get("difference"):
        shown |= {
            "difference": signed(difference["value"], unit),
            "verdict": difference["verdict"],
            "between": f"{signed(difference['low'], unit)} … {signed(difference['high'], unit)}",
            "won": difference["won"],
            "lost": difference["lost"],
        }
    return shown


def _summary(tasks: Sequence[Mapping[str, Any]], formats: Sequence[Mapping[str, Any]], model: str) -> dict[str, Any]:
    """How many tasks a model gained and lost, which it lost, and where a gain may be the format of the answer alone."""
    cells = [(task, cell) for task in tasks for cell in task["cells"] if cell and cell["model"] == model]
    cells = [(task, cell) for task, cell in cells if cell["difference"] is not None]
    by_verdict = {name: [pair for pair in cells if pair[1]["verdict"] == name] for name in ("loss", "gain", "same")}
    format_alone = [
        task["name"]
        for task in formats
        for row in task["rows"]
        if row["model"] == model and row.get("gain", {}).get("verdict") == "format"
    ]
    return {"model": model, "format": format_alone, **by_verdict}


def draw_subjects(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each model but the first, its difference by subject: a bar from zero and the interval as a line.

    Returns:
        Of each model its name, the `rows` (`y`, `x`, `width`, `low`, `high`, `verdict`, `name`, `value`), the `zero` of
        the axis, the `height`, how many subjects are `hidden`, and how many are beyond their interval.
    """
    pictures = []
    for position, score in enumerate(task["scores"]):
        if "difference" not in score:
            continue
        found = [(subject, subject["scores"][position]["difference"]) for subject in task["subjects"]]
        found.sort(key=lambda pair: pair[1]["value"] * (1 if task["higher_is_better"] else -1))
        hidden = max(0, len(found) - MAX_SUBJECTS)
        shown = found if not hidden else found[: MAX_SUBJECTS // 2] + found[-MAX_SUBJECTS // 2 :]
        edge = max(max(abs(row["low"]), abs(row["high"])) for _, row in shown) or 1.0
        zero = LABEL_WIDTH + PLOT_WIDTH / 2

        def place(value: float, edge: float = edge, zero: float = zero) -> float:
            return round(zero + value / edge * PLOT_WIDTH / 2, 1)

        rows = [
            {
                "y": index * ROW_HEIGHT,
                "x": min(place(row["value"]), zero),
                "width": abs(round(place(row["value"]) - zero, 1)),
                "low": place(row["low"]),
                "high": place(row["high"]),
                "verdict": row["verdict"],
                "name": _shorten(subject["name"]),
                "title": f"{subject['name']} · n = {subject['questions']}",
                "value": signed(row["value"], task["unit"]),
            }
            for index, (subject, row) in enumerate(shown)
        ]
        pictures.append(
            {
                "model": score["model"],
                "rows": rows,
                "zero": zero,
                "height": ROW_HEIGHT * len(rows),
                "width": LABEL_WIDTH + PLOT_WIDTH + 60,
                "hidden": hidden,
                "subjects": len(found),
                "lost": sum(row["verdict"] == "loss" for _, row in found),
                "gained": sum(row["verdict"] == "gain" for _, row in found),
                "by_chance": round(0.025 * len(found), 1),
            }
        )
    return pictures


def _shorten(name: str) -> str:
    name = name.replace("_", " ")
    return name if len(name) <= LABEL_CHARACTERS else name[: LABEL_CHARACTERS - 1] + "…"
