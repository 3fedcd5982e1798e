"""The figures of `bench/worth.py`, computed from its rows and written into tables of pages in two languages."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

Row = dict[str, Any]
Language = Literal["en", "zh"]
Snippets = Mapping[str, Sequence[str]]

CHINESE = ("modern", "classical", "dialogue")
CENTER, PEERS, BESIDE_PEERS = "center", ("TRL", "LLaMA-Factory"), "entries 0"
SEED, DRAWS = 42, 2000
NONE = "–"
LABELS: dict[str, str] = {
    "center": "中心", "entries 0": "0 个词条", "TRL": "TRL", "LLaMA-Factory": "LLaMA-Factory",
    "entries 1000": "1000 个词条", "two stages": "两阶段",
    "LoRA r64": "LoRA r64", "English 0 %": "英文 0 %", "English 10 %": "英文 10 %", "entries 4000": "4000 个词条",
    "entries 16000": "16000 个词条", "learning rate / 3": "学习率 / 3", "learning rate x 3": "学习率 × 3",
    "packed across documents": "跨文档打包", "one text a row": "每行一篇",
    "init omp": "初始化 omp", "init mean": "初始化 mean",
}  # fmt: skip
"""Names of the cells in Chinese."""
HEADS: dict[str, dict[Language, tuple[str, ...]]] = {
    "bits": {
        "en": ("cell", "tokens", "modern: start → half → end", "classical", "dialogue", "English"),
        "zh": ("单元", "词元", "现代：初始 → 中点 → 终点", "文言", "对话", "英文"),
    },
    "worth": {
        "en": ("cell", "making new rows, s", "gained since the base, an hour", "gained since the start, an hour",
               "English lost, an hour", "modern, fewer than the center", "English, fewer than the center"),
        "zh": ("单元", "生成新行，秒", "相对底座每小时降低", "相对初始每小时降低", "英文每小时损失", "现代：比中心少",
               "英文：比中心少"),
    },
    "peers": {
        "en": ("processor seconds", "trained by", "tokens", "modern", "Hanlin fewer by", "English"),
        "zh": ("处理器秒", "训练工具", "词元", "现代", "Hanlin 少", "英文"),
    },
}  # fmt: skip

PICTURES: dict[str, tuple[str, dict[Language, str]]] = {
    "bits": ("worth_cells.svg", {"en": "Bits per character of modern text at the start, at half and at the end",
                                 "zh": "现代文每字比特：初始、中点与终点"}),
    "peers": ("worth_peers.svg", {"en": "Bits per character of modern text by processor seconds: Hanlin and its peers",
                                  "zh": "现代文每字比特随处理器秒的变化：Hanlin 与同类工具"}),
}  # fmt: skip


def count_units(text: str, kind: str) -> int:
    """What bits are divided by: characters, or bytes of English."""
    return len(text.encode()) if kind == "english" else len(text)


def measure_bits(nats: Mapping[str, Sequence[float]], snippets: Snippets) -> dict[str, float]:
    """Bits per character of each kind, of English bits per byte."""
    return {
        kind: sum(values) / math.log(2) / sum(count_units(text, kind) for text in snippets[kind])
        for kind, values in nats.items()
    }


def paired_interval(
    nats: Sequence[float], others: Sequence[float], texts: Sequence[str], kind: str
) -> tuple[float, float, float]:
    """How many bits fewer than the other cell, and the 95 % interval from drawing the same snippets for both."""
    gains = [(other - own) / math.log(2) for own, other in zip(nats, others, strict=True)]
    sizes = [count_units(text, kind) for text in texts]
    generator = random.Random(SEED)
    drawn = []
    for _ in range(DRAWS):
        chosen = generator.choices(range(len(gains)), k=len(gains))
        drawn.append(sum(gains[i] for i in chosen) / sum(sizes[i] for i in chosen))
    drawn.sort()
    return sum(gains) / sum(sizes), drawn[DRAWS // 40], drawn[-DRAWS // 40 - 1]


def summarize(rows: Sequence[Row], names: Sequence[str], snippets: Snippets) -> dict[str, Any]:
    """All figures.

    Args:
        rows: Measurements; of several of one cell and mark the last counts.
        names: The cells in the order of the table.
        snippets: The texts that were measured.

    Returns:
        `seconds`, the last mark; `base`, its bits; `cells`, for each that reached a mark its figures there, at birth
        and at the other marks, and its differences to the base, to its birth, and, if both were finished, to the
        center; `peers`, at each mark that Hanlin and a peer reached the figures of each; `not_run`, the cells that are
        not finished.
    """
    latest = {(row["cell"], row["at"]): row for row in rows}
    births = {(row["entries"], row["init"]): row for row in rows if row["at"] == 0 and row["cell"] not in PEERS}
    base = next((row for (entries, _), row in births.items() if not entries), None)
    end = max((row["at"] for row in rows), default=0.0)
    center = latest.get((CENTER, end))
    cells = []
    for name in names:
        marks = {at: row for (cell, at), row in sorted(latest.items()) if cell == name and at > 0}
        if not marks or name in PEERS:
            continue
        last = marks[max(marks)]
        birth = births.get((last["entries"], last["init"]))
        now, hours = measure_bits(last["nats"], snippets), last["processor_seconds"] / 3600
        figures: dict[str, Any] = {"cell": name, "finished": max(marks) == end, **_counts(last)}
        figures["birth_seconds"] = last["birth_seconds"]
        figures["birth"] = birth and measure_bits(birth["nats"], snippets)
        figures["marks"] = {f"{at:g}": measure_bits(row["nats"], snippets) for at, row in marks.items()}
        for since, other in (("base", base), ("birth", birth)):
            if other is not None:
                then = measure_bits(other["nats"], snippets)
                figures[f"gained_since_{since}"] = {kind: (then[kind] - now[kind]) / hours for kind in CHINESE}
                figures[f"english_lost_since_{since}"] = (now["english"] - then["english"]) / hours
        if center is not None and figures["finished"] and name != CENTER:
            figures["fewer_than_center"] = {
                kind: paired_interval(last["nats"][kind], center["nats"][kind], texts, kind)
                for kind, texts in snippets.items()
            }
        cells.append(figures)
    return {
        "bench": "worth",
        "seconds": end,
        "base": base and measure_bits(base["nats"], snippets),
        "cells": cells,
        "peers": _compare_with_peers(latest, snippets),
        "not_run": [name for name in names if (name, end) not in latest],
    }


def _counts(row: Row) -> Row:
    return {name: row[name] for name in ("processor_seconds", "steps", "tokens")}


def _compare_with_peers(latest: Mapping[tuple[str, float], Row], snippets: Snippets) -> list[dict[str, Any]]:
    """At each mark that Hanlin and a peer reached: counts and bits of each, and how many bits fewer Hanlin has."""
    compared = []
    for at in sorted({at for cell, at in latest if cell in PEERS and (BESIDE_PEERS, at) in latest}):
        ours = latest[BESIDE_PEERS, at]
        sides = {"Hanlin": {**_counts(ours), "bits": measure_bits(ours["nats"], snippets)}}
        for name in PEERS:
            if theirs := latest.get((name, at)):
                fewer = {
                    kind: paired_interval(ours["nats"][kind], theirs["nats"][kind], snippets[kind], kind)
                    for kind in snippets
                }
                sides[name] = {**_counts(theirs), "bits": measure_bits(theirs["nats"], snippets), "fewer": fewer}
        compared.append({"at": at, "sides": sides})
    return compared


# --- tables -----------------------------------------------------------------------------------------------------------


def write_tables(result: Mapping[str, Any], language: Language) -> dict[str, str]:
    """The tables `bits`, `worth` and `peers` with their pictures, and the sentence `not_run`, as Markdown."""
    bodies = {"bits": _bits_rows(result, language), "worth": _worth_rows(result, language)}
    bodies["peers"] = [row for mark in result["peers"] for row in _peer_rows(mark)]
    tables = {}
    for name, heads in HEADS.items():
        measured = result["cells"] if name != "peers" else bodies["peers"]
        if not measured:
            tables[name] = "Not measured yet." if language == "en" else "尚未测量。"
            continue
        tables[name] = _table(heads[language], bodies[name])
        if name in PICTURES:
            file, texts = PICTURES[name]
            tables[name] += f"\n\n![{texts[language]}](../images/{file})"
    missing = [_label(name, language) for name in result["not_run"]]
    if language == "en":
        tables["not_run"] = (
            f"Not run to the end: {', '.join(missing)}." if missing else "All cells were run to the end."
        )
    else:
        tables["not_run"] = f"没有跑完：{'、'.join(missing)}。" if missing else "所有单元都跑完了。"
    return tables


def write_births(births: Sequence[Row], language: Language) -> str:
    """The table of models with few new entries, untrained; of several measurements of one the last counts."""
    by_entries = {row["entries"]: row for row in sorted(births, key=lambda row: int(row["entries"]))}
    heads = ("new entries", "characters per token", "bits per character, untrained")
    if language == "zh":
        heads = ("新词条", "每词元字数", "未训练时每字比特")
    rows = [
        [f"{entries:,}", f"{row['characters_per_token']:.2f}", f"{row['bits_per_character']:.2f}"]
        for entries, row in by_entries.items()
    ]
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def fill_page(page: Path, tables: Mapping[str, str]) -> None:
    """Write each table between `<!-- worth: NAME -->` and `<!-- /worth -->` of a page."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        begin, end = f"<!-- worth: {name} -->\n", "<!-- /worth -->"
        before, found, rest = text.partition(begin)
        if found:
            text = before + begin + "\n" + table + "\n\n" + end + rest.partition(end)[2]
    page.write_text(text, encoding="utf-8")


