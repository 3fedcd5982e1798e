"""The report of a run as an HTML page."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.config.reasons import name_count
from hanlin.config.recipe import Recipe
from hanlin.core.errors import UserError
from hanlin.core.files import format_json, parse_json, read_json, write_text
from hanlin.core.i18n import mark, translate, use_language
from hanlin.core.version import __version__
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.lineage import lineage, lineage_json
from hanlin.pipeline.report import Report, build_report, done_steps, format_number, sample_answers, summarize_metrics
from hanlin.pipeline.step import Step
from hanlin.web.pages.long_context import draw_long_context
from hanlin.web.pages.render import render_page, show_both

if TYPE_CHECKING:
    from markupsafe import Markup

_METRIC_NAMES = {
    "chars_per_token": mark("characters per token"),
    "perplexity": mark("perplexity"),
    "exact_match": mark("exact match"),
    "chinese_answer_share": mark("Chinese answers"),
    "stop_rate": mark("stop rate"),
    "greedy_agreement": mark("greedy agreement"),
    "perplexity_of_long_text": mark("perplexity of long text"),
    "passkeys_found": mark("passkeys found"),
    "perplexity_of_text": mark("perplexity of text"),
    "perplexity_of_answers": mark("perplexity of answers"),
    "perplexity_of_preferred_answers": mark("perplexity of preferred answers"),
    "cmmlu": mark("CMMLU accuracy"),
    "mmlu": mark("MMLU accuracy"),
    "before": mark("before"),
    "after": mark("after"),
    "aligned": mark("aligned"),
}
"""What the page calls the metrics of the shipped recipes; others are shown by their own names."""


def write_report(recipe: Recipe, steps: Sequence[Step], store: Store) -> tuple[Report, Path]:
    """Write `report.json` and `report.html` of the steps that are done; return the report and the page's path.

    Two runs of one recipe may end at the same time: each writes files of its own before it renames them.
    """
    steps = done_steps(steps)
    report = build_report(recipe, steps)
    folder = store.run_folder(recipe.name)
    write_text(folder / "report.json", format_json(report.data, indent=1) + "\n", shared=True)
    write_text(folder / "report.html", render_report(recipe, steps, store, report), shared=True)
    return report, folder / "report.html"


def render_report(recipe: Recipe, steps: Sequence[Step], store: Store, report: Report) -> str:
    """The report as one HTML page in both languages, without outside resources."""
    stages = [_stage_row(step, store) for step in steps if step.manifest]
    answers = sample_answers(recipe, steps, store)
    last = steps[-1] if steps else None
    tree = None
    for step in reversed(steps):
        if step.manifest is not None and step.stage.makes in ("gguf", "model", "adapter"):
            tree = lineage_json(lineage(store.folder(step.stage.kind.name, step.key)))
            break
    values = {
        "recipe": recipe,
        "report": report,
        "stages": stages,
        "answers": answers,
        "tree": tree,
        "last": last,
        "total": sum(report.seconds.values()),
        "longest": max(report.seconds.values(), default=1.0) or 1.0,
        "version": __version__,
        "curves": [row for row in stages if row["curve"]],
    }
    return render_page("report.html", values, {"number": format_number, "metric": _show_metric, "reason": _show_reason})


def _show_metric(name: str) -> Markup:
    """The name of a metric in both languages; a dotted name is shown part by part."""
    english = [_METRIC_NAMES.get(part, part.replace("_", " ") if part.islower() else part) for part in name.split(".")]
    return show_both(" · ".join(english), " · ".join(translate(part, "zh") for part in english))


def _show_reason(name: str) -> Markup:
    """The code of a reason why rows are dropped, and its words in both languages."""
    texts = []
    for code in ("en", "zh"):
        with use_language(code):
            texts.append(name_count("dropped", name))
    return show_both(*texts)


def _stage_row(step: Step, store: Store) -> dict[str, Any]:
    assert step.manifest is not None
    folder = store.folder(step.stage.kind.name, step.key)
    return {
        "name": step.stage.name,
        "kind": step.stage.kind,
        "seconds": step.manifest.seconds,
        "changes": show_both(*_summarize_in_both_languages(step)),
        "key": step.key,
        "digest": step.manifest.digest,
        "metrics": step.manifest.metrics,
        "ledger": _read_optional(folder / "ledger.json"),
        "rows": _read_optional(folder / "first_rows.json"),
        "curve": _curve(folder / "metrics.jsonl"),
        "long_context": draw_long_context(step.manifest.metrics),
    }


def _summarize_in_both_languages(step: Step) -> tuple[str, str]:
    with use_language("en"):
        english = summarize_metrics(step)
    with use_language("zh"):
        return english, summarize_metrics(step)


def _read_optional(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None if the file is absent or damaged."""
    try:
        return read_json(path) or None
    except (UserError, OSError):
        return None


_CURVES = {"loss": mark("training"), "validation_loss": mark("validation")}
_PROBE = re.compile(r"probe_(.+)_loss")


def _curve(path: Path, width: int = 560, height: int = 150) -> dict[str, Any] | None:
    """The losses over steps (training, validation, probes) as points of polylines in a box of that size in pixels.

    None if there are fewer than two steps.
    """
    try:
        rows = [parse_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError):
        return None
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if _curve_name(name)]
    curves = {name: _points(rows, name) for name in names}
    if len(curves.get("loss", ())) < 2:
        return None
    values = [loss for points in curves.values() for _, loss in points]
    low, spread = min(values), (max(values) - min(values)) or 1.0
    first, last = rows[0]["step"] - 1, rows[-1]["step"]
    lines = []
    for name, points in curves.items():
        probe = _PROBE.fullmatch(name)
        coordinates = (
            f"{(step - first) / (last - first) * width:.1f},{height - (loss - low) / spread * height:.1f}"
            for step, loss in points
        )
        lines.append(
            {
                "name": _curve_name(name),
                "topic": probe[1] if probe else "",
                "line": " ".join(coordinates),
                "start": points[0][1],
                "end": points[-1][1],
            }
        )
    return {"lines": lines, "first": first + 1, "last": last, "width": width, "height": height}


def _curve_name(name: str) -> str | None:
    """What the page calls a curve; None for a metric that is no loss."""
    return mark("probe: {topic}") if _PROBE.fullmatch(name) else _CURVES.get(name)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values, thinned to about 400; what was measured at the start comes before the first step."""
    start = rows[0].get(f"{name}_at_start")
    points = [(rows[0]["step"] - 1, start)] if start is not None else []
    points += [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    points = [(step, value) for step, value in points if math.isfinite(value)]
    stride = max(1, len(points) // 400)
    return points[::stride] + ([points[-1]] if (len(points) - 1) % stride else [])
