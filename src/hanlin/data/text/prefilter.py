"""A prefilter over a whole text that tells which rules have something to look for in it.

Most texts contain next to nothing that a rule would change. Running every rule's pattern over all of them costs far
more than one scan with a few operations on whole arrays.

A prefilter is a set of strings, of which a window of three characters is compared. Each prefilter has one or more of
21 bits. A table gives for each character a 64-bit mask: bits 0-20 if it may be the first character of a window, bits
21-41 the second, bits 42-62 the third. A window may begin at position i where the three masks, shifted onto one
another, have a bit in common (the idea of Hyperscan's Teddy, Wang et al. 2019, section 4.3):

    text      a        b        c
    mask      first    second   third
    result    table[a] & (table[b] >> 21) & (table[c] >> 42)

Strings that share a bit mix, so the answer is never no if one of them is in the text, and seldom yes if none is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import FIRST_SUPPLEMENTARY, code_points

_WINDOW, _BITS = 3, 21
_BLOCK = 1 << 13
_WEIGHT_BITS, _FILTER_BITS = 20, 16
_SHIFT = np.uint64(_BITS)
_PREFILTERS: list[Prefilter] = []
_NEXT_BIT = count()

Table = npt.NDArray[np.uint64]
Masks = npt.NDArray[np.uint32]


class Prefilter:
    """Tells whether one of some strings may be in a text; prefilters are made when their modules are imported.

    Args:
        strings: Each a sequence of character sets, one for each position: a word, or `["ab", "c"]` for ac and bc.
        bits: Bits to spread the strings over; more of them give fewer false candidates. All prefilters together have
            21.
    """

    def __init__(self, strings: Iterable[Sequence[str]], bits: int = 1) -> None:
        self._strings = sorted({_select_window(string) for string in strings}, key=_rank)
        self._bits = [next(_NEXT_BIT) for _ in range(bits)]
        assert self._bits[-1] < _BITS, "no bit is left for another prefilter"
        self._bit_set = sum(1 << bit for bit in self._bits)
        self._mask = np.uint32(self._bit_set)
        _PREFILTERS.append(self)

    @classmethod
    def from_char_class(cls, characters: re.Pattern[str]) -> Prefilter:
        """Make a prefilter of all single characters that a pattern matches."""
        return cls([["".join(characters.findall(_all_chars()))]])

    def may_match(self, text: str, end: int | None = None) -> bool:
        """False if none of the strings is in the text, or none begins before `end`."""
        scan = _scan(text)
        if end is None or not scan.any & self._bit_set:
            return scan.any & self._bit_set != 0
        return int(np.bitwise_or.reduce(scan.masks[:end])) & self._bit_set != 0

    def count_candidates(self, text: str, end: int | None = None) -> int:
        """Count the positions before `end` at which one of the strings may begin; never fewer than there are."""
        scan = _scan(text)
        return int(np.count_nonzero(scan.masks[:end] & self._mask)) if scan.any & self._bit_set else 0

    def find_candidates(self, text: str) -> npt.NDArray[np.bool_]:
        """Tell for each position whether one of the strings may begin there, bool of shape (characters,)."""
        return (_scan(text).masks & self._mask) != 0

    def find_starts(self, text: str) -> list[int]:
        """The positions of `find_candidates`, in order."""
        return np.flatnonzero(self.find_candidates(text)).tolist()  # type: ignore[no-any-return]

    def fill_table(self, table: Table) -> None:
        """Set the bits of this prefilter's strings in a table of masks, shape (FIRST_SUPPLEMENTARY + 1,)."""
        strings_per_bit = -(-len(self._strings) // len(self._bits))
        any_char = 0
        for index, string in enumerate(self._strings):
            bit = 1 << self._bits[index // strings_per_bit]
            for position, characters in enumerate(string[:_WINDOW]):
                codes = np.fromiter(map(ord, characters), np.int64)
                table[np.minimum(codes, FIRST_SUPPLEMENTARY)] |= np.uint64(bit << (_BITS * position))
            for position in range(len(string), _WINDOW):
                any_char |= bit << (_BITS * position)
        table |= np.uint64(any_char)


def _select_window(string: Sequence[str]) -> tuple[str, ...]:
    """The three neighbors in a string that are least like ASCII, which is rare in Chinese and common in English.

    Two strings that do not overlap in a text never have their windows at the same position, so that counts stay right.
    """
    windows = [tuple(string[start : start + _WINDOW]) for start in range(max(1, len(string) - _WINDOW + 1))]
    return max(windows, key=lambda window: sum(not characters.isascii() for characters in window))


def _rank(string: Sequence[str]) -> tuple[int, bool, Sequence[str]]:
    """Rank a string for its bit: any character may come behind all that share one with a short string, such as `pk`."""
    return len(string), "".join(string).isascii(), string


@cache
def _all_chars() -> str:
    return np.arange(FIRST_SUPPLEMENTARY, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def find_composing_chars() -> str:
    """Find the characters of which a text not in NFC has at least one (Unicode Standard Annex 15, section 9).

    They are the characters that NFC changes on their own, combining characters, and characters that may compose with
    the one before them.
    """
    blocks = [_all_chars()[low : low + _NFC_BLOCK] for low in (*_BEFORE_HAN, *_AFTER_HAN)]
    candidates = [char for block in blocks if _may_compose(block) for char in block]
    parts = {char: decomposition.split() for char in candidates if (decomposition := unicodedata.decomposition(char))}
    composing = {chr(int(pair[1], 16)) for pair in parts.values() if len(pair) == 2 and not pair[0].startswith("<")}
    changed = {char for char in candidates if unicodedata.combining(char)}
    changed |= {char for char in parts if not unicodedata.is_normalized("NFC", char)}
    hangul = set(map(chr, range(0x1161, 0x11C3)))
    return "".join(sorted(composing | changed | hangul | {chr(FIRST_SUPPLEMENTARY)}))


_NFC_BLOCK = 256
_BEFORE_HAN, _AFTER_HAN = range(0x300, 0x3400, _NFC_BLOCK), range(0xF900, FIRST_SUPPLEMENTARY, _NFC_BLOCK)
_LAST_MARK = "\u0345"  # no mark has a higher combining class, so that any other is sorted before it


def _may_compose(block: str) -> bool:
    """Whether a block of characters has one with a decomposition, or a combining one: a fifth of all blocks."""
    marked = _LAST_MARK.join(["", *block])
    return unicodedata.normalize("NFD", marked) != marked


class _Scan(NamedTuple):
    """Masks of the windows of a text: one for each character, and all of them joined."""

    masks: Masks
    any: int


_last_scan: list[tuple[str, _Scan]] = []
"""The text scanned last, alone: a rule mostly takes line ends off it, so that its masks are those of the next text."""
_MAX_TAKEN_OFF = 8


@lru_cache(maxsize=2)
def _scan(text: str) -> _Scan:
    last, scan = _last_scan[0] if _last_scan else ("", None)
    if scan is not None and 0 < len(last) - len(text) <= _MAX_TAKEN_OFF and last.strip("\n") == text:
        first = len(last) - len(last.lstrip("\n"))
        masks = scan.masks[first : first + len(text)]  # a window over the end has a line end for nothing
        scan = _Scan(masks, int(np.bitwise_or.reduce(masks)))
    else:
        scan = _scan_whole(text)
    _last_scan[:] = [(text, scan)]
    return scan


def _scan_whole(text: str) -> _Scan:
    codes = code_points(text)
    if len(codes) <= _BLOCK:
        masks = _scan_block(codes, len(codes))
    else:  # several passes over what fits the CPU cache
        starts = range(0, len(codes), _BLOCK)
        blocks = [_scan_block(codes[start : start + _BLOCK + _WINDOW - 1], _BLOCK) for start in starts]
        masks = np.concatenate(blocks)
    return _Scan(masks, int(np.bitwise_or.reduce(masks)))


def _scan_block(codes: npt.NDArray[np.uint32], most: int) -> Masks:
    """The masks of the first `most` windows that begin in `codes`."""
    table, size = _build_table(len(_PREFILTERS)), len(codes)
    bits = np.empty(size + _WINDOW - 1, dtype=np.uint64)
    table.take(codes, mode="clip", out=bits[:size])  # the last entry is for all characters beyond the table
    bits[size:] = table[0]  # behind the end: only strings shorter than a window match here
    common = bits[2:] >> _SHIFT
    common &= bits[1:-1]
    common >>= _SHIFT
    common &= bits[:-2]
    return common[:most].astype(np.uint32)  # the lowest 21 bits; those above belong to no prefilter


@cache
def _build_table(prefilter_count: int) -> Table:
    """Build the table of masks by character for the first prefilters; built again when one is added."""
    table = np.zeros(FIRST_SUPPLEMENTARY + 1, dtype=np.uint64)
    for prefilter in _PREFILTERS[:prefilter_count]:
        prefilter.fill_table(table)
    return table


class BigramFilter:
    """Finds where pairs of characters may be: many more of them than a prefilter has bits for, at a higher cost.

    Args:
        pairs: Texts of two characters.
    """

    def __init__(self, pairs: Iterable[str]) -> None:
        self._table = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)  # small, to stay in the cache of a core
        self._table[_hash_each(list(pairs), _FILTER_BITS)] = True

    def find(self, text: str) -> npt.NDArray[np.int64]:
        """Find the positions at which a pair may begin, in order; each at which one begins is among them."""
        return np.flatnonzero(self._table.take(_hash_pairs(code_points(text), _FILTER_BITS)))


class PairWeights:
    """Sums the weights of pairs of characters in a text; pairs of the same hash (1 in 2 ** 20) mix.

    Args:
        weights: -128 to 127, by text of two characters; of two with the same hash the later counts.
    """

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._table = np.zeros(1 << _WEIGHT_BITS, dtype=np.int8)  # in the cache of a core, as wider numbers are not
        self._table[_hash_each(list(weights), _WEIGHT_BITS)] = list(weights.values())

    def sum(self, text: str) -> int:
        """The sum over all places of a text at which one of the pairs begins."""
        return int(self._table.take(_hash_pairs(code_points(text), _WEIGHT_BITS)).sum(dtype=np.int64))


def _hash_each(pairs: Sequence[str], bits: int) -> npt.NDArray[np.uint32]:
    """Hash texts of two characters each."""
    assert all(len(pair) == 2 for pair in pairs)
    return _hash_pairs(code_points("".join(pairs)), bits)[::2]


def _hash_pairs(codes: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    """Hash each pair of neighbors to `bits` bits; one fewer than there are code points."""
    hashes = codes[:-1] * np.uint32(0x9E3779B1)
    hashes ^= codes[1:] * np.uint32(0x85EBCA6B)
    hashes >>= np.uint32(32 - bits)
    return hashes
