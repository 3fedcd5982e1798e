"""Hash keys of a text: equal keys mean equal texts, apart from white space, case and, for duplicates, width and script.

Near duplicates are found by `minhash`, the search over all texts is in `cluster`.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import code_points
from hanlin.data.text.script import build_conversion_table

Hashes = npt.NDArray[np.uint64]
CodePoints = npt.NDArray[np.uint32]


def compute_exact_key(text: str) -> bytes:
    """Compute 16 bytes that are equal for texts that differ only in white space and letter case."""
    return _digest(_fold_text(text).encode("utf-8", "surrogatepass"))


def compute_dedup_key(text: str, across_scripts: bool) -> bytes:
    """Compute 16 bytes that are equal for texts that differ only in white space, case and full or half width.

    Args:
        text: Any text.
        across_scripts: Traditional and simplified characters are equal too.
    """
    folded = _fold_text(text)
    if folded.isascii():
        return compute_exact_key(text)
    return _digest(replace_code_points(code_points(folded), _build_width_table(across_scripts)).tobytes())


@lru_cache(maxsize=1)
def _fold_text(text: str) -> str:
    return "".join(text.split()).casefold()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def replace_code_points(codes: CodePoints, table: CodePoints) -> CodePoints:
    """Replace each code point by its entry in `table`; those beyond the table stay."""
    if len(codes) and codes.max() >= len(table):
        return np.where(codes < len(table), table.take(np.minimum(codes, len(table) - 1)), codes)
    return table.take(codes)


@cache
def _build_width_table(across_scripts: bool) -> CodePoints:
    table = (build_conversion_table("simplified") if across_scripts else np.arange(0x20000, dtype=np.uint32)).copy()
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    return table
