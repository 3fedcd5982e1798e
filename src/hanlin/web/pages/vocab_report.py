"""The pictures of `hanlin vocab report`: bars of characters per token by genre, and the curve of an extension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BAR_HEIGHT, BAR_GAP, LABEL_WIDTH, BAR_WIDTH = 16, 14, 120, 480.0
LINE_WIDTH, LINE_HEIGHT = 560.0, 200.0
LABEL_CHARACTERS = 9
"""Characters of a genre's name that fit before its bars if they are full-width; the table has the whole name."""
COLORS = 6
"""Colors of the page, which bars and lines take in turn."""


def draw_bars(tokenizers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bars in groups, one group for each genre with a bar for each tokenizer.

    Returns:
        `groups` with their name, `y` and `bars` (`y`, `width`, `color`, `label`), and the `height` of them all.
    """
    genres = list(tokenizers[0]["texts"])
    highest = max(row["texts"][genre]["characters_per_token"] for row in tokenizers for genre in genres) or 1.0
    group_height = BAR_HEIGHT * len(tokenizers) + BAR_GAP
    groups = []
    for index, genre in enumerate(genres):
        top = index * group_height
        bars = []
        for bar_index, row in enumerate(tokenizers):
            figure = row["texts"][genre]
            bars.append(
                {
                    "y": top + bar_index * BAR_HEIGHT,
                    "width": round(figure["characters_per_token"] / highest * BAR_WIDTH, 1),
                    "color": bar_index % COLORS,
                    "label": f"{figure['characters_per_token']:.3f}"
                    + (f" ({figure['gain_percent']:+.1f} %)" if bar_index else ""),
                    "title": row["name"],
                }
            )
        name = genre if len(genre) <= LABEL_CHARACTERS else genre[: LABEL_CHARACTERS - 1] + "…"
        groups.append({"name": name, "y": top + BAR_HEIGHT * len(tokenizers) / 2, "bars": bars})
    return {"groups": groups, "height": group_height * len(genres), "x": LABEL_WIDTH, "bar_height": BAR_HEIGHT - 2}


def draw_growth(growth: Mapping[str, Any]) -> dict[str, Any]:
    """Lines of characters per token over new entries, one for each genre, in a box of `LINE_WIDTH` by `LINE_HEIGHT`.

    Returns:
        `lines` with name, color, `points` and the `last` value, the `x` of the size that pays (None if no size does),
        and the `low` and `high` ends of the vertical axis.
    """
    points, entries = growth["points"], growth["new_entries"]
    values = [value for point in points for value in point["characters_per_token"].values()]
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    lines = []
    for index, name in enumerate(points[0]["characters_per_token"]):
        corners = [
            (point["entries"] / entries * LINE_WIDTH, (high - point["characters_per_token"][name]) / spread)
            for point in points
        ]
        lines.append(
            {
                "name": name,
                "color": index % COLORS,
                "points": " ".join(f"{x:.1f},{y * LINE_HEIGHT:.1f}" for x, y in corners),
                "end": round(corners[-1][1] * LINE_HEIGHT, 1),
                "last": points[-1]["characters_per_token"][name],
            }
        )
    pays = growth["pays"]
    return {
        "lines": lines,
        "pays": round(pays / entries * LINE_WIDTH, 1) if pays else None,
        "low": low,
        "high": high,
        "width": LINE_WIDTH,
        "height": LINE_HEIGHT,
    }
