"""Lines that many documents share: menus, notices and slogans of a site, which no list of phrases knows.

A line is known by a hash of it without the blanks around it. In how many documents a hash is, is counted from the
sorted hashes of all documents, a part of the hashes at a time, so that memory does not grow with the text.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from hanlin.data.dedup.keys import Hashes

MIN_LINE_LETTERS = 8
"""Shorter lines are no evidence: 第一章, 答：, ---."""
_SORT_LIMIT = 1 << 25


def hash_lines(text: str) -> list[int]:
    """Hash each line of a text to 64 bits; 0 for lines that are not compared: short ones and fenced code."""
    hashes, is_code = [], False
    for line in text.split("\n"):
        stripped = line.strip()
        is_code ^= stripped.startswith("```")
        is_compared = not is_code and sum(map(str.isalnum, stripped)) >= MIN_LINE_LETTERS
        digest = hashlib.blake2b(stripped.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "little") if is_compared else 0)
    return hashes


def unique_line_hashes(text: str) -> Hashes:
    """The hashes of the lines of a text that are compared, sorted, each once."""
    return np.unique(np.array([value for value in hash_lines(text) if value], dtype=np.uint64))


def find_frequent_lines(read: Callable[[], Iterable[Hashes]], total: int, documents: int) -> Hashes:
    """Find the lines that are in more than some number of documents.

    Args:
        read: Yields the unique line hashes of each document, or of several one after another; called once for each
            part of the hashes.
        total: How many hashes there are.
        documents: The number of documents.

    Returns:
        Their hashes, sorted.
    """
    bits = max(0, math.ceil(math.log2(max(1, total / _SORT_LIMIT))))
    return np.sort(np.concatenate([*_find_frequent(read, bits, documents), np.empty(0, dtype=np.uint64)]))


def _find_frequent(read: Callable[[], Iterable[Hashes]], bits: int, documents: int) -> Iterator[Hashes]:
    for part in range(1 << bits):
        mask = np.uint64((1 << bits) - 1)
        selected = [hashes[(hashes & mask) == np.uint64(part)] for hashes in read()]
        ordered = np.sort(np.concatenate([*selected, np.empty(0, dtype=np.uint64)]))
        if len(ordered) > documents:
            yield np.unique(ordered[documents:][ordered[documents:] == ordered[:-documents]])


def cut_lines(text: str, frequent: Hashes) -> str:
    """Cut the lines of a text whose hashes are among some sorted ones."""
    hashes = np.array(hash_lines(text), dtype=np.uint64)
    positions = np.minimum(np.searchsorted(frequent, hashes), max(0, len(frequent) - 1))
    is_frequent = (frequent[positions] == hashes) & (hashes != 0) if len(frequent) else np.zeros(len(hashes), np.bool_)
    if not is_frequent.any():
        return text
    lines = [line for line, cut in zip(text.split("\n"), is_frequent.tolist(), strict=True) if not cut]
    return "\n".join(lines).strip("\n")
