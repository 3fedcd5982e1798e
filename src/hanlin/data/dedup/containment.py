"""The search for documents of which most is in a longer one: the first half of an article, a quoted chapter.

Such pairs are unlike each other as wholes, so that MinHash does not find them. Of each document the n-grams are kept
whose hash is in the lowest 1/16 of all hashes, the same ones in every document (FracMinHash, Irber et al. 2022,
doi 10.1101/2022.01.11.475838). For each kept hash the longest document that has it may contain the others. The document
that shares most hashes with a shorter one is compared with it by all n-grams.

Memory: one number and one index for each kept hash, a part of the hashes at a time, and a pair for each shared one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from hanlin.data.dedup.cluster import Indices
from hanlin.data.dedup.keys import Hashes
from hanlin.data.dedup.minhash import extract_letters
from hanlin.data.text.ngrams import hash_ngrams

NGRAM_LETTERS = 13
"""Letters of an n-gram: long enough that common phrases are not shared by chance."""
SAMPLING = 16
_SORT_LIMIT = 1 << 25
_MIN_SHARE = 0.6
"""Candidates share this part of the wanted fraction of the sampled n-grams: an estimate of few ones is not exact."""


def hash_all_ngrams(text: str, across_scripts: bool) -> Hashes:
    """The hashes of all n-grams of a text, sorted, each once; none if it is shorter than one."""
    return np.unique(hash_ngrams(extract_letters(text, across_scripts), NGRAM_LETTERS))


def sample_ngrams(text: str, across_scripts: bool) -> Hashes:
    """The hashes of the n-grams that are kept to find candidates, sorted, each once."""
    hashes = hash_all_ngrams(text, across_scripts)
    return hashes[hashes < np.uint64((1 << 64) // SAMPLING)]


def find_containers(
    hashes: Callable[[int, int], tuple[Hashes, Indices]], total: int, sizes: Indices, lengths: Indices, fraction: float
) -> tuple[Indices, Indices]:
    """Find for each document the longer one that may contain it.

    Args:
        hashes: Returns the sampled hashes of all documents whose lowest bits are some value, and the document of each;
            arguments: number of bits, value.
        total: How many sampled hashes there are.
        sizes: Sampled hashes of each document, [documents].
        lengths: Characters of each document, [documents]; of equally long ones the first may contain the others.
        fraction: The fraction of a document that has to be contained.

    Returns:
        Indices of documents, ascending, and of the ones that may contain them.
    """
    rank = np.empty(len(lengths), dtype=np.int64)
    rank[np.lexsort((np.arange(len(lengths)), -lengths))] = np.arange(len(lengths))
    bits = max(0, math.ceil(math.log2(max(1, total / _SORT_LIMIT))))
    pairs = [_pair_with_longest(*hashes(bits, value), rank) for value in range(1 << bits)]
    documents, containers = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    if not len(documents):
        return documents, containers
    keys, counts = np.unique(np.stack([documents, containers]), axis=1, return_counts=True)
    best = np.lexsort((rank[keys[1]], -counts, keys[0]))
    best = best[np.append(True, keys[0][best][1:] != keys[0][best][:-1])]
    best = best[counts[best] >= _MIN_SHARE * fraction * sizes[keys[0][best]]]
    return keys[0][best], keys[1][best]


def _pair_with_longest(hashes: Hashes, documents: Indices, rank: Indices) -> tuple[Indices, Indices]:
    """Pair each document with the longest one that has the same hash, for each of its hashes."""
    order = np.lexsort((rank[documents], hashes))
    hashes, documents = hashes[order], documents[order]
    starts = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    longest = documents[np.maximum.accumulate(np.where(starts, np.arange(len(hashes)), 0))]
    is_pair = longest != documents
    return documents[is_pair], longest[is_pair]


def contained_fraction(text: str, container: str, across_scripts: bool) -> float:
    """The fraction of the n-grams of a text that another text has too."""
    ngrams = hash_all_ngrams(text, across_scripts)
    shared = len(np.intersect1d(ngrams, hash_all_ngrams(container, across_scripts), assume_unique=True))
    return shared / max(1, len(ngrams))
