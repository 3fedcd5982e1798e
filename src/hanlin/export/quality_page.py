"""Quality reports for people: a table and a chart beside the files, and the model card that holds both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hanlin.core.files import write_text
from hanlin.core.names import quote_yaml

CARD_FILE, CHART_FILE = "README.md", "quality_report.svg"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 360, 70, 50
_MIN_KL = 1e-7  # nats, on a logarithmic scale that has no zero


def write_card(
    folder: Path,
    name: str,
    license: str | None,
    rows: Mapping[str, Mapping[str, Any]],
    note: str = "",
    library: str = "gguf",
) -> None:
    """Write `README.md`, a model card, and `quality_report.svg`.

    Args:
        folder: Where they go.
        name: The model's name.
        license: Its license, for the front matter.
        rows: Quality reports by type; files whose report has `kept` False were measured and deleted.
        note: A line below the table.
        library: What loads the files, as hubs name it.
    """
    front = ["---", *([f"license: {quote_yaml(license)}"] if license else []), f"library_name: {library}", "---"]
    text = [
        *front,
        f"# {name}",
        "",
        "How far each file is from the model it was made from, on held-out text. 各文件在留出内容上与原模型的差距。",
        "",
        *format_table(rows),
        "",
        *([note, ""] if note else []),
        f"![bits per weight and divergence · 每权重比特数与散度]({CHART_FILE})",
        "",
        "KL: mean Kullback-Leibler divergence from the source in nats. Same token: how often both name the same "
        "likeliest token. Same answers: greedy answers equal token by token. Tokens/s: one answer at a time on the "
        "machine that made the files.",
        "",
        "KL：与原模型的平均 KL 散度（奈特）。相同词元：两者最可能词元相同的比例。相同回答：贪心回答逐词元相同的比例。"
        "词元/秒：在制作文件的机器上逐个回答的速度。",
    ]
    write_text(folder / CHART_FILE, draw_chart(rows))
    write_text(folder / CARD_FILE, "\n".join(text) + "\n")


def format_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a Markdown table, the largest file first."""
    languages = [language for language in ("zh", "en") if any(language in row for row in rows.values())]
    heads = ["type 类型", "MB", "bits/weight 每权重比特"]
    for language in languages:
        heads += [f"perplexity 困惑度 {language}", f"KL {language}", f"same token 相同词元 {language}"]
    has_answers = any("answers" in row for row in rows.values())
    heads += ["same answers 相同回答", "stops 正常结束", "tokens/s 词元/秒"] if has_answers else []
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    table = [_source_cells(next(iter(rows.values())), languages, has_answers)] if rows else []
    for name, row in sorted(rows.items(), key=lambda pair: -pair[1]["bytes"]):
        cells = [name if row.get("kept", True) else f"({name})", f"{row['bytes'] / 1e6:,.1f}"]
        cells.append(f"{row['bits_per_weight']:.2f}")
        for language in languages:
            metrics = row[language]
            cells += [f"{metrics['perplexity']:.3f}", f"{metrics['kl']:.5f}", f"{metrics['same_top_token']:.1%}"]
        if has_answers:
            cells += [f"{row['same_answers']:.0%}", f"{row['stop_rate']:.0%}", f"{row['tokens_per_second']:,.0f}"]
        table.append(cells)
    return [*lines, *("| " + " | ".join(cells) + " |" for cells in table)]


def _source_cells(row: Mapping[str, Any], languages: Sequence[str], has_answers: bool) -> list[str]:
    cells = ["source 原模型", "", ""]
    for language in languages:
        cells += [f"{row[language]['source_perplexity']:.3f}", "", ""]
    return cells + (["", f"{row['source_stop_rate']:.0%}", ""] if has_answers else [])


def draw_chart(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """An SVG: bits per weight to the right, divergence upwards on a logarithmic scale, a dot for each file."""
    points = sorted((row["bits_per_weight"], max(row["kl"], _MIN_KL), name) for name, row in rows.items())
    widest = max(point[0] for point in points) * 1.1
    low = math.floor(math.log10(min(point[1] for point in points)))
    high = max(math.ceil(math.log10(max(point[1] for point in points))), low + 1)

    def x(bits: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 20) * bits / widest

    def y(value: float) -> float:
        return (_HEIGHT - _BOTTOM) - (_HEIGHT - _BOTTOM - 20) * (math.log10(value) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for power in range(low, high + 1):
        line = y(10.0**power)
        parts.append(f'<path d="M{_LEFT} {line:.1f}H{_WIDTH - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{line + 4:.1f}" text-anchor="end">1e{power}</text>')
    step = 1 if widest <= 10 else 4
    for bits in range(0, int(widest) + 1, step):
        parts.append(f'<text x="{x(bits):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{bits}</text>')
    parts.append(
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 10}" text-anchor="middle">bits per weight · 每权重比特数</text>'
    )
    parts.append(
        f'<text x="14" y="{_HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 14 {_HEIGHT / 2})">KL</text>'
    )
    for bits, value, name in points:
        color = "#1f6fb4" if rows[name].get("kept", True) else "#999"
        parts.append(f'<circle cx="{x(bits):.1f}" cy="{y(value):.1f}" r="4" fill="{color}"/>')
        parts.append(f'<text x="{x(bits) + 6:.1f}" y="{y(value) - 5:.1f}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
