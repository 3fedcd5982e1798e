"""Copies of a text: equal letters, and near copies by MinHash; of each group the first one stays.

Owns signatures and the search for candidates. Does not own what is compared (`sifting`) or dropped.

MinHash (Broder 1997) over shingles of neighbouring characters, for Chinese has no blanks to cut words at. Signatures
come from rensa; they are cut into bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4), and
two texts that agree in a band are compared by their whole signatures. Where these cannot tell (within three standard
errors of the threshold, 0.11 at 128 permutations), the shingles themselves are compared, so that a pair at the
threshold is not found or missed by chance. Memory: a signature, 16 bytes and a number per band for each text, whatever
its length.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import rensa

from hanlin.data.chinese import folded_characters
from hanlin.data.measures import CHARACTERS, code_points, places_of, rolling_hashes
from hanlin.settings.data import Dedup

_SURELY = 0.99
_BATCH = 1 << 14

Numbers = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]
Signatures = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


def exact_key(text: str) -> bytes:
    """16 bytes that are equal for equal texts, white space and letter case aside."""
    return _digest(_folded(text).encode("utf-8", "surrogatepass"))


def copy_key(text: str, across_scripts: bool) -> bytes:
    """Like `exact_key`, with the width of letters and punctuation aside, and the script of characters where asked."""
    folded = _folded(text)
    if folded.isascii():
        return exact_key(text)
    return _digest(_replaced(code_points(folded), _width_table(across_scripts)).tobytes())


@lru_cache(maxsize=1)
def _folded(text: str) -> str:
    return "".join(text.split()).casefold()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _replaced(codes: Codes, table: Codes) -> Codes:
    """The code points with those that the table knows replaced by its entries."""
    if len(codes) and codes.max() >= len(table):
        return np.where(codes < len(table), table.take(np.minimum(codes, len(table) - 1)), codes)
    return table.take(codes)


@cache
def _width_table(across_scripts: bool) -> npt.NDArray[np.uint32]:
    table = (folded_characters("simplified") if across_scripts else np.arange(0x20000, dtype=np.uint32)).copy()
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    return table


def salted(key: bytes, seed: int) -> int:
    """A number of 64 bits from a text's key, another one for each seed."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=str(seed).encode()[:64]).digest(), "little")


def letters(text: str, across_scripts: bool = True) -> npt.NDArray[np.uint32]:
    """What of a text counts for near copies: its letters and digits as code points, in one case and width, and in
    simplified writing unless scripts are kept apart."""
    codes = code_points(text)
    same, counts = _letter_tables(across_scripts)
    kept = _replaced(codes, same)[counts.take(places_of(codes))]
    return kept if len(kept) else codes


@cache
def _letter_tables(across_scripts: bool) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """For each character the letter that it counts as; and whether it counts."""
    same = np.arange(CHARACTERS, dtype=np.uint32)
    counts = np.zeros(CHARACTERS + 1, dtype=np.bool_)
    for code in range(CHARACTERS):
        plain = unicodedata.normalize("NFKC", chr(code)).casefold()
        counts[code] = plain[:1].isalnum()
        same[code] = ord(plain[0]) if plain else code
    counts[CHARACTERS] = True
    if across_scripts:
        same = folded_characters("simplified").take(np.minimum(same, len(same) - 1))
    return same, counts


