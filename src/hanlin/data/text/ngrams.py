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
_INDEX_MASK = np.uint64((1 << 13) - 1)
_WINDOW_INDEX = np.arange(_WINDOW, dtype=np.uint64)


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
        threshold: A result that cannot exceed it is returned as 0: counting equal shorter n-grams is faster than
            locating equal n-grams.
    """
    codes = code_points(text)
    if len(codes) < 4 * n or _max_covered(codes, n) <= threshold * len(codes):
        return 0.0
    starts = _find_repeats(hash_ngrams(codes, n))
    if len(starts) * n <= threshold * len(codes):
        return 0.0
    covered = n + int(np.minimum(np.diff(starts), n).sum()) if len(starts) else 0
    return covered / len(codes)


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
    starts = _find_repeats(hash_ngrams(codes, n))
    edges = np.bincount(starts, minlength=len(codes) + 1) - np.bincount(starts + n, minlength=len(codes) + 1)
    return np.cumsum(edges[:-1]) > 0


def _find_repeats(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Positions of the hashes that occurred before in the same window of 5,000, in order.

    The position in the window replaces the lowest 13 bits of each hash, so that sorting the hashes, which is several
    times as fast as sorting positions by them, brings equal ones together in their order:

        hashes      7 9 7 7
        with index  7|0 9|1 7|2 7|3
        sorted      7|0 7|2 7|3 9|1     repeats at 2 and 3
    """
    keys = hashes & ~_INDEX_MASK
    found = []
    for start in range(0, len(keys), _WINDOW):
        window = keys[start : start + _WINDOW]
        window |= _WINDOW_INDEX[: len(window)]
        window.sort()
        repeats = window[1:][window[1:] ^ window[:-1] <= _INDEX_MASK] & _INDEX_MASK
        repeats.sort()
        found.append(repeats.astype(np.int64) + start)
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _max_covered(codes: npt.NDArray[np.uint32], n: int) -> float:
    """Upper bound of the characters that repeated n-grams cover, from repeats of shorter m-grams.

    Where a run of `length` characters is covered, its first `length - m + 1` m-grams are repeats, at least
    `n - m + 1` of them. With n = 15 and m = 4, three quarters of the characters: half of an ordinary text is less.
    """
    m = 1 << (n // 3).bit_length() - 1
    hashes = hash_short_ngrams(codes, m)
    window = _WINDOW + n - m  # what an n-gram at the end of a window begins with
    repeats = sum(_count_repeats(hashes[start : start + window]) for start in range(0, len(codes) - n + 1, _WINDOW))
    return repeats * n / (n - m + 1)


def hash_short_ngrams(codes: npt.NDArray[np.uint32], n: int) -> npt.NDArray[np.uint32]:
    """Hash every n-gram of a text with 32 bits, not mixed: half the cost of `hash_ngrams`, for counting equal ones.

    Args:
        codes: Code points, shape (characters,).
        n: Characters in an n-gram, a power of 2.

    Returns:
        uint32 of shape (max(0, characters - n + 1),).
    """
    hashes, size = codes, 1
    while size < n:
        doubled = hashes[:-size] * _power32(size)
        doubled += hashes[size:]
        hashes, size = doubled, 2 * size
    return hashes


@cache
def _power32(exponent: int) -> np.uint32:
    return np.uint32(pow(_PRIME, exponent, 1 << 32))


def _count_repeats(hashes: npt.NDArray[Any]) -> int:
    """How many hashes equal another one that is counted already."""
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
