"""Measures of a text that rules and the search for copies share: code points, kinds of characters, hashes, repetition.

Owns numbers, no unpaired_preference. All counts are of characters, for Chinese has no words to count.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

FIRST_SUPPLEMENTARY = 0x20000
"""Tables of characters have an entry for each code point below the supplementary ideographic planes, and one for those
planes as a whole at the end."""


@lru_cache(maxsize=2)
def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text, one number each (half characters included)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


@lru_cache(maxsize=2)
def table_indices(text: str) -> npt.NDArray[np.intp]:
    """For each character its place in a table of `CHARACTERS` and one entries."""
    return to_table_indices(code_points(text))


def to_table_indices(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.intp]:
    return (
        np.minimum(codes, FIRST_SUPPLEMENTARY) if len(codes) and codes.max() > FIRST_SUPPLEMENTARY else codes
    ).astype(np.intp)


@lru_cache(maxsize=4)
def count_char_kinds(text: str) -> tuple[int, int, int, int, int, int, int]:
    """How many characters are Han, Latin letters, other letters, digits, common punctuation, symbols, blanks."""
    return tuple(np.bincount(_char_kind_table().take(table_indices(text)), minlength=7).tolist())  # type: ignore[return-value]


_COMMON_PUNCTUATION = ".,;:?!'\"()-，。、；：？！“”‘’（）《》〈〉「」『』【】…—·～"


@cache
def _char_kind_table() -> npt.NDArray[np.intp]:
    categories = "".join(unicodedata.category(chr(code))[0] for code in range(FIRST_SUPPLEMENTARY))
    of_category = {"L": 2, "M": 2, "N": 3, "Z": 6}
    kinds = np.full(FIRST_SUPPLEMENTARY + 1, 5, dtype=np.intp)
    kinds[:-1] = [of_category.get(category, 5) for category in categories]
    kinds[[9, 10, 13]] = 6
    for low, high in ((0x41, 0x5B), (0x61, 0x7B), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x250), (0x1E00, 0x1F00)):
        kinds[low:high] = 1
    for low, high in ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00)):
        kinds[low:high] = 0
    kinds[FIRST_SUPPLEMENTARY] = 0
    kinds[[ord(char) for char in _COMMON_PUNCTUATION]] = 4
    return kinds
