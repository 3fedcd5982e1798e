"""The pictures of a `long_context` stage: a cell for each length and depth of a passkey, and perplexity by position."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

CELL_WIDTH, CELL_HEIGHT = 46, 22
LINE_WIDTH, LINE_HEIGHT = 320.0, 110.0


def draw_long_context(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the page draws of a stage's metrics; None for other stages.

    Returns:
        `cells` with `x`, `y`, the share `found` and a title; `lengths` and `depths` as labels with their places; the
        `width` and `height` of the cells; and `line`, the points of perplexity over the logarithm of the position in a
        box of `LINE_WIDTH` by `LINE_HEIGHT`, with its `first` and `last` values, or None.
    """
    passkey = metrics.get("passkey")
    if not isinstance(passkey, Mapping) or not passkey.get("cells"):
        return None
    lengths = sorted({cell["length"] for cell in passkey["cells"]})
    depths = sorted({cell["depth"] for cell in passkey["cells"]})
    columns = {length: index * CELL_WIDTH for index, length in enumerate(lengths)}
    rows = {depth: index * CELL_HEIGHT for index, depth in enumerate(depths)}
    return {
        "found": passkey["found"],
        "cells": [
            {
                "x": columns[cell["length"]],
                "y": rows[cell["depth"]],
                "found": cell["found"],
                "title": f"{cell['length']:,} · {cell['depth']:.0%}: {cell['found']:.0%}",
            }
            for cell in passkey["cells"]
        ],
        "lengths": [(f"{length:,}", column + CELL_WIDTH / 2) for length, column in columns.items()],
        "depths": [(f"{depth:.0%}", row + CELL_HEIGHT / 2) for depth, row in rows.items()],
        "width": CELL_WIDTH * len(lengths),
        "height": CELL_HEIGHT * len(depths),
        "cell": (CELL_WIDTH - 2, CELL_HEIGHT - 2),
        "line": _line(metrics.get("positions") or []),
    }


def _line(positions: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The polyline of perplexity: x is the logarithm of the middle of a range of positions, y that of perplexity."""
    if len(positions) < 2:
        return None
    ends = [row["start"] for row in positions[1:]] + [2 * max(1, positions[-1]["start"])]
    xs = [math.log(max(1, (row["start"] + end) / 2)) for row, end in zip(positions, ends, strict=True)]
    ys = [math.log(row["perplexity"]) for row in positions]
    width, low, spread = xs[-1] - xs[0], min(ys), (max(ys) - min(ys)) or 1.0
    points = [
        f"{(x - xs[0]) / width * LINE_WIDTH:.1f},{LINE_HEIGHT - (y - low) / spread * LINE_HEIGHT:.1f}"
        for x, y in zip(xs, ys, strict=True)
    ]
    values = [row["perplexity"] for row in positions]
    return {
        "points": " ".join(points),
        "first": values[0],
        "last": values[-1],
        "start": positions[-1]["start"],
        "width": LINE_WIDTH,
        "height": LINE_HEIGHT,
    }
