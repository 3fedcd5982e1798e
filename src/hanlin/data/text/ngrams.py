"""Hashes of character n-grams, and the fraction of a text that repeated n-grams cover."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import code_points

_WINDOW = 5_000
_CACHE_BLOCK = 8_192
_PRIME = 0x9E3779B97F4A7C15


def hash_ngrams(codes: npt.NDArray[np.uint32], n: int) -> npt.NDArray[np.uint64]:
    """Hash every n-gram of a text: a polynomial modulo 2**64, then mixed (the finalizer of splitmix64, shortened).

    Built from hashes of 1, 2, 4, 8, ... code points, so that the work grows with the logarithm of `n`.

    Args:
        codes: Code points, shape (characters,).
        n: Characters in an n-gram.

    Returns:
        uint64 of shape (max(0, characters - n + 1),): entry i is the hash of `codes[i : i + n]`.

    Example:
        codes of "abcab", n = 2: hashes of ab, bc, ca, ab; the first and the last are equal.
    """
    count = len(codes) - n + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    if count > 2 * _CACHE_BLOCK:  # several passes over blocks that fit the CPU cache are faster
        starts = range(0, count, _CACHE_BLOCK)
        return np.concatenate([hash_ngrams(codes[start : start + _CACHE_BLOCK + n - 1], n) for start in starts])
    block, size = codes.astype(np.uint64), 1
    hashes, hashed = np.zeros(count, dtype=np.uint64), 0
    while True:
        if n & size:
            if hashed:
                hashes *= _power(size)
                hashes += block[hashed : hashed + count]
            else:
                hashes = block[:count].copy()
            hashed += size
        if hashed == n:
            break
        doubled = block[:-size] * _power(size)
        doubled += block[size:]
        block, size = doubled, 2 * size
    mixed = hashes >> np.uint64(30)
    hashes ^= mixed
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(hashes, np.uint64(27), out=mixed)
    hashes ^= mixed
    return hashes


@cache
def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_PRIME, exponent, 1 << 64))


def repeated_ngram_fraction(text: str, n: int, threshold: float = 0.0) -> float:
    """Fraction of characters covered by n-grams that occurred before in the same window of 5,000 characters.

    Args:
        text: Any text.
        n: Characters in an n-gram.
        threshold: A result that cannot exceed it is returned as 0. Counting equal n-grams is faster than locating
            them, and counting equal shorter n-grams, of which there are at least as many, is faster still.
    """
    codes = code_points(text)
    if len(codes) < 4 * n or _max_repeats(codes, n) * n <= threshold * len(codes):
        return 0.0
    hashes = hash_ngrams(codes, n)
    repeats = sum(_count_repeats(hashes[start : start + _WINDOW]) for start in range(0, len(hashes), _WINDOW))
    if repeats * n <= threshold * len(codes):
        return 0.0
    return float(np.count_nonzero(_find_covered(codes, n)) / len(codes))


def longest_copy(text: str, n: int) -> int:
    """Length of the longest run of repeated n-grams, if it is a copy of one earlier part of the text; otherwise 0.

    A text that is written twice has a copy of half its length. In a template with other words in it each time, runs are
    short or put together from several parts, even where they cover as much.
    """
    codes = code_points(text)
    if len(codes) < 2 * n:
        return 0
    gaps = np.flatnonzero(~np.concatenate(([False], _find_covered(codes, n), [False])))
    lengths = np.diff(gaps) - 1
    longest = int(lengths.argmax())
    start, length = int(gaps[longest]), int(lengths[longest])
    return length if 0 <= text.find(text[start : start + length]) < start else 0


def _find_covered(codes: npt.NDArray[np.uint32], n: int) -> npt.NDArray[np.bool_]:
    """Whether each character is in an n-gram that occurred before in the same window, bool of shape (characters,)."""
    hashes = hash_ngrams(codes, n)
    covered = np.zeros(len(codes) + 1, dtype=np.int64)
    for start in range(0, len(hashes), _WINDOW):
        window = hashes[start : start + _WINDOW]
        order = np.argsort(window, kind="stable")
        repeat_starts = order[1:][window[order[1:]] == window[order[:-1]]] + start
        np.add.at(covered, repeat_starts, 1)
        np.add.at(covered, repeat_starts + n, -1)
    return np.cumsum(covered[:-1]) > 0


def _max_repeats(codes: npt.NDArray[np.uint32], n: int) -> int:
    """Upper bound of the repeated n-grams: repeats of their prefixes (of length n / 2 or longer), by unmixed 32-bit
    hashes.
    """
    count, block, size = len(codes) - n + 1, codes, 1
    while 2 * size <= n:
        doubled = block[:-size] * _power32(size)
        doubled += block[size:]
        block, size = doubled, 2 * size
    return sum(_count_repeats(block[start : min(start + _WINDOW, count)]) for start in range(0, count, _WINDOW))


@cache
def _power32(exponent: int) -> np.uint32:
    return np.uint32(pow(_PRIME, exponent, 1 << 32))


def _count_repeats(hashes: npt.NDArray[Any]) -> int:
    """How many hashes equal another one that is counted already."""
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
