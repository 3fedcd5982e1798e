"""Pairs of prefix and continuation laid out as the fewest rows of ids whose logits score them all.

Owns the layout. Does not own running the rows, which each engine does in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class ScoreRow:
    """Ids to run, and for each pair scored in it: the pair's place, the position before its first continuation id, and
    the continuation."""

    ids: tuple[int, ...]
    scored: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        """Every position whose logits are wanted, ascending."""
        positions = {start + index for _, start, continuation in self.scored for index in range(len(continuation))}
        return sorted(positions)


def build_score_rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[ScoreRow]:
    """The rows for `pairs`, in lexicographic order of their ids, so that rows with a common beginning are neighbors.

    The last id of a continuation need not be run. A pair whose ids begin another pair's needs no row of its own: the
    four one-letter answers to a question share one.
    """
    entries = []
    for index, (prefix, continuation) in enumerate(pairs):
        ids = (*prefix, *continuation[:-1])
        entries.append((ids, index, len(prefix) - 1, tuple(continuation)))
    entries.sort(key=lambda row: (row[0], row[1]), reverse=True)
    rows: list[ScoreRow] = []
    for ids, index, start, continuation in entries:
        if not rows or rows[-1].ids[: len(ids)] != ids:
            rows.append(ScoreRow(ids))
        rows[-1].scored.append((index, start, continuation))
    rows.reverse()
    return rows


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids at their beginning two sequences share."""
    shortest = min(len(first), len(second))
    if first[:shortest] == second[:shortest]:
        return shortest
    return next(index for index in range(shortest) if first[index] != second[index])
