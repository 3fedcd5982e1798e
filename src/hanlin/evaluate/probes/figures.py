"""From answers to figures: the share of answers that each figure counts, and how certain it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hanlin.evaluate.probes.checks import FIGURES
from hanlin.evaluate.scoring import wilson_interval

MODES = ("greedy", "sampled")


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For greedy and for sampled answers, every figure that says something about one of them.

    Args:
        rows: Answers with `id`, `mode`, `language` and `counts` (figure → whether it counts the answer).

    Returns:
        {mode: {figure: what `share_of` returns, with `zh` and `en` beside it if both languages have answers}}.
    """
    summary: dict[str, dict[str, Any]] = {}
    for mode in MODES:
        answers = [row for row in rows if row["mode"] == mode]
        figures: dict[str, Any] = {}
        for name in FIGURES:
            counted = [row for row in answers if name in row["counts"]]
            if not counted:
                continue
            figures[name] = share_of(name, counted)
            by_language = {
                language: [row for row in counted if row["language"] == language] for language in ("zh", "en")
            }
            if all(by_language.values()):
                figures[name] |= {language: share_of(name, some) for language, some in by_language.items()}
        if figures:
            summary[mode] = figures
    return summary


def share_of(figure: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The share of answers that a figure counts, each prompt weighing the same.

    The 95 % interval is Wilson's over prompts and not over answers: several answers to one prompt are no independent
    trials, so that more samples make the share steadier but the interval no narrower than the prompts allow.

    Returns:
        `share`, `low`, `high`, and the numbers of `prompts` and `answers`.
    """
    by_prompt: dict[str, list[bool]] = {}
    for row in rows:
        by_prompt.setdefault(row["id"], []).append(row["counts"][figure])
    shares = [sum(hits) / len(hits) for hits in by_prompt.values()]
    interval = wilson_interval(sum(shares), len(shares))
    return {
        "share": sum(shares) / len(shares),
        "low": interval.low,
        "high": interval.high,
        "prompts": len(shares),
        "answers": sum(map(len, by_prompt.values())),
    }
