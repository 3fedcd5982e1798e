"""The pictures of `bench/worth.py`: what each cell did to modern Chinese, and Hanlin beside its peers, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from worth_table import LABELS

WIDTH, LEFT, RIGHT, LINE = 820, 250, 30, 30
COLORS = {"birth": "#bdbdbd", "half": "#7fb8d8", "end": "#1f77b4", "base": "#d62728"}
PEER_COLORS = {"Hanlin": "#1f77b4", "TRL": "#ff7f0e", "LLaMA-Factory": "#2ca02c"}


class Drawing:
    """An SVG that is put together element by element."""

    def __init__(self, height: float, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="sans-serif" '
            'font-size="13">',
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>',
        ]
        self.text(10, 22, title, size=15)

    def text(self, x: float, y: float, text: str, anchor: str = "start", size: int = 13, color: str = "black") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{text}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1, dash: str = "") -> None:
        style = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" '
            f'stroke-width="{width}"{style}/>'
        )

    def dot(self, x: float, y: float, color: str) -> None:
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>')

    def write(self, file: Path) -> None:
        file.write_text("\n".join([*self.parts, "</svg>"]) + "\n", encoding="utf-8", newline="\n")


def draw_cells(result: Mapping[str, Any], file: Path) -> None:
    """A line for each cell: bits per character of modern text at birth, at half and at the end."""
    rows = [(figures["cell"], [figures["birth"], *figures["marks"].values()]) for figures in result["cells"]]
    values = [bits["modern"] for _, course in rows for bits in course if bits]
    base = result["base"]["modern"] if result["base"] else None
    low, high = _span([*values, *([base] if base else [])])
    height = 96 + LINE * len(rows)
    drawing = Drawing(height, "Modern Chinese, bits per character (less is better) · 现代文每字比特（越少越好）")

    def place(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    bottom = 62 + LINE * len(rows)
    for tick in _ticks(low, high):
        drawing.line(place(tick), 50, place(tick), bottom, "#e0e0e0")
        drawing.text(place(tick), bottom + 18, f"{tick:g}", anchor="middle")
    x = float(LEFT)
    for name, label in (("birth", "start · 初始"), ("half", "half · 中点"), ("end", "end · 终点")):
        drawing.dot(x, 40, COLORS[name])
        drawing.text(x + 9, 45, label)
        x += 110
    if base:
        drawing.line(place(base), 50, place(base), bottom, COLORS["base"], dash="5 4")
        drawing.text(x, 45, f"base · 底座 {base:.2f}", color=COLORS["base"])
    for index, (name, course) in enumerate(rows):
        y = 68 + LINE * index
        drawing.text(LEFT - 12, y + 5, _both(name), anchor="end")
        known = [(color, place(bits["modern"])) for color, bits in zip(COLORS, course, strict=False) if bits]
        if known:
            drawing.line(known[0][1], y, known[-1][1], y, "#9e9e9e", width=2)
        for color, x in known:
            drawing.dot(x, y, COLORS[color])
    drawing.write(file)


def draw_peers(result: Mapping[str, Any], file: Path) -> None:
    """Bits per character of modern text over processor seconds: Hanlin and its peers, from the same start."""
    marks = result["peers"]
    series = {
        name: [(mark["at"], mark["sides"][name]["bits"]["modern"]) for mark in marks if name in mark["sides"]]
        for name in PEER_COLORS
    }
    series = {name: points for name, points in series.items() if points}
    if result["base"]:
        series = {name: [(0.0, result["base"]["modern"]), *points] for name, points in series.items()}
    low, high = _span([value for points in series.values() for _, value in points])
    end = max(at for points in series.values() for at, _ in points)
    height, top, bottom = 360, 50, 310
    drawing = Drawing(height, "Bits per character by processor seconds · 每字比特随处理器秒的变化")

    def place(at: float, value: float) -> tuple[float, float]:
        return 70 + (WIDTH - 190) * at / end, bottom - (bottom - top) * (value - low) / (high - low)

    for tick in _ticks(low, high):
        y = place(0, tick)[1]
        drawing.line(70, y, WIDTH - 120, y, "#e0e0e0")
        drawing.text(62, y + 5, f"{tick:g}", anchor="end")
    for at in sorted({at for points in series.values() for at, _ in points}):
        drawing.text(place(at, low)[0], bottom + 20, f"{at:g} s", anchor="middle")
    for name, values in series.items():
        points, color = [place(*point) for point in values], PEER_COLORS[name]
        for (x1, y1), (x2, y2) in pairwise(points):
            drawing.line(x1, y1, x2, y2, color, width=2)
        for x, y in points:
            drawing.dot(x, y, color)
        x, y = points[-1]
        drawing.text(x + 12, y + 5, name, color=color)
    drawing.write(file)


def _both(name: str) -> str:
    return name if name == LABELS[name] else f"{name} · {LABELS[name]}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis: a little beyond the values."""
    margin = 0.06 * (max(values) - min(values)) or 0.1
    return min(values) - margin, max(values) + margin


def _ticks(low: float, high: float) -> list[float]:
    step = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0) if (high - low) / step <= 9)
    first = int(low / step) + 1
    return [round(step * index, 6) for index in range(first, int(high / step) + 1)]
