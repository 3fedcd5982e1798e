"""Conversion between traditional and simplified Chinese with OpenCC's dictionaries."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import cast

import numpy as np
import numpy.typing as npt

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

# Not the Taiwan table (tw2s): it turns 显著, which is simplified already, into 显着.
_TABLES = {"simplified": "t2s", "traditional": "s2t"}
_IDEOGRAPHS = (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0xF900, 0xFB00))


def load_converter(convert: str) -> Callable[[str], str]:
    """Load the function that converts a text.

    Args:
        convert: `simplified`, `traditional`, or `none` for a function that changes nothing.

    Raises:
        UserError: OpenCC is not installed.
    """
    if convert == "none":
        return str
    try:
        from opencc import OpenCC
    except ImportError as error:
        hint = "pip install opencc"
        raise UserError(tr("converting characters needs OpenCC"), "convert", hint) from error
    return cast("Callable[[str], str]", OpenCC(_TABLES[convert]).convert)


@cache
def build_conversion_table(convert: str) -> npt.NDArray[np.uint32]:
    """Table of single-character conversions: entry c is the code point that OpenCC converts c to.

    Args:
        convert: `simplified` or `traditional`.

    Returns:
        uint32 of shape (0x20000,), read-only; built in 20 ms.
    """
    table = np.arange(0x20000, dtype=np.uint32)
    converted = load_converter(convert)("\n".join(map(chr, _IDEOGRAPHS))).split("\n")
    single = [char if len(char) == 1 else chr(code) for code, char in zip(_IDEOGRAPHS, converted, strict=True)]
    codes = np.frombuffer("".join(single).encode("utf-32-le"), dtype="<u4")
    ideographs = np.array(_IDEOGRAPHS)
    table[ideographs] = np.where(codes < len(table), codes, ideographs)
    table.setflags(write=False)
    return table