def _label(name: str, language: Language) -> str:
    return name if language == "en" else LABELS[name]


def _mark_unfinished(figures: Mapping[str, Any], language: Language) -> str:
    label = _label(figures["cell"], language)
    if figures["finished"]:
        return label
    seconds = list(figures["marks"])[-1]
    return f"{label} (at {seconds} s)" if language == "en" else f"{label}（{seconds} 秒时）"


def _bits_rows(result: Mapping[str, Any], language: Language) -> list[list[str]]:
    rows = []
    if result["base"]:
        bits = result["base"]
        label = "base, untrained" if language == "en" else "底座，未训练"
        rows.append([label, NONE, *(f"{bits[kind]:.2f}" for kind in CHINESE), f"{bits['english']:.3f}"])
    for figures in result["cells"]:
        marks = list(figures["marks"].values())
        course = [figures["birth"], *marks]
        modern = " → ".join(f"{bits['modern']:.2f}" if bits else NONE for bits in course)
        values = [*(f"{marks[-1][kind]:.2f}" for kind in CHINESE[1:]), f"{marks[-1]['english']:.3f}"]
        rows.append([_mark_unfinished(figures, language), f"{figures['tokens']:,}", modern, *values])
    return rows


def _worth_rows(result: Mapping[str, Any], language: Language) -> list[list[str]]:
    rows = []
    for figures in result["cells"]:
        gained = [figures.get(f"gained_since_{since}") for since in ("base", "birth")]
        lost = figures.get("english_lost_since_base")
        fewer = figures.get("fewer_than_center")
        rows.append([
            _mark_unfinished(figures, language),
            f"{figures['birth_seconds']:.0f}",
            *(f"{since['modern']:+.1f}" if since else NONE for since in gained),
            NONE if lost is None else f"{lost:+.2f}",
            *(_interval(fewer[kind], digits) if fewer else NONE for kind, digits in (("modern", 2), ("english", 3))),
        ])  # fmt: skip
    return rows


def _peer_rows(mark: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            f"{mark['at']:g}",
            name,
            f"{side['tokens']:,}",
            f"{side['bits']['modern']:.2f}",
            _interval(side["fewer"]["modern"], 2) if "fewer" in side else NONE,
            f"{side['bits']['english']:.3f}",
        ]
        for name, side in mark["sides"].items()
    ]


def _interval(values: Sequence[float], digits: int) -> str:
    middle, low, high = values
    return f"{middle:+.{digits}f} ({low:+.{digits}f} … {high:+.{digits}f})"
