"""What copies of a text are found by: keys of equal letters, MinHash signatures, shingles.

Owns these for one text or a batch of them. Does not own the search over all texts (`copies`), nor what is compared
(`parts`).

MinHash (Broder 1997) over shingles of neighboring characters, for Chinese has no blanks to cut words at. Signatures
come from rensa; they are cut into bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4), and
two texts that agree in a band are compared.
"""

from __future__ import annotations

import hashlib
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import code_points
from hanlin.data.text.script import build_conversion_table

Numbers = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]


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
    table = (build_conversion_table("simplified") if across_scripts else np.arange(0x20000, dtype=np.uint32)).copy()
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    return table
