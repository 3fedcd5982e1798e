"""Copies of a text: equal letters, and near copies by MinHash; of each group the first one stays.

Owns signatures and the search for candidates. Does not own what is compared (`sifting`) or dropped.

MinHash (Broder 1997) over shingles of neighbouring characters, for Chinese has no blanks to cut words at. Signatures
come from rensa; they are cut into bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4), and
two texts that agree in a band are compared by their whole signatures. Memory: a signature, 16 bytes and a number per
band for each text, whatever its length.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import rensa

from hanlin.data.clean import code_points, rolling_hashes
from hanlin.settings.data import Dedup

_SURELY = 0.99

Numbers = npt.NDArray[np.uint64]
Signatures = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


def exact_key(text: str) -> bytes:
    """16 bytes that are equal for equal texts, white space and letter case aside."""
    same = "".join(text.split()).casefold().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(same, digest_size=16).digest()


def salted(key: bytes, seed: int) -> int:
    """A number of 64 bits from a text's key, another one for each seed."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=str(seed).encode()[:64]).digest(), "little")


def letters(text: str) -> npt.NDArray[np.uint32]:
    """What of a text counts for near copies: its letters and digits as code points, in one case and width."""
    codes = code_points(text)
    same, counts = _letter_table()
    small = np.minimum(codes, len(same) - 1)
    kept = np.where(codes < len(same), same.take(small), codes)[counts.take(small)]
    return kept if len(kept) else codes


@cache
def _letter_table() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """For each code point below the ideographic planes: the letter that it counts as, and whether it counts."""
    same = np.arange(0x20000, dtype=np.uint32)
    counts = np.zeros(0x20000, dtype=np.bool_)
    for code in range(0x20000):
        plain = unicodedata.normalize("NFKC", chr(code)).casefold()
        counts[code] = plain[:1].isalnum()
        same[code] = ord(plain[0]) if plain else code
    counts[-1] = True  # stands for all above
    return same, counts


def signatures(texts: Sequence[str], dedup: Dedup, seed: int) -> Signatures:
    """MinHash signatures, (texts, permutations). A text shorter than a shingle is one shingle."""
    if not texts:
        return np.empty((0, dedup.permutations), dtype=np.uint32)
    rows = []
    for text in texts:
        codes = letters(text)
        rows.append(rolling_hashes(codes, min(dedup.shingle, len(codes))))
    ends = np.cumsum([0, *map(len, rows)], dtype=np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(rows), ends, dedup.permutations, seed % (1 << 64)
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


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


def near_copies(marks: Signatures, dedup: Dedup, skip: npt.NDArray[np.bool_]) -> Places:
    """For each signature the place of the first kept text that is at least as similar as the threshold, or -1.

    Goes in order, and compares with kept texts only: a text is not dropped for being like one that was dropped.
    Places marked in `skip` take no part.
    """
    copies = np.full(len(marks), -1, dtype=np.int64)
    groups = _groups(marks, *bands_and_rows(dedup.threshold, dedup.permutations), skip)
    kept: dict[int, list[int]] = {}
    for place in np.flatnonzero((groups >= 0).any(axis=1)):
        mine = [int(group) for group in groups[place] if group >= 0]
        others = sorted({other for group in mine for other in kept.get(group, ())})
        if others:
            alike = (marks[others] == marks[place]).mean(axis=1) >= dedup.threshold
            if alike.any():
                copies[place] = others[int(alike.argmax())]
                continue
        for group in mine:
            kept.setdefault(group, []).append(int(place))
    return copies


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
