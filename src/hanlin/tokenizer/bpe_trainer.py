"""A byte pair encoding trainer that continues from a given segmentation.

It counts and merges; the caller says which merges are allowed, so it knows nothing about what a symbol means.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int32]
"""Indices of symbols; 32 bits hold those of 6 GB of text, and a merge moves half as much memory as with 64."""

BARRIER = -1


class Merge(NamedTuple):
    """`left` and `right` become `symbol`. If `right` is None, `left` is a barrier that becomes a symbol of its own."""

    left: int
    right: int | None
    symbol: int
    saved: int
    """How many tokens of the counted words the join saves."""


class BpeTrainer:
    """Words as sequences of symbols, in which the most frequent pair of neighbors is merged again and again.

    Classic byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1), with counts updated only where a
    merge changes something, so that a merge costs what it touches. Symbols are numbers from 0. Negative numbers are
    barriers that nothing merges with; a barrier below -1 may be opened, as when a character that was spelled in bytes
    becomes a token.
    """

    def __init__(
        self,
        words: Iterable[Sequence[int]],
        counts: Sequence[int],
        first_new: int,
        min_saved: int,
        open_savings: int = 2,
    ) -> None:
        """Count the pairs of all words.

        Args:
            words: Words as sequences of symbols.
            counts: How often each word occurs, [words].
            first_new: The number of the first new symbol.
            min_saved: Merges that save fewer tokens are not made.
            open_savings: Tokens that opening a barrier saves each time it occurs.

        Memory: about 60 bytes for each symbol of `words`, which are read once.
        """
        symbols, lengths = array("i", (BARRIER,)), array("q", (1,))
        for word in words:
            symbols.extend(word)
            symbols.append(BARRIER)
            lengths.append(len(word) + 1)
        size = len(symbols)
        self._symbols = np.array(symbols, dtype=np.int32)
        self._weights = np.repeat(np.array([0, *counts], dtype=np.int64), np.array(lengths))
        self._next = np.arange(1, size + 1, dtype=np.int32)
        self._previous = np.arange(-1, size - 1, dtype=np.int32)
        self._next[-1] = size - 1
        self._min_saved = min_saved
        self._next_symbol = first_new
        self._base = np.int64(2**31)
        self._saved: dict[int, int] = {}
        self._positions: dict[int, Positions] = {}
        self._heap: list[tuple[int, int]] = []
        self._count_pairs(np.arange(size - 1, dtype=np.int32))
        barriers = np.flatnonzero(self._symbols < BARRIER).astype(np.int32)
        self._add_pairs(self._symbols[barriers].astype(np.int64), barriers, self._weights[barriers] * open_savings)

    def merges(self, symbol_for: Callable[[int, int | None, int], int | None]) -> Iterator[Merge]:
        """Yield the merges, those that save most first; equal ones in the order of their symbols.

        `symbol_for(left, right, new)` returns what they become: `new`, an existing symbol, or None to forbid the merge.
        """
        while self._heap:
            priority, key = heapq.heappop(self._heap)
            saved = self._saved.get(key)
            if saved is None or saved > -priority:
                continue
            if saved < -priority:
                heapq.heappush(self._heap, (-saved, key))
                continue
            left, right = (key, None) if key < 0 else divmod(key, int(self._base))
            positions = self._positions.pop(key)
            del self._saved[key]
            symbol = symbol_for(left, right, self._next_symbol)
            if symbol is None:
                continue
            self._next_symbol = max(self._next_symbol, symbol + 1)
            if right is None:
                self._open_barrier(positions, symbol)
            else:
                self._apply_merge(positions, left, right, symbol)
            yield Merge(left, right, symbol, saved)

    def _open_barrier(self, positions: Positions, symbol: int) -> None:
        self._symbols[positions] = symbol
        self._count_pairs(_distinct(self._previous[positions], positions))

    def _apply_merge(self, positions: Positions, left: int, right: int, symbol: int) -> None:
        symbols, after, previous = self._symbols, self._next, self._previous
        first = positions[(symbols[positions] == left) & (symbols[after[positions]] == right)]
        if left == right:  # of "aaa" only the first two join
            first = _without_overlap(first, after)
        second = after[first]
        self._remove_pairs(_distinct(previous[first], first, second))
        symbols[first] = symbol
        symbols[second] = BARRIER
        beyond = after[second]
        after[first] = beyond
        previous[beyond] = first
        self._count_pairs(_distinct(previous[first], first))

    def _pairs(self, positions: Positions) -> tuple[NDArray[np.int64], Positions]:
        """Keys of the pairs that begin at `positions`, barriers left out, and where they begin."""
        left, right = self._symbols[positions], self._symbols[self._next[positions]]
        mergeable = (left >= 0) & (right >= 0)
        return left[mergeable] * self._base + right[mergeable], positions[mergeable]

    def _remove_pairs(self, positions: Positions) -> None:
        keys, positions = self._pairs(positions)
        for key, saved in zip(*_sum_by_key(keys, self._weights[positions]), strict=True):
            left = self._saved.get(key)
            if left is None:
                continue
            if left - saved < self._min_saved:
                del self._saved[key]
                del self._positions[key]
            else:
                self._saved[key] = left - saved

    def _count_pairs(self, positions: Positions) -> None:
        keys, positions = self._pairs(positions)
        self._add_pairs(keys, positions, self._weights[positions])

    def _add_pairs(self, keys: NDArray[np.int64], positions: Positions, saved: NDArray[np.int64]) -> None:
        if not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        keys, positions, saved = keys[order], positions[order], saved[order]
        del order
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        totals = np.add.reduceat(saved, starts)
        ends = np.append(starts[1:], len(keys))
        enough = totals >= self._min_saved
        rows = zip(keys[starts][enough], totals[enough], starts[enough], ends[enough], strict=True)
        for key, total, start, end in ((int(a), int(b), c, d) for a, b, c, d in rows):
            pair_positions = positions[start:end]
            if key in self._saved:
                total += self._saved[key]
                pair_positions = _distinct(self._positions[key], pair_positions)
            self._saved[key] = total
            self._positions[key] = pair_positions
            heapq.heappush(self._heap, (-total, key))


def _distinct(*parts: Positions) -> Positions:
    """The distinct values of all parts in ascending order. Each part is in that order, so a merge sort reads them once;
    `np.unique` hashes them first.
    """
    values = np.sort(np.concatenate(parts), kind="stable")
    is_first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    return values[is_first]


def _sum_by_key(keys: NDArray[np.int64], weights: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Each distinct key with the sum of its weights, in ascending order."""
    if not len(keys):
        return [], []
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[starts].tolist(), np.add.reduceat(weights[order], starts).tolist()


def _without_overlap(first: Positions, after: Positions) -> Positions:
    starts: list[int] = []
    consumed = -1
    for position in first.tolist():
        if position != consumed:
            starts.append(position)
            consumed = int(after[position])
    return np.array(starts, dtype=np.int32)
