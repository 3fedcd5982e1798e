"""The table, the pictures and the pages of `bench/worth.py`."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]
CHINESE = ("modern", "classical", "dialogue")
SEED = 42


def summarize(rows: Sequence[Row], names: Sequence[str], snippets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """For each cell its figures at birth, at half and at the end, and its differences to the base and to the center."""
    latest = {(row["cell"], row["at"]): row for row in rows}
    births = {(row["entries"], row["init"]): row for row in rows if row["at"] == 0}
    base = births.get((0, "mean"))
    end = max(row["at"] for row in rows)
    center = latest.get(("center", end))
    table = []
    for name in names:
        marks = {at: row for (cell, at), row in latest.items() if cell == name and at > 0}
        if not marks:
            continue
        last = marks[max(marks)]
        birth = births.get((last["entries"], last["init"]))
        figures: dict[str, Any] = {"cell": name, "finished": max(marks) == end}
        figures |= {figure: last[figure] for figure in ("birth_seconds", "processor_seconds", "steps", "tokens")}
        figures["birth"] = birth and measure_bits(birth["nats"], snippets)
        figures["marks"] = {str(round(at)): measure_bits(row["nats"], snippets) for at, row in sorted(marks.items())}
        hours = last["processor_seconds"] / 3600
        now = measure_bits(last["nats"], snippets)
        for since, other in (("base", base), ("birth", birth)):
            if other is not None:
                then = measure_bits(other["nats"], snippets)
                figures[f"gained_per_hour_since_{since}"] = {kind: (then[kind] - now[kind]) / hours for kind in CHINESE}
                figures[f"english_lost_per_hour_since_{since}"] = (now["english"] - then["english"]) / hours
        if center is not None and max(marks) == end and name != "center":
            figures["less_than_center"] = {
                kind: paired_interval(last["nats"][kind], center["nats"][kind], snippets[kind]) for kind in snippets
            }
        table.append(figures)
    result: dict[str, Any] = {"bench": "worth", "seconds": end, "cells": table}
    if base is not None:
        result["base"] = measure_bits(base["nats"], snippets)
    result["not_run"] = [name for name in names if (name, end) not in latest]
    return result


def units(text: str, kind: str) -> int:
    """What bits are counted by: characters, or bytes of English."""
    return len(text.encode()) if kind == "english" else len(text)


def measure_bits(nats: Mapping[str, Sequence[float]], snippets: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Bits per character of each kind, of English bits per byte."""
    return {
        kind: sum(values) / math.log(2) / sum(units(text, kind) for text in snippets[kind])
        for kind, values in nats.items()
    }


def paired_interval(
    nats: Sequence[float], others: Sequence[float], texts: Sequence[str], draws: int = 2000
) -> list[float]:
    """How many bits per character (English: per byte, its texts are ASCII for the most part) fewer than the other cell,
    and the 95 % interval from drawing snippets.
    """
    gains = [(other - own) / math.log(2) for own, other in zip(nats, others, strict=True)]
    sizes = [len(text) for text in texts]
    generator = random.Random(SEED)
    drawn = []
    for _ in range(draws):
        chosen = generator.choices(range(len(gains)), k=len(gains))
        drawn.append(sum(gains[i] for i in chosen) / sum(sizes[i] for i in chosen))
    drawn.sort()
    return [sum(gains) / sum(sizes), drawn[draws // 40], drawn[-draws // 40 - 1]]


def to_markdown(result: Mapping[str, Any]) -> str:
    """The table at the last mark."""
    names = ["cell", "birth s", "steps", "tokens", "modern at birth", *CHINESE, "english", "modern gained an hour"]
    names += ["since birth", "English lost an hour", "modern, fewer than the center"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    if "base" in result:
        figures = [f"{result['base'][kind]:.2f}" for kind in CHINESE] + [f"{result['base']['english']:.3f}"]
        lines.append(f"| base, untrained | – | – | – | – | {' | '.join(figures)} | – | – | – | – |")
    for row in result["cells"]:
        now = list(row["marks"].values())[-1]
        birth = f"{row['birth']['modern']:.2f}" if row["birth"] else "–"
        values = [row["cell"] + ("" if row["finished"] else f" (at {list(row['marks'])[-1]} s)")]
        values += [f"{row['birth_seconds']:.0f}", str(row["steps"]), f"{row['tokens']:,}", birth]
        values += [*(f"{now[kind]:.2f}" for kind in CHINESE), f"{now['english']:.3f}"]
        for since in ("base", "birth"):
            gained = row.get(f"gained_per_hour_since_{since}")
            values.append(f"{gained['modern']:+.1f}" if gained else "–")
        lost = row.get("english_lost_per_hour_since_base")
        values.append("–" if lost is None else f"{lost:+.2f}")
        less = row.get("less_than_center")
        values.append("{:+.2f} ({:+.2f} to {:+.2f})".format(*less["modern"]) if less else "–")
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)
