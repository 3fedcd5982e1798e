"""What a run changed, in numbers and on a page: `report.json` and `report.html` below `runs/<recipe>/`.

Owns the gathering of figures from manifests and their judging against the recipe's targets. Does not measure anything:
every number was measured by a stage and lies in its manifest.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin import __version__
from hanlin.config.recipe_file import Recipe, Target
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.pipeline.artifacts import Manifest, Store, lineage
from hanlin.pipeline.plan import Step
from hanlin.web.pages import render

_WORDS_ZH = {
    "chars_per_token": "每词元字符数",
    "perplexity": "困惑度",
    "exact_match": "完全正确率",
    "chinese_answer_share": "中文回答占比",
    "stop_share": "自行结束占比",
    "same_greedy_share": "与原模型贪心回答一致的比例",
    "perplexity_of_text": "文本困惑度",
    "perplexity_of_answers": "回答困惑度",
    "perplexity_of_preferred_answers": "偏好回答困惑度",
    "cmmlu": "CMMLU 正确率",
    "mmlu": "MMLU 正确率",
    "before": "之前",
    "after": "之后",
    "aligned": "对齐后",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what was measured; `value` is None where the figure could not be read."""

    figure: str
    value: float | None
    sign: str
    bound: float
    reached: bool


@dataclass(frozen=True, slots=True)
class Report:
    figures: Mapping[str, Any]
    verdicts: tuple[Verdict, ...]
    seconds: Mapping[str, float]
    data: Mapping[str, Any]

    @property
    def reached(self) -> bool:
        return all(verdict.reached for verdict in self.verdicts)


def gather(recipe: Recipe, steps: Sequence[Step]) -> Report:
    """Read the figures of a finished run out of its manifests."""
    manifests = {step.stage.name: step.manifest for step in steps if step.manifest is not None}
    figures: dict[str, Any] = {}
    for name, source in recipe.report.figures.items():
        if isinstance(source, dict):
            figures[name] = {part: _metric(text, manifests) for part, text in source.items()}
        else:
            figures[name] = _metric(source, manifests)
    verdicts = tuple(_judge(target, figures) for target in recipe.report.targets)
    seconds = {name: manifest.seconds for name, manifest in manifests.items()}
    data = {
        "recipe": recipe.name,
        "hanlin": __version__,
        **figures,
        "targets": [
            {"figure": v.figure, "value": v.value, "sign": v.sign, "bound": v.bound, "reached": v.reached}
            for v in verdicts
        ],
        "all_targets_reached": all(v.reached for v in verdicts),
        "seconds": seconds,
        "seconds_total": round(sum(seconds.values()), 3),
        "stages": {
            name: {"kind": m.kind, "key": m.key, "digest": m.digest, "metrics": m.metrics}
            for name, m in manifests.items()
        },
    }
    return Report(figures, verdicts, seconds, data)


def _metric(text: str, manifests: Mapping[str, Manifest]) -> float | None:
    stage, _, path = text.partition(".")
    value: Any = manifests[stage].metrics if stage in manifests else None
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _judge(target: Target, figures: Mapping[str, Any]) -> Verdict:
    def read(name: str) -> float | None:
        head, _, part = name.partition(".")
        value = figures[head]
        if part:
            value = value[part]
        return value if isinstance(value, float) else None

    value = read(target.figure)
    sign, bound = ("≥", target.at_least) if target.at_least is not None else ("≤", target.at_most)
    number = read(bound) if isinstance(bound, str) else bound
    if value is None or number is None or math.isnan(value):
        return Verdict(target.figure, value, sign, math.nan if number is None else number, False)
    limit = number - target.tolerance if sign == "≥" else number + target.tolerance
    reached = value >= limit - 1e-12 if sign == "≥" else value <= limit + 1e-12
    return Verdict(target.figure, value, sign, limit, reached)


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


def number(value: Any) -> str:
    """A measured number as people read it: shares as they are, large ones without decimals."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value and abs(value) < 0.001:
            return f"{value:.2e}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def changes(step: Step) -> str:
    """What one stage changed, in a line: its plain metrics."""
    metrics = step.manifest.metrics if step.manifest else {}
    wanted = step.stage.kind.shows or tuple(metrics)
    parts = []
    for name in wanted:
        value: Any = metrics
        if name.startswith("*."):  # of each file of an export
            part = name[2:]
            value = {file: row[part] for file, row in metrics.items() if isinstance(row, Mapping) and part in row}
        else:
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        label = name.removeprefix("*.").replace("_", " ").replace(".", " ")
        if isinstance(value, Mapping) and set(value) == {"before", "after"}:
            parts.append(f"{label} {number(value['before'])} → {number(value['after'])}")
        elif isinstance(value, Mapping) and value and all(isinstance(v, int | float) for v in value.values()):
            parts.append(f"{label} " + " ".join(f"{k} {number(v)}" for k, v in list(value.items())[:4]))
        elif isinstance(value, int | float | str):
            parts.append(f"{label} {number(value)}")
    return " · ".join(parts[:6])


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


_CURVES = {"loss": ("training", "训练"), "heldout_loss": ("held out", "留出")}
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


def answers_of(recipe: Recipe, steps: Sequence[Step], store: Store, count: int = 8) -> list[dict[str, Any]]:
    """A few answers of the evaluation that the recipe shows, spread over its topics."""
    return _answers(recipe, steps, store)[:count]


def _answers(recipe: Recipe, steps: Sequence[Step], store: Store) -> list[dict[str, Any]]:
    wanted = recipe.report.conversation
    for step in steps:
        if step.stage.name == wanted and step.manifest is not None:
            file = store.folder(step.stage.kind.name, step.key) / "answers.jsonl"
            try:
                rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
            except OSError as error:
                raise UserError(say("the answers cannot be read", "无法读取回答"), file) from error
            by_topic: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                by_topic.setdefault(str(row.get("topic", "")), []).append(row)
            columns = list(by_topic.values())
            return [column[depth] for depth in range(2) for column in columns if depth < len(column)][:24]
    return []
