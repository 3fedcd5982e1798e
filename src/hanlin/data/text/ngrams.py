"""Rolling hashes of n-grams, and how often they repeat."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import code_points

_WINDOW = 5_000


_CACHE_BLOCK = 8_192


_PRIME = 0x9E3779B97F4A7C15


def hash_ngrams(codes: npt.NDArray[np.uint32], length: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every `length` neighboring code points: a polynomial, well mixed.

    Built from the hashes of 1, 2, 4, 8, ... neighbors, so that the work grows with the logarithm of `length`.
    """
    count = len(codes) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    if (
        count > 2 * _CACHE_BLOCK
    ):  # several passes over what fits into the processor's cache are faster than over all of it
        starts = range(0, count, _CACHE_BLOCK)
        return np.concatenate(
            [hash_ngrams(codes[start : start + _CACHE_BLOCK + length - 1], length) for start in starts]
        )
    block, size = codes.astype(np.uint64), 1
    hashes, done = np.zeros(count, dtype=np.uint64), 0
    while True:
        if length & size:
            if done:
                hashes *= _power(size)
                hashes += block[done : done + count]
            else:
                hashes = block[:count].copy()
            done += size
        if done == length:
            break
        longer = block[:-size] * _power(size)
        longer += block[size:]
        block, size = longer, 2 * size
    mixed = hashes >> np.uint64(30)
    hashes ^= mixed
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(hashes, np.uint64(27), out=mixed)
    hashes ^= mixed
    return hashes


@cache
def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_PRIME, exponent, 1 << 64))


def repeated_ngram_fraction(text: str, length: int, enough: float = 0.0) -> float:
    """The share of characters covered by phrases of `length` characters that occurred before in the same window.

    0 when it cannot be more than `enough`, which a count of equal phrases tells faster than where they are, and a count
    of equal shorter phrases, of which there are at least as many, faster still.
    """
    codes = code_points(text)
    if len(codes) < 4 * length or _max_repeats(codes, length) * length <= enough * len(codes):
        return 0.0
    hashes = hash_ngrams(codes, length)
    windows = [(start, hashes[start : start + _WINDOW]) for start in range(0, len(hashes), _WINDOW)]
    again = [_count_repeats(window) for _, window in windows]
    if sum(again) * length <= enough * len(codes):
        return 0.0
    covered = np.zeros(len(codes) + 1, dtype=np.int64)
    for (start, window), count in zip(windows, again, strict=True):
        if count:
            order = np.argsort(window, kind="stable")
            later = order[1:][window[order[1:]] == window[order[:-1]]] + start
            np.add.at(covered, later, 1)
            np.add.at(covered, later + length, -1)
    return float(np.count_nonzero(np.cumsum(covered[:-1])) / len(codes))


def _max_repeats(codes: npt.NDArray[np.uint32], length: int) -> int:
    """At least as many as there are phrases of `length` that occurred before in their window: the same of their
    beginnings, half as long or longer, by hashes of 32 bits that are not mixed."""
    count, block, size = len(codes) - length + 1, codes, 1
    while 2 * size <= length:
        longer = block[:-size] * _power32(size)
        longer += block[size:]
        block, size = longer, 2 * size
    return sum(_count_repeats(block[start : min(start + _WINDOW, count)]) for start in range(0, count, _WINDOW))


@cache
def _power32(exponent: int) -> np.uint32:
    return np.uint32(pow(_PRIME, exponent, 1 << 32))


def _count_repeats(hashes: npt.NDArray[Any]) -> int:
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