def signatures(texts: Sequence[str], dedup: Dedup, seed: int) -> Signatures:
    """MinHash signatures, (texts, permutations). A text shorter than a shingle is one shingle."""
    if not texts:
        return np.empty((0, dedup.permutations), dtype=np.uint32)
    rows = _shingles_of(texts, dedup)
    ends = np.cumsum([0, *map(len, rows)], dtype=np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(rows), ends, dedup.permutations, seed % (1 << 64)
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _shingles_of(texts: Sequence[str], dedup: Dedup) -> list[Numbers]:
    rows: list[Numbers] = []
    same, counts = _letter_tables(dedup.across_scripts)
    for batch in _batches(texts):
        codes = code_points("".join(batch))
        kept, bounds = _without(_replaced(codes, same), counts.take(places_of(codes)), batch)
        hashes = rolling_hashes(kept, dedup.shingle)
        for text, (start, end) in zip(batch, pairwise(bounds), strict=True):
            last = end - dedup.shingle + 1
            rows.append(hashes[start:last] if last > start else shingles(text, dedup))
    return rows


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Texts in order, so many at once that a numpy call on all of them costs little more than its work."""
    start, size = 0, 0
    for end, text in enumerate(texts, start=1):
        size += len(text)
        if size >= _BATCH or end == len(texts):
            yield texts[start:end]
            start, size = end, 0


def _without(codes: Codes, counts: npt.NDArray[np.bool_], batch: Sequence[str]) -> tuple[Codes, list[int]]:
    """The code points of a batch that count, and the bounds of its texts among them."""
    before = np.append(0, np.cumsum(counts))
    return codes[counts], before[[0, *accumulate(map(len, batch))]].tolist()


def shingles(text: str, dedup: Dedup) -> Numbers:
    """The hashes of a text's shingles, in order. A text shorter than a shingle is one."""
    codes = letters(text, dedup.across_scripts)
    return rolling_hashes(codes, min(dedup.shingle, len(codes)))


def jaccard(one: Numbers, other: Numbers) -> float:
    """The share of the different shingles of two texts that both have; both sorted and without repeats."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(1, len(one) + len(other) - both)


def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """How to cut signatures: bands as long as can be, while texts at the threshold still meet in one of them 99 times
    in 100. The chance is 1 - (1 - t^rows)^bands."""
    best = (permutations, 1)
    for rows in range(2, permutations + 1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands < _SURELY:
            break
        best = (bands, rows)
    return best


def exact_copies(keys: Numbers) -> Places:
    """For each of the keys (texts, 2) the place of the first equal one, or -1 where it is itself the first."""
    first: dict[bytes, int] = {}
    packed = np.ascontiguousarray(keys).tobytes()
    copies = np.full(len(keys), -1, dtype=np.int64)
    for place in range(len(keys)):
        found = first.setdefault(packed[16 * place : 16 * place + 16], place)
        if found != place:
            copies[place] = found
    return copies


def near_copies(
    marks: Signatures, dedup: Dedup, skip: npt.NDArray[np.bool_], text_of: Callable[[int], str] | None = None
) -> Places:
    """For each signature the place of the kept text that it copies, or -1.

    With `linked: kept` it goes in order and compares with kept texts only: a text is not dropped for being like one
    that was dropped. With `linked: chain` all that hangs together by similar pairs is one group (a connected
    component), and the first of it is kept. Places marked in `skip` take no part. `text_of` gives a text to compare
    shingles where the signatures are too close to the threshold to tell; without it they decide alone.
    """
    similar = _Similar(marks, dedup, text_of)
    groups = _groups(marks, *bands_and_rows(dedup.threshold, dedup.permutations), skip)
    met: dict[int, list[int]] = {}
    first = np.arange(len(marks), dtype=np.int64)
    chain = dedup.linked == "chain"
    for place in map(int, np.flatnonzero((groups >= 0).any(axis=1))):
        mine = [int(group) for group in groups[place] if group >= 0]
        others = sorted({other for group in mine for other in met.get(group, ())})
        found, same = similar.to(place, others, chain)
        for other in found:
            _join(first, place, other)
        if not found or (chain and not same):  # what equals another in all bands links to nothing that it does not
            for group in mine:
                met.setdefault(group, []).append(place)
    roots = np.array([_first(first, place) for place in range(len(marks))], dtype=np.int64)
    return np.where(roots == np.arange(len(marks)), -1, roots)


def _first(first: Places, place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = int(first[place])
    return place


def _join(first: Places, one: int, other: int) -> None:
    one, other = _first(first, one), _first(first, other)
    first[max(one, other)] = min(one, other)


class _Similar:
    """Says which texts are at least as similar as the threshold."""

    def __init__(self, marks: Signatures, dedup: Dedup, text_of: Callable[[int], str] | None) -> None:
        self._marks, self._threshold = marks, dedup.threshold
        error = math.sqrt(dedup.threshold * (1 - dedup.threshold) / dedup.permutations)
        self._unsure = 3 * error if text_of is not None else 0.0

        @lru_cache(maxsize=4096)
        def shingles_of(place: int) -> Numbers:
            assert text_of is not None
            return np.unique(shingles(text_of(place), dedup))

        self._shingles_of = shingles_of

    def to(self, place: int, others: Sequence[int], every: bool) -> tuple[list[int], bool]:
        """Those of `others` that are similar to the text at `place` (unless `every`: only the most similar), and
        whether one has an equal signature."""
        if not others:
            return [], False
        alike = (self._marks[others] == self._marks[place]).mean(axis=1)
        found = []
        for rank in np.argsort(-alike, kind="stable"):
            if alike[rank] < self._threshold - self._unsure:
                break
            other = others[int(rank)]
            sure = alike[rank] >= self._threshold + self._unsure
            if sure or jaccard(self._shingles_of(place), self._shingles_of(other)) >= self._threshold:
                found.append(other)
                if not every:
                    break
        return found, bool(alike.max() == 1.0)


def _groups(marks: Signatures, bands: int, rows: int, skip: npt.NDArray[np.bool_]) -> Places:
    """For each text and band the number of the group that agrees in that band, or -1 where a text is alone."""
    groups = np.full((len(marks), bands), -1, dtype=np.int64)
    taking = np.flatnonzero(~skip)
    if len(taking) < 2:
        return groups
    for band in range(bands):
        part = marks[taking, band * rows : (band + 1) * rows]
        hashes = rolling_hashes(np.ascontiguousarray(part).reshape(-1), rows)[::rows]
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        new = np.append(True, ordered[1:] != ordered[:-1])
        number = np.cumsum(new) - 1
        sizes = np.bincount(number)
        shared = sizes[number] > 1
        groups[taking[order[shared]], band] = number[shared] * bands + band
    return groups
