"""Traditional and simplified characters, converted by OpenCC.

Owns which conversion is meant by a setting. The dictionaries are OpenCC's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from hanlin.errors import UserError
from hanlin.language import say

# Not the Taiwan table (tw2s): it turns 显著, which is simplified already, into 显着.
_TABLES = {"simplified": "t2s", "traditional": "s2t"}


def converter(convert: str) -> Callable[[str], str]:
    """A function that converts a text (`none`: leaves it). Raises UserError when OpenCC is not installed."""
    if convert == "none":
        return str
    try:
        from opencc import OpenCC
    except ImportError as error:
        hint = "pip install opencc"
        raise UserError(
            say("OpenCC is needed to convert characters", "繁简转换需要 OpenCC"), "convert", hint
        ) from error
    return cast("Callable[[str], str]", OpenCC(_TABLES[convert]).convert)
