"""Code points of a text and counts of its characters by kind, shared by filters and deduplication.

Everything is counted in characters, because Chinese text has no word boundaries.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

FIRST_SUPPLEMENTARY = 0x20000
"""First code point of the supplementary ideographic planes. Character tables have one entry for each code point below
it, and a last one for all code points from it on."""


@lru_cache(maxsize=2)
def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Code points of a text, uint32 of shape (characters,); lone surrogates included."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@lru_cache(maxsize=1)
def split_lines(text: str) -> Sequence[str]:
    """Lines of a text without their ends, which several rules ask for."""
    return text.split("\n")


@lru_cache(maxsize=4)
def count_char_kinds(text: str) -> tuple[int, int, int, int, int, int, int]:
    """Count characters by kind: (Han, Latin letters, other letters, digits, common punctuation, symbols, white space).

    Example:
        count_char_kinds("你好 GPT4！") == (2, 3, 0, 1, 1, 0, 1)
    """
    kinds = _char_kind_table().take(code_points(text), mode="clip")  # the last entry is for all beyond the table
    return tuple(np.bincount(kinds, minlength=7).tolist())  # type: ignore[return-value]


_COMMON_PUNCTUATION = ".,;:?!'\"()-，。、；：？！“”‘’（）《》〈〉「」『』【】…—·～"


@cache
def _char_kind_table() -> npt.NDArray[np.uint8]:
    """Kind (0 to 6, in the order of `count_char_kinds`) of each character, shape (FIRST_SUPPLEMENTARY + 1,)."""
    of_category = np.full(128, 5, dtype=np.uint8)
    of_category[[ord("L"), ord("M"), ord("N"), ord("Z")]] = 2, 2, 3, 6
    kinds = np.zeros(FIRST_SUPPLEMENTARY + 1, dtype=np.uint8)  # in the cache of a core, as wider numbers are not
    for low, high in ((0, 0x3400), (0xA000, FIRST_SUPPLEMENTARY)):
        categories = "".join(map(unicodedata.category, map(chr, range(low, high))))[::2]
        kinds[low:high] = of_category[np.frombuffer(categories.encode("ascii"), dtype=np.uint8)]
    kinds[0x4DC0:0x4E00] = of_category[ord("S")]
    kinds[[9, 10, 13]] = 6
    for low, high in ((0x41, 0x5B), (0x61, 0x7B), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x250), (0x1E00, 0x1F00)):
        kinds[low:high] = 1
    for low, high in ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00)):
        kinds[low:high] = 0
    kinds[[ord(char) for char in _COMMON_PUNCTUATION]] = 4
    return kinds
