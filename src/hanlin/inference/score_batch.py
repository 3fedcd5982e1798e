"""Lay (prefix, continuation) pairs out as the fewest rows of token ids whose logits score them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


@dataclass(slots=True)
class PackedRow:
    """Rows with a shared prefix as one row: the prefix once, then what each adds, which sees the prefix and itself.

        rows:       [1, 2, 3, 4], [1, 2, 5]
        ids:        1 2 3 4 5
        positions:  0 1 2 3 2
        branches:   0 0 1 1 2

    Attributes:
        ids: Token ids.
        positions: The position of each id in its own row.
        branches: 0 for the prefix, then the number of the row that an id belongs to, from 1.
        scored: (pair index, indices into `ids` whose logits predict the continuation, continuation).
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    scored: list[tuple[int, list[int], tuple[int, ...]]] = field(default_factory=list)


def pack_rows(rows: Sequence[ScoreRow], prefix_length: int) -> PackedRow:
    """Pack rows that share their first `prefix_length` ids."""
    packed = PackedRow(list(rows[0].ids[:prefix_length]), list(range(prefix_length)), [0] * prefix_length)
    for branch, row in enumerate(rows, start=1):
        offset = len(packed.ids) - prefix_length
        packed.ids += row.ids[prefix_length:]
        packed.positions += range(prefix_length, len(row.ids))
        packed.branches += [branch] * (len(row.ids) - prefix_length)
        for index, start, continuation in row.scored:
            places = range(start, start + len(continuation))
            indices = [place if place < prefix_length else place + offset for place in places]
            packed.scored.append((index, indices, continuation))
    return packed


def group_by_prefix(rows: Sequence[ScoreRow]) -> Iterator[list[ScoreRow]]:
    """Groups of neighboring rows that share at least half of each with the one before."""
    group: list[ScoreRow] = []
    for row in rows:
        if group and 2 * common_length(group[-1].ids, row.ids) < len(row.ids):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def shared_length(rows: Sequence[ScoreRow]) -> int:
    """Length of the prefix that all rows of a sorted group share; shorter if logits of it are needed."""
    first_needed = min(start for row in rows for _, start, _ in row.scored)
    return min(common_length(rows[0].ids, rows[-1].ids), first_needed)


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix of two sequences."""
    shortest = min(len(first), len(second))
    if first[:shortest] == second[:shortest]:
        return shortest
    return next(index for index in range(shortest) if first[index] != second[index])
