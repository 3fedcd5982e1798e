"""MinHash signatures of character n-grams, their bands, and Jaccard similarity."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import rensa

from hanlin.config.settings.data import Dedup
from hanlin.data.dedup.keys import Codes, Numbers, _replaced
from hanlin.data.text.char_stats import FIRST_SUPPLEMENTARY, code_points, to_table_indices
from hanlin.data.text.ngrams import hash_ngrams
from hanlin.data.text.script import build_conversion_table

_SURELY = 0.99


_BATCH = 1 << 14


Signatures = npt.NDArray[np.uint32]


def salted(key: bytes, seed: int) -> int:
    """A number of 64 bits from a text's key, another one for each seed."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=str(seed).encode()[:64]).digest(), "little")


def letters(text: str, across_scripts: bool = True) -> npt.NDArray[np.uint32]:
    """What of a text counts for near copies: its letters and digits as code points, in one case and width, and in
    simplified writing unless scripts are kept apart."""
    codes = code_points(text)
    same, counts = _letter_tables(across_scripts)
    kept = _replaced(codes, same)[counts.take(to_table_indices(codes))]
    return kept if len(kept) else codes


@cache
def _letter_tables(across_scripts: bool) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """For each character the letter that it counts as; and whether it counts."""
    same = np.arange(FIRST_SUPPLEMENTARY, dtype=np.uint32)
    counts = np.zeros(FIRST_SUPPLEMENTARY + 1, dtype=np.bool_)
    for code in range(FIRST_SUPPLEMENTARY):
        plain = unicodedata.normalize("NFKC", chr(code)).casefold()
        counts[code] = plain[:1].isalnum()
        same[code] = ord(plain[0]) if plain else code
    counts[FIRST_SUPPLEMENTARY] = True
    if across_scripts:
        same = build_conversion_table("simplified").take(np.minimum(same, len(same) - 1))
    return same, counts


def signatures(texts: Sequence[str], dedup: Dedup, seed: int) -> Signatures:
    """MinHash signatures, (texts, num_perm). A text shorter than a shingle is one shingle."""
    if not texts:
        return np.empty((0, dedup.num_perm), dtype=np.uint32)
    rows = _shingles_of(texts, dedup)
    ends = np.cumsum([0, *map(len, rows)], dtype=np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(rows), ends, dedup.num_perm, seed % (1 << 64)
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _shingles_of(texts: Sequence[str], dedup: Dedup) -> list[Numbers]:
    rows: list[Numbers] = []
    same, counts = _letter_tables(dedup.across_scripts)
    for batch in _batches(texts):
        codes = code_points("".join(batch))
        kept, bounds = _without(_replaced(codes, same), counts.take(to_table_indices(codes)), batch)
        hashes = hash_ngrams(kept, dedup.ngram_size)
        for text, (start, end) in zip(batch, pairwise(bounds), strict=True):
            last = end - dedup.ngram_size + 1
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
    return hash_ngrams(codes, min(dedup.ngram_size, len(codes)))


def jaccard(one: Numbers, other: Numbers) -> float:
    """The share of the different shingles of two texts that both have; both sorted and without repeats."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / max(1, len(one) + len(other) - both)


def bands_and_rows(threshold: float, num_perm: int) -> tuple[int, int]:
    """How to cut signatures: bands as long as can be, while texts at the threshold still meet in one of them 99 times
    in 100. The chance is 1 - (1 - t^rows)^bands."""
    best = (num_perm, 1)
    for rows in range(2, num_perm + 1):
        bands = num_perm // rows
        if 1 - (1 - threshold**rows) ** bands < _SURELY:
            break
        best = (bands, rows)
    return best


def band_keys(marks: Signatures, dedup: Dedup) -> Numbers:
    """A number for each text and band, (texts, bands): equal where two texts agree in that band."""
    bands, rows = bands_and_rows(dedup.threshold, dedup.num_perm)
    keys = [
        hash_ngrams(np.ascontiguousarray(marks[:, band * rows : (band + 1) * rows]).reshape(-1), rows)[::rows]
        for band in range(bands)
    ]
    return np.stack(keys, axis=1) if len(marks) else np.empty((0, bands), dtype=np.uint64)
