"""The two languages of the project, 简体中文 and English: which a person is spoken to in, and which a text is in.

Owns the choice: every message stands beside its translation where it is used. Owns, too, how a text's own language is
told.
"""

from __future__ import annotations

import os
from typing import Literal


def chinese() -> bool:
    """Whether to speak Chinese: `HANLIN_LANG` decides (`zh` or `en`), otherwise the locale of the environment."""
    chosen = os.environ.get("HANLIN_LANG")
    if not chosen:
        chosen = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return chosen.lower().startswith("zh")


def say(en: str, zh: str) -> str:
    """The one of two texts of equal meaning that the reader wants."""
    return zh if chinese() else en


Language = Literal["zh", "en", "other", "none"]

_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_CJK_SINGLE = (0x3005, 0x3007)  # 々 and 〇, written like characters though Unicode files them elsewhere


def answer_language(text: str) -> Language:
    """`zh` when Chinese characters are at least half of the letters, else `en` when Latin letters are, else `other`.

    Digits and punctuation count for nothing; a text without any letter has the language `none`.
    """
    chinese = latin = letters = 0
    for letter in text:
        code = ord(letter)
        if _is_chinese(code):
            chinese += 1
        elif not letter.isalpha():
            continue
        elif code < 0x250:  # Basic Latin to Latin Extended-B
            latin += 1
        letters += 1
    if not letters:
        return "none"
    if 2 * chinese >= letters:
        return "zh"
    return "en" if 2 * latin >= letters else "other"


def _is_chinese(code: int) -> bool:
    return code in _CJK_SINGLE or any(first <= code <= last for first, last in _CJK)
