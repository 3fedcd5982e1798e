"""The report of a run as an HTML page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.recipe import Recipe
from hanlin.core.version import __version__
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.lineage import lineage
from hanlin.pipeline.report import Report, _answers, changes, gather, number
from hanlin.pipeline.step import Step
from hanlin.web.pages import render

_WORDS_ZH = {
    "chars_per_token": "每词元字符数",
    "perplexity": "困惑度",
    "exact_match": "完全正确率",
    "chinese_answer_share": "中文回答占比",
    "stop_rate": "自行结束占比",
    "greedy_agreement": "与原模型贪心回答一致的比例",
    "perplexity_of_text": "文本困惑度",
    "perplexity_of_answers": "回答困惑度",
    "perplexity_of_preferred_answers": "偏好回答困惑度",
    "cmmlu": "CMMLU 正确率",
    "mmlu": "MMLU 正确率",
    "before": "之前",
    "after": "之后",
    "aligned": "对齐后",
}


def write(recipe: Recipe, steps: Sequence[Step], store: Store) -> tuple[Report, Path]:
    """Write `report.json` and `report.html`; return the report and the page's path."""
    report = gather(recipe, steps)
    folder = store.runs / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    render.write(folder / "report.json", json.dumps(report.data, ensure_ascii=False, indent=1) + "\n")
    render.write(folder / "report.html", page(recipe, steps, store, report))
    return report, folder / "report.html"


def page(recipe: Recipe, steps: Sequence[Step], store: Store, report: Report) -> str:
    """The report as one HTML file in both languages, with no outside resources."""
    stages = [_stage_row(step, store) for step in steps if step.manifest]
    answers = _answers(recipe, steps, store)
    last = steps[-1] if steps else None
    tree = None
    for step in reversed(steps):
        if step.manifest is not None and step.stage.makes in ("gguf", "model", "adapter"):
            tree = lineage(store.folder(step.stage.kind.name, step.key))
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
    return render.render("report.html", values, {"number": number, "en": _words_en, "zh": _words_zh})


def _words_en(name: str) -> str:
    return " · ".join(part.replace("_", " ") if part.islower() else part for part in name.split("."))


def _words_zh(name: str) -> str:
    return " · ".join(_WORDS_ZH.get(part, part) for part in name.split("."))


def _stage_row(step: Step, store: Store) -> dict[str, Any]:
    assert step.manifest is not None
    folder = store.folder(step.stage.kind.name, step.key)
    return {
        "name": step.stage.name,
        "kind": step.stage.kind,
        "seconds": step.manifest.seconds,
        "changes": changes(step),
        "key": step.key,
        "digest": step.manifest.digest,
        "metrics": step.manifest.metrics,
        "ledger": _read_json(folder / "ledger.json"),
        "rows": _read_json(folder / "first_rows.json"),
        "curve": _curve(folder / "metrics.jsonl"),
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


_CURVES = {"loss": ("training", "训练"), "validation_loss": ("held out", "留出")}


_PROBE = re.compile(r"probe_(.+)_loss")


def _curve(path: Path, width: int = 560, height: int = 150) -> dict[str, Any] | None:
    """The losses over steps (of training, of held-out records, of probes) as the points of polylines in one box of
    `width` by `height` pixels."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError):
        return None
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if _curve_words(name)]
    found = {name: _points(rows, name) for name in names}
    if len(found.get("loss", ())) < 2:
        return None
    values = [loss for points in found.values() for _, loss in points]
    low, spread = min(values), (max(values) - min(values)) or 1.0
    first, last = rows[0]["step"] - 1, rows[-1]["step"]
    lines = []
    for name, points in found.items():
        en, zh = _curve_words(name) or ("", "")
        places = (
            f"{(step - first) / (last - first) * width:.1f},{height - (loss - low) / spread * height:.1f}"
            for step, loss in points
        )
        lines.append({"en": en, "zh": zh, "line": " ".join(places), "start": points[0][1], "end": points[-1][1]})
    return {"lines": lines, "first": first + 1, "last": last, "width": width, "height": height}


def _curve_words(name: str) -> tuple[str, str] | None:
    """How a curve is named on the page, in both languages; None for what is no loss."""
    probe = _PROBE.fullmatch(name)
    return (f"probe: {probe[1]}", f"探针：{probe[1]}") if probe else _CURVES.get(name)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values, thinned to about 400; what was measured at the start stands before the first step."""
    before = rows[0].get(f"{name}_at_start")
    found = [(rows[0]["step"] - 1, before)] if before is not None else []
    found += [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
    found = [(step, value) for step, value in found if math.isfinite(value)]
    stride = max(1, len(found) // 400)
    return found[::stride] + ([found[-1]] if (len(found) - 1) % stride else [])
