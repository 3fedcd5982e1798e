"""Lay (prefix, continuation) pairs out as the fewest rows of token ids whose logits score them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class ScoreRow:
    """Token ids to run, and the pairs scored in them: (pair index, position before the first continuation id,
    continuation).
    """

    ids: tuple[int, ...]
    scored: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        """Every position whose logits are needed, ascending."""
        positions = {start + index for _, start, continuation in self.scored for index in range(len(continuation))}
        return sorted(positions)


def build_score_rows(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[ScoreRow]:
    """Build the rows for `pairs`, in lexicographic order, so that rows with a shared prefix are neighbors.

    The last token of a continuation need not be run. A pair whose tokens are a prefix of another pair's needs no row of
    its own: the four one-letter answers to a question share one row.

        pairs: ([1, 2], [3]), ([1, 2], [4]), ([1, 2], [3, 5])
        rows:  ids [1, 2, 3], which scores all three
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
    """Length of the common prefix of two sequences."""
    shortest = min(len(first), len(second))
    if first[:shortest] == second[:shortest]:
        return shortest
    return next(index for index in range(shortest) if first[index] != second[index])
