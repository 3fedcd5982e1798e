"""MinHash signatures of character n-grams, their bands, and Jaccard similarity.

MinHash (Broder 1997) over n-grams of neighboring characters, since Chinese text has no blanks to split words at.
Signatures come from rensa; they are cut into bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section
3.4), and two texts that agree in a band are candidates.
"""

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
from hanlin.data.dedup.keys import CodePoints, Hashes, replace_code_points
from hanlin.data.text.char_stats import FIRST_SUPPLEMENTARY, code_points
from hanlin.data.text.ngrams import hash_ngrams
from hanlin.data.text.script import build_conversion_table

_BAND_RECALL = 0.99
_TABLE_BLOCK = 256
_BATCH_CHARACTERS = 1 << 14

Signatures = npt.NDArray[np.uint32]


def hash_key(key: bytes, seed: int) -> int:
    """Hash a text's key to 64 bits, differently for each seed."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=str(seed).encode()[:64]).digest(), "little")


def extract_letters(text: str, across_scripts: bool = True) -> CodePoints:
    """Extract what near duplicates are compared by: letters and digits in one case and one width.

        "Ａ b，Ｃ！春 天３"  ->  code points of "abc春天3"

    Args:
        text: Any text; one without letters and digits is taken as it is.
        across_scripts: Convert traditional characters to simplified ones.
    """
    codes, is_letter = fold_letters(text, across_scripts)
    extracted = codes[is_letter]
    return extracted if len(extracted) else code_points(text)


def fold_letters(text: str, across_scripts: bool = True) -> tuple[CodePoints, npt.NDArray[np.bool_]]:
    """Bring each character of a text to one case, width and script, and tell which are letters or digits.

    Returns:
        (code points, whether each counts), both of shape (characters,).
    """
    codes = code_points(text)
    letters, is_letter = _build_letter_tables(across_scripts)
    return replace_code_points(codes, letters), is_letter.take(codes, mode="clip")


@cache
def _build_letter_tables(across_scripts: bool) -> tuple[CodePoints, npt.NDArray[np.bool_]]:
    """Build a table of the letter that each character counts as, and one of whether it counts at all."""
    letters = np.arange(FIRST_SUPPLEMENTARY, dtype=np.uint32)
    is_letter = np.zeros(FIRST_SUPPLEMENTARY + 1, dtype=np.bool_)
    for start in range(0, FIRST_SUPPLEMENTARY, _TABLE_BLOCK):
        chars = "".join(map(chr, range(start, start + _TABLE_BLOCK)))
        if unicodedata.normalize("NFKC", chars).casefold() == chars:  # most blocks: folding changes none of them
            is_letter[start : start + _TABLE_BLOCK] = chars.isalnum() or list(map(str.isalnum, chars))
            continue
        for code, char in enumerate(chars, start):
            folded = unicodedata.normalize("NFKC", char).casefold()
            is_letter[code] = folded[:1].isalnum()
            letters[code] = ord(folded[0]) if folded else code
    is_letter[FIRST_SUPPLEMENTARY] = True
    if across_scripts:
        letters = build_conversion_table("simplified").take(np.minimum(letters, len(letters) - 1))
    return letters, is_letter


def compute_signatures(texts: Sequence[str], dedup: Dedup, seed: int) -> Signatures:
    """Compute MinHash signatures. A text shorter than an n-gram is one n-gram.

    Returns:
        Signatures, [texts, num_perm].
    """
    if not texts:
        return np.empty((0, dedup.num_perm), dtype=np.uint32)
    rows = _hash_ngrams_of_texts(texts, dedup)
    ends = np.cumsum([0, *map(len, rows)], dtype=np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(rows), ends, dedup.num_perm, seed % (1 << 64)
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


def _hash_ngrams_of_texts(texts: Sequence[str], dedup: Dedup) -> list[Hashes]:
    rows: list[Hashes] = []
    letters, is_letter = _build_letter_tables(dedup.across_scripts)
    for batch in _batch_texts(texts):
        codes = code_points("".join(batch))
        extracted, bounds = _select_letters(
            replace_code_points(codes, letters), is_letter.take(codes, mode="clip"), batch
        )
        hashes = hash_ngrams(extracted, dedup.ngram_size)
        for text, (start, end) in zip(batch, pairwise(bounds), strict=True):
            last = end - dedup.ngram_size + 1
            rows.append(hashes[start:last] if last > start else hash_text_ngrams(text, dedup))
    return rows


def _batch_texts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield texts in order, so many at a time that the overhead of a numpy call on all of them is small."""
    start, size = 0, 0
    for end, text in enumerate(texts, start=1):
        size += len(text)
        if size >= _BATCH_CHARACTERS or end == len(texts):
            yield texts[start:end]
            start, size = end, 0


def _select_letters(
    codes: CodePoints, is_letter: npt.NDArray[np.bool_], batch: Sequence[str]
) -> tuple[CodePoints, list[int]]:
    """Return the code points of a batch that are letters, and the bounds of its texts among them."""
    letters_before = np.append(0, np.cumsum(is_letter))
    return codes[is_letter], letters_before[[0, *accumulate(map(len, batch))]].tolist()


def hash_text_ngrams(text: str, dedup: Dedup) -> Hashes:
    """Hash the n-grams of a text, in order. A text shorter than an n-gram is one n-gram."""
    codes = extract_letters(text, dedup.across_scripts)
    return hash_ngrams(codes, min(dedup.ngram_size, len(codes)))


def jaccard_similarity(ngrams: Hashes, other: Hashes) -> float:
    """Compute the share of the distinct n-grams of two texts that both have; both sorted and without repeats."""
    shared = len(np.intersect1d(ngrams, other, assume_unique=True))
    return shared / max(1, len(ngrams) + len(other) - shared)


def choose_bands(threshold: float, num_perm: int) -> tuple[int, int]:
    """Choose bands as long as possible, so that texts at the threshold agree in one with a probability of 99 %.

    The probability is 1 - (1 - t^rows)^bands.

    Returns:
        The number of bands, and the rows of a band.
    """
    best = (num_perm, 1)
    for rows in range(2, num_perm + 1):
        bands = num_perm // rows
        if 1 - (1 - threshold**rows) ** bands < _BAND_RECALL:
            break
        best = (bands, rows)
    return best


def compute_band_keys(signatures: Signatures, dedup: Dedup) -> Hashes:
    """Hash each band of each signature.

    Args:
        signatures: [texts, num_perm].
        dedup: Threshold and number of permutations.

    Returns:
        Keys, [texts, bands]; equal if two texts agree in that band.
    """
    bands, rows = choose_bands(dedup.threshold, dedup.num_perm)
    keys = [
        hash_ngrams(np.ascontiguousarray(signatures[:, band * rows : (band + 1) * rows]).reshape(-1), rows)[::rows]
        for band in range(bands)
    ]
    return np.stack(keys, axis=1) if len(signatures) else np.empty((0, bands), dtype=np.uint64)
