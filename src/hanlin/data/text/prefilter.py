"""One glance at a whole text that tells which rules have something to look for in it.

Owns the glance, not what a rule makes of what it finds. Most texts hold next to nothing that a rule would change; to
run every rule's pattern over all of them costs far more than to look once, with a few operations on whole arrays.

A sign is a set of strings of which three characters are looked at. Each sign owns a bit at each of three
places of a table of characters; a string may begin where the table's entries for three neighbors, shifted onto one
another, have a bit in common (the idea of Hyperscan's Teddy, Wang et al. 2019, section 4.3). Strings that share a bit
mix, so the answer is never no where one of them stands, and seldom yes where none does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import FIRST_SUPPLEMENTARY, table_indices

_WINDOW, _BITS = 3, 21
_BLOCK = 1 << 13
_SHIFT = np.uint64(_BITS)
_PREFILTERS: list[Prefilter] = []
_NEXT_BIT = count()

Bits = npt.NDArray[np.uint64]
Masks = npt.NDArray[np.uint32]


class Prefilter:
    """Says of a text whether one of some strings may be in it.

    A string is a sequence of places, each with all characters that may stand there: a word, or `["ab", "c"]` for ac and
    bc. `bits` spreads many strings over so many bits. Signs are made when their modules are imported.
    """

    def __init__(self, strings: Iterable[Sequence[str]], bits: int = 1) -> None:
        self._strings = sorted({_select_window(string) for string in strings})
        self._bits = [next(_NEXT_BIT) for _ in range(bits)]
        assert self._bits[-1] < _BITS, "no bit is left for another sign"
        self._mask = np.uint32(sum(1 << bit for bit in self._bits))
        _PREFILTERS.append(self)

    @classmethod
    def from_char_class(cls, characters: re.Pattern[str]) -> Prefilter:
        """A sign of the characters that a pattern fits."""
        return cls([["".join(characters.findall(_all_chars()))]])

    def may_match(self, text: str) -> bool:
        """False where none of the strings is in the text."""
        return bool(_scan(text).all & self._mask)

    def count_candidates(self, text: str, end: int | None = None) -> int:
        """At how many of the first `end` places one of the strings may begin; never fewer than there are."""
        seen = _scan(text)
        return int(np.count_nonzero(seen.at[:end] & self._mask)) if seen.all & self._mask else 0

    def fill_table(self, table: Bits) -> None:
        size = -(-len(self._strings) // len(self._bits))
        anything = 0
        for number, string in enumerate(self._strings):
            first = 1 << self._bits[number // size]
            for place, characters in enumerate(string[:_WINDOW]):
                codes = np.fromiter(map(ord, characters), np.int64)
                table[np.minimum(codes, FIRST_SUPPLEMENTARY)] |= np.uint64(first << (_BITS * place))
            for place in range(len(string), _WINDOW):
                anything |= first << (_BITS * place)
        table |= np.uint64(anything)


def _select_window(string: Sequence[str]) -> tuple[str, ...]:
    """Three neighbors of a string: those that are the least like English, for what is rare in Chinese is common there.

    Two strings that do not overlap in a text never have them at the same place, so that counts stay right.
    """
    threes = [tuple(string[at : at + _WINDOW]) for at in range(max(1, len(string) - _WINDOW + 1))]
    return max(threes, key=lambda three: sum(not place.isascii() for place in three))


@cache
def _all_chars() -> str:
    return "".join(map(chr, range(FIRST_SUPPLEMENTARY)))


def find_composing_chars() -> str:
    """The characters of which a text that is not in NFC has at least one (Unicode Standard Annex 15, section 9): those
    that NFC changes on their own, those that combine, and those that one before them may take in."""
    candidates = [
        char for low, high in ((0x300, 0x3400), (0xF900, FIRST_SUPPLEMENTARY)) for char in map(chr, range(low, high))
    ]
    pairs = [parts for char in candidates if len(parts := unicodedata.decomposition(char).split()) == 2]
    taken_in = {chr(int(second, 16)) for first, second in pairs if not first.startswith("<")}
    changed = {char for char in candidates if unicodedata.combining(char) or not unicodedata.is_normalized("NFC", char)}
    hangul = set(map(chr, range(0x1161, 0x11C3)))
    return "".join(sorted(taken_in | changed | hangul | {chr(FIRST_SUPPLEMENTARY)}))


class _Scan(NamedTuple):
    at: Masks
    all: np.uint32


@lru_cache(maxsize=2)
def _scan(text: str) -> _Scan:
    table, codes = _table(len(_PREFILTERS)), table_indices(text)
    at = np.empty(len(codes), dtype=np.uint32)
    for start in range(0, len(codes), _BLOCK):  # several passes over what fits into the processor's cache
        block = codes[start : start + _BLOCK + _WINDOW - 1]
        size = min(_BLOCK, len(codes) - start)
        found = np.empty(size + _WINDOW - 1, dtype=np.uint64)
        table.take(block, mode="clip", out=found[: len(block)])
        found[len(block) :] = table[0]  # what stands after the end fits a string that is shorter than three
        both = found[2:] >> _SHIFT
        both &= found[1:-1]
        both >>= _SHIFT
        both &= found[:-2]
        at[start : start + size] = both  # the lowest bits; what lies above them is no sign's
    return _Scan(at, np.bitwise_or.reduce(at))


@cache
def _table(signs: int) -> Bits:
    """For each character the bits that it may have a part in, for each place; made anew when a sign is added."""
    table = np.zeros(FIRST_SUPPLEMENTARY + 1, dtype=np.uint64)
    for sign in _PREFILTERS[:signs]:
        sign.fill_table(table)
    return table
