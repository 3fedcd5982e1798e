"""Measures of a text that rules and the search for copies share: code points, kinds of characters, hashes, repetition.

Owns numbers, no judgement. All counts are of characters, for Chinese has no words to count.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

_WINDOW = 5_000
_CACHED = 8_192
_PRIME = 0x9E3779B97F4A7C15


@lru_cache(maxsize=2)
def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text, one number each (half characters included)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@lru_cache(maxsize=4)
def profile(text: str) -> tuple[int, int, int, int, int, int, int]:
    """How many characters are Han, Latin letters, other letters, digits, common punctuation, symbols, blanks."""
    table = _kinds()
    kinds = table.take(code_points(text), mode="clip")
    if len(kinds) < 10_000:
        packed = kinds.tobytes()
        return tuple(packed.count(kind) for kind in range(7))  # type: ignore[return-value]
    return tuple(int(np.count_nonzero(kinds == kind)) for kind in range(7))  # type: ignore[return-value]


_COMMON_POINTS = ".,;:?!'\"()-，。、；：？！“”‘’（）《》〈〉「」『』【】…—·～"


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    kinds = np.full(0x20001, 5, dtype=np.uint8)
    for code in range(0x20000):
        category = unicodedata.category(chr(code))
        if category[0] in "LM":
            kinds[code] = 2
        elif category[0] == "N":
            kinds[code] = 3
        elif category[0] == "Z" or code in (9, 10, 13):
            kinds[code] = 6
    for low, high in ((0x41, 0x5B), (0x61, 0x7B), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x250), (0x1E00, 0x1F00)):
        kinds[low:high] = 1
    for low, high in ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00)):
        kinds[low:high] = 0
    kinds[0x20000] = 0  # stands for all above: the supplementary ideographic planes
    kinds[[ord(char) for char in _COMMON_POINTS]] = 4
    return kinds


def rolling_hashes(codes: npt.NDArray[np.uint32], length: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every `length` neighbouring code points: a polynomial, well mixed.

    Built from the hashes of 1, 2, 4, 8, ... neighbours, so that the work grows with the logarithm of `length`.
    """
    count = len(codes) - length + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    if count > 2 * _CACHED:  # several passes over what fits into the processor's cache are faster than over all of it
        starts = range(0, count, _CACHED)
        return np.concatenate([rolling_hashes(codes[start : start + _CACHED + length - 1], length) for start in starts])
    block, size = codes.astype(np.uint64), 1
    hashes, done = np.zeros(count, dtype=np.uint64), 0
    while True:
        if length & size:
            hashes *= _power(size)
            hashes += block[done : done + count]
            done += size
        if done == length:
            break
        block = block[:-size] * _power(size) + block[size:]
        size *= 2
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    return hashes


@cache
def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_PRIME, exponent, 1 << 64))


def repetition(text: str, length: int, enough: float = 0.0) -> float:
    """The share of characters covered by phrases of `length` characters that occurred before in the same window.

    0 when it cannot be more than `enough`, which a count of equal phrases tells faster than where they are.
    """
    codes = code_points(text)
    if len(codes) < 4 * length:
        return 0.0
    hashes = rolling_hashes(codes, length)
    windows = [(start, hashes[start : start + _WINDOW]) for start in range(0, len(hashes), _WINDOW)]
    again = [_repeats(window) for _, window in windows]
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


def _repeats(hashes: npt.NDArray[np.uint64]) -> int:
    ordered = np.sort(hashes)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))
