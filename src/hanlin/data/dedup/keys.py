"""Hash keys of a text: equal keys mean equal texts, apart from white space, case and, for duplicates, width and script.

Near duplicates are found by `minhash`, the search over all texts is in `cluster`.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import code_points
from hanlin.data.text.script import build_conversion_table

Hashes = npt.NDArray[np.uint64]
CodePoints = npt.NDArray[np.uint32]


_BLANK, _SPECIAL = 0xFFFE, 0xFFFF
"""Entries of the table of keys for white space, and for what one entry cannot say."""
_TABLE_BLOCK = 256


def compute_exact_key(text: str) -> bytes:
    """Compute 16 bytes that are equal for texts that differ only in white space and letter case."""
    return _digest(_fold_text(text).encode("utf-8", "surrogatepass"))


def compute_dedup_key(text: str, across_scripts: bool) -> bytes:
    """Compute 16 bytes that are equal for texts that differ only in white space, case and full or half width.

    Nearly every character is looked up in one table, at a third of the cost of folding the text first.

    Args:
        text: Any text.
        across_scripts: Traditional and simplified characters are equal too.
    """
    folded = _build_key_table(across_scripts).take(code_points(text), mode="clip")
    if len(folded) and folded.max() == _SPECIAL:
        codes = replace_code_points(code_points(_fold_text(text)), _build_width_table(across_scripts))
        if codes.max(initial=0) > _SPECIAL:
            return _digest(codes.tobytes(), b"wide")
        return _digest(codes.astype(np.uint16).tobytes())
    return _digest(folded[folded != _BLANK].tobytes())


def _fold_text(text: str) -> str:
    return "".join(text.split()).casefold()


def _digest(data: bytes, kind: bytes = b"") -> bytes:
    return hashlib.blake2b(data, digest_size=16, person=kind).digest()


def replace_code_points(codes: CodePoints, table: CodePoints) -> CodePoints:
    """Replace each code point by its entry in `table`; those beyond the table stay."""
    if len(codes) and codes.max() >= len(table):
        return np.where(codes < len(table), table.take(np.minimum(codes, len(table) - 1)), codes)
    return table.take(codes)


@cache
def _build_key_table(across_scripts: bool) -> npt.NDArray[np.uint16]:
    """Build the table of what each character counts as in a dedup key, the last entry for all beyond the basic plane.

    `_SPECIAL` are the few that become several letters (ß), surrogates, and the two whose numbers are taken.
    """
    codes = np.arange(_SPECIAL + 1, dtype=np.uint32)
    special = np.zeros(_SPECIAL + 2, dtype=np.bool_)
    blanks: list[int] = []
    for start in (*range(0, 0xD800, _TABLE_BLOCK), *range(0xE000, _SPECIAL, _TABLE_BLOCK)):
        chars = "".join(map(chr, range(start, start + _TABLE_BLOCK)))
        if "".join(chars.split()) != chars:
            blanks += [code for code, char in enumerate(chars, start) if char.isspace()]
        if chars.casefold() != chars:  # a tenth of all blocks
            for code, folded in enumerate(map(str.casefold, chars), start):
                codes[code], special[code] = ord(folded[0]), len(folded) > 1
    special[0xD800:0xE000] = special[_BLANK:] = True
    table = np.append(replace_code_points(codes, _build_width_table(across_scripts)), 0)
    table[special], table[blanks] = _SPECIAL, _BLANK
    return table.astype(np.uint16)


@cache
def _build_width_table(across_scripts: bool) -> CodePoints:
    table = (build_conversion_table("simplified") if across_scripts else np.arange(0x20000, dtype=np.uint32)).copy()
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    return table
