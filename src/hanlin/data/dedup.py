"""What copies of a text are found by: keys of equal letters, MinHash signatures, shingles.

Owns these for one text or a batch of them. Does not own the search over all texts (`copies`), nor what is compared
(`parts`).

MinHash (Broder 1997) over shingles of neighbouring characters, for Chinese has no blanks to cut words at. Signatures
come from rensa; they are cut into bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4), and
two texts that agree in a band are compared.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import rensa

from hanlin.data.chinese import folded_characters
from hanlin.data.measures import code_points, rolling_hashes
from hanlin.settings.data import Dedup

_SURELY = 0.99

Numbers = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]


def exact_key(text: str) -> bytes:
    """16 bytes that are equal for equal texts, white space and letter case aside."""
    same = "".join(text.split()).casefold().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(same, digest_size=16).digest()


def copy_key(text: str, across_scripts: bool) -> bytes:
    """Like `exact_key`, with the width of letters and punctuation aside, and the script of characters where asked."""
    text = "".join(text.split()).casefold()
    if text.isascii():
        return exact_key(text)
    codes = code_points(text)
    table = _width_table(across_scripts)
    same = np.where(codes < len(table), table.take(np.minimum(codes, len(table) - 1)), codes)
    return hashlib.blake2b(same.astype("<u4").tobytes(), digest_size=16).digest()


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
    same, counts = _letter_table(across_scripts)
    small = np.minimum(codes, len(same) - 1)
    kept = np.where(codes < len(same), same.take(small), codes)[counts.take(small)]
    return kept if len(kept) else codes


@cache
def _letter_table(across_scripts: bool) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """For each code point below the ideographic planes: the letter that it counts as, and whether it counts."""
    same = np.arange(0x20000, dtype=np.uint32)
    counts = np.zeros(0x20000, dtype=np.bool_)
    for code in range(0x20000):
        plain = unicodedata.normalize("NFKC", chr(code)).casefold()
        counts[code] = plain[:1].isalnum()
        same[code] = ord(plain[0]) if plain else code
    counts[-1] = True  # stands for all above
    if across_scripts:
        same = folded_characters("simplified").take(np.minimum(same, len(same) - 1))
    return same, counts


def signatures(texts: Sequence[str], dedup: Dedup, seed: int) -> Signatures:
    """MinHash signatures, (texts, permutations). A text shorter than a shingle is one shingle."""
    if not texts:
        return np.empty((0, dedup.permutations), dtype=np.uint32)
    rows = [shingles(text, dedup) for text in texts]
    ends = np.cumsum([0, *map(len, rows)], dtype=np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(rows), ends, dedup.permutations, seed % (1 << 64)
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


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


def band_keys(marks: Signatures, dedup: Dedup) -> Numbers:
    """A number for each text and band, (texts, bands): equal where two texts agree in that band."""
    bands, rows = bands_and_rows(dedup.threshold, dedup.permutations)
    keys = [
        rolling_hashes(np.ascontiguousarray(marks[:, band * rows : (band + 1) * rows]).reshape(-1), rows)[::rows]
        for band in range(bands)
    ]
    return np.stack(keys, axis=1) if len(marks) else np.empty((0, bands), dtype=np.uint64)
