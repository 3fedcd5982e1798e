"""Where the stages of a run stand in the picture of its graph: in rows, each below all that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hanlin.web.runs.stages import StageView

NODE_WIDTH, NODE_HEIGHT = 176, 50
GAP_X, GAP_Y, MARGIN = 22, 34, 6


@dataclass(frozen=True, slots=True)
class Node:
    """A stage and the upper left corner of its box, in pixels."""

    stage: StageView
    x: float
    y: float

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1; 0 if that is not known."""
        if self.stage.state == "done":
            return 1.0
        progress = self.stage.progress or {}
        done, total = progress.get("done"), progress.get("total")
        if not isinstance(done, int | float) or not isinstance(total, int | float) or total <= 0:
            return 0.0
        return max(0.0, min(1.0, done / total))


@dataclass(frozen=True, slots=True)
class GraphPicture:
    """The boxes, the lines between them as SVG paths, and the size of the picture in pixels."""

    nodes: tuple[Node, ...]
    edges: tuple[str, ...]
    width: float
    height: float


def lay_out(stages: Sequence[StageView]) -> GraphPicture:
    """Lay out stages, each of which comes after those that it reads.

    A stage stands in the row below the lowest of its inputs, and in its row as near below them as there is room.
    """
    row_of: dict[str, int] = {}
    for stage in stages:
        row_of[stage.name] = max((row_of[name] + 1 for name in stage.inputs if name in row_of), default=0)
    rows: list[list[StageView]] = [[] for _ in range(max(row_of.values(), default=-1) + 1)]
    for stage in stages:
        rows[row_of[stage.name]].append(stage)
    widest = max((len(row) for row in rows), default=1)
    width = widest * NODE_WIDTH + (widest - 1) * GAP_X + 2 * MARGIN
    center: dict[str, float] = {}
    nodes: list[Node] = []
    for index, row in enumerate(rows):

        def wanted(stage: StageView) -> float:
            above = [center[name] for name in stage.inputs if name in center]
            return sum(above) / len(above) if above else width / 2

        row.sort(key=wanted)
        left = width / 2 - (len(row) * NODE_WIDTH + (len(row) - 1) * GAP_X) / 2
        for position, stage in enumerate(row):
            x = left + position * (NODE_WIDTH + GAP_X)
            center[stage.name] = x + NODE_WIDTH / 2
            nodes.append(Node(stage, x, MARGIN + index * (NODE_HEIGHT + GAP_Y)))
    at = {node.stage.name: node for node in nodes}
    edges = [
        _edge(at[name], node) for node in nodes for name in node.stage.inputs if name in at and name != node.stage.name
    ]
    height = len(rows) * NODE_HEIGHT + max(0, len(rows) - 1) * GAP_Y + 2 * MARGIN
    return GraphPicture(tuple(nodes), tuple(edges), width, height)


def _edge(above: Node, below: Node) -> str:
    x1, y1 = above.x + NODE_WIDTH / 2, above.y + NODE_HEIGHT
    x2, y2 = below.x + NODE_WIDTH / 2, below.y
    bend = (y2 - y1) / 2
    return f"M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
