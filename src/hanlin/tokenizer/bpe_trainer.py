"""Byte pair encoding that goes on from a given segmentation: which neighbors to join next, by what that saves.

Owns the counting. Does not know what a symbol means: who asks says which joins are allowed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

BARRIER = -1


class Join(NamedTuple):
    """`left` and `right` become `symbol`; with `right` None, `left` is a barrier that becomes a symbol of its own."""

    left: int
    right: int | None
    symbol: int
    saved: int
    """How many tokens of the counted words the join saves."""


class MergeLearner:
    """Words as sequences of symbols, in which the most frequent pair of neighbors is joined again and again.

    Classic byte pair encoding (Sennrich et al. 2016, arXiv:1508.07909, algorithm 1) with counts kept up to date at the
    places that a join changes, so that a join costs what it touches. Symbols are numbers from 0; negative numbers are
    barriers that nothing joins. A barrier below -1 may be opened: it then becomes a symbol, as a character that so far
    was spelled in bytes becomes a token.
    """

    def __init__(
        self, words: Sequence[Sequence[int]], counts: Sequence[int], first_new: int, least_saved: int, opening: int = 2
    ) -> None:
        """`words` with their `counts`; new symbols are numbered from `first_new`. A join that saves less than
        `least_saved` tokens is not made. Opening a barrier saves `opening` tokens each time it occurs.

        Memory: about 60 bytes for each symbol of `words`.
        """
        size = sum(map(len, words)) + len(words) + 1
        flat = chain((BARRIER,), chain.from_iterable(chain(word, (BARRIER,)) for word in words))
        self._symbols = np.fromiter(flat, dtype=np.int64, count=size)
        spread = ((0, 1), *((count, len(word) + 1) for word, count in zip(words, counts, strict=True)))
        self._weights = np.fromiter(chain.from_iterable(repeat(*row) for row in spread), dtype=np.int64, count=size)
        self._next = np.arange(1, size + 1, dtype=np.int64)
        self._before = np.arange(-1, size - 1, dtype=np.int64)
        self._next[-1] = size - 1
        self._least = least_saved
        self._new = first_new
        self._base = np.int64(2**31)
        self._saved: dict[int, int] = {}
        self._places: dict[int, Positions] = {}
        self._heap: list[tuple[int, int]] = []
        self._count_pairs(np.arange(size - 1, dtype=np.int64))
        closed = np.flatnonzero(self._symbols < BARRIER)
        self._remember(self._symbols[closed], closed, self._weights[closed] * opening)

    def joins(self, symbol_for: Callable[[int, int | None, int], int | None]) -> Iterator[Join]:
        """The joins, those that save most first; equal ones in the order of their symbols' numbers.

        `symbol_for(left, right, new)` says what they become: `new`, a symbol that exists already, or None to forbid
        the join for good.
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
            places = self._places.pop(key)
            del self._saved[key]
            symbol = symbol_for(left, right, self._new)
            if symbol is None:
                continue
            self._new = max(self._new, symbol + 1)
            if right is None:
                self._open(places, symbol)
            else:
                self._join(places, left, right, symbol)
            yield Join(left, right, symbol, saved)

    def _open(self, places: Positions, symbol: int) -> None:
        self._symbols[places] = symbol
        self._count_pairs(np.union1d(self._before[places], places))

    def _join(self, places: Positions, left: int, right: int, symbol: int) -> None:
        symbols, after, before = self._symbols, self._next, self._before
        first = places[(symbols[places] == left) & (symbols[after[places]] == right)]
        if left == right:  # of "aaa" only the first two join
            first = _without_overlap(first, after)
        second = after[first]
        broken = np.unique(np.concatenate((before[first], first, second)))
        self._forget(broken)
        symbols[first] = symbol
        symbols[second] = BARRIER
        beyond = after[second]
        after[first] = beyond
        before[beyond] = first
        self._count_pairs(np.union1d(before[first], first))

    def _pairs(self, places: Positions) -> tuple[NDArray[np.int64], Positions]:
        """Keys of the pairs that begin at `places`, barriers left out, and where they begin."""
        left, right = self._symbols[places], self._symbols[self._next[places]]
        free = (left >= 0) & (right >= 0)
        return left[free] * self._base + right[free], places[free]

    def _forget(self, places: Positions) -> None:
        keys, places = self._pairs(places)
        for key, saved in zip(*_totals(keys, self._weights[places]), strict=True):
            left = self._saved.get(key)
            if left is None:
                continue
            if left - saved < self._least:
                del self._saved[key]
                del self._places[key]
            else:
                self._saved[key] = left - saved

    def _count_pairs(self, places: Positions) -> None:
        keys, places = self._pairs(places)
        self._remember(keys, places, self._weights[places])

    def _remember(self, keys: NDArray[np.int64], places: Positions, saved: NDArray[np.int64]) -> None:
        if not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        keys, places, saved = keys[order], places[order], saved[order]
        starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        totals = np.add.reduceat(saved, starts)
        ends = np.append(starts[1:], len(keys))
        enough = totals >= self._least
        rows = zip(keys[starts][enough], totals[enough], starts[enough], ends[enough], strict=True)
        for key, total, start, end in ((int(a), int(b), c, d) for a, b, c, d in rows):
            here = places[start:end]
            if key in self._saved:
                total += self._saved[key]
                here = np.union1d(self._places[key], here)
            self._saved[key] = total
            self._places[key] = here
            heapq.heappush(self._heap, (-total, key))


def _totals(keys: NDArray[np.int64], weights: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Each key once, with the sum of its weights."""
    distinct, places = np.unique(keys, return_inverse=True)
    return distinct.tolist(), np.bincount(places, weights=weights, minlength=len(distinct)).astype(np.int64).tolist()


def _without_overlap(first: Positions, after: Positions) -> Positions:
    kept: list[int] = []
    taken = -1
    for place in first.tolist():
        if place != taken:
            kept.append(place)
            taken = int(after[place])
    return np.array(kept, dtype=np.int64)
