"""How a comparison's files, tasks and scores are called and shown; loads nothing heavy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

COMPARISON, MARKDOWN, QUESTIONS = "comparison.json", "comparison.md", "questions.jsonl"
VERDICTS = {"gain": "▲", "loss": "▼", "same": ""}


def condense_lineage(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """A lineage with the files of one folder under one license in one row, where the first of them stands.

    Args:
        rows: `name`, `type`, `digest` and `license` of each artifact and each file.

    Returns:
        The same for artifacts and single files; of several files the folder (`data/`) and the SHA-256 over their sorted
        lines `digest  name`, which is what `sha256sum` prints. `files` is their number, 0 for an artifact.
    """
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for index, row in enumerate(rows):
        folder = row["name"].partition("/")[0] if row["type"] == "file" and "/" in row["name"] else str(index)
        groups.setdefault((folder, row["license"]), []).append(row)
    condensed = []
    for (folder, license_name), group in groups.items():
        first = group[0]
        if len(group) == 1:
            condensed.append({**first, "files": int(first["type"] == "file")})
            continue
        lines = sorted(f"{row['digest']}  {row['name']}\n" for row in group)
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        named = {"name": f"{folder}/", "type": "file", "digest": digest, "license": license_name}
        condensed.append({**named, "files": len(group)})
    return condensed


def title_of(task: Mapping[str, Any]) -> str:
    """A task with how it was asked, in one line: `cmmlu (paper, 5 shots)`."""
    parts = [f"{value} shots" if name == "shots" else str(value) for name, value in task["setup"].items() if value]
    return task["name"] + (f" ({', '.join(parts)})" if parts else "")


def show_value(value: float, unit: str) -> str:
    """A share as percent, bits per byte as they are."""
    return f"{100 * value:.1f}" if unit == "share" else f"{value:.4f}"


def show_interval(score: Mapping[str, Any], unit: str) -> str:
    """The 95 % interval of a score."""
    return f"[{show_value(score['low'], unit)}, {show_value(score['high'], unit)}]"


def show_difference(difference: Mapping[str, Any], unit: str) -> str:
    """A difference with its sign, and with ▲ or ▼ if it is beyond its interval."""
    sign = "+" if difference["value"] >= 0 else "−"
    return f"{sign}{show_value(abs(difference['value']), unit)} {VERDICTS[difference['verdict']]}".rstrip()


def show_change(difference: Mapping[str, Any]) -> str:
    """A difference of shares with its sign and its interval."""
    value, low, high = (
        ("+" if difference[name] >= 0 else "−") + show_value(abs(difference[name]), "share")
        for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def show_score(score: Mapping[str, Any] | None, unit: str) -> str:
    """A score with its interval and its difference; a dash if a model was not asked."""
    if score is None:
        return "–"
    text = f"{show_value(score['value'], unit)} {show_interval(score, unit)}"
    return f"{text} {show_difference(score['difference'], unit)}" if "difference" in score else text
