"""Language identification: zh-Hans, zh-Hant, yue, en, other, or none for a text without letters.

Mixed text gets the language of most of its letters. No model: characters and function words decide.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from hanlin.data.text.char_stats import code_points, count_char_kinds
from hanlin.data.text.script import build_conversion_table

LANGUAGES = ("zh-Hans", "zh-Hant", "yue", "en", "other", "none")
_CANTONESE = re.compile("[嘅咗佢哋冇嚟喺啲嘢咁噉乜嗰攞畀瞓嬲咩喎啩嘥唔]|係咪|邊度|點解|而家|鍾意|鐘意|睇")
_MANDARIN = re.compile("[的們這那嗎吧們这们吗]|什麼|什么")
_WORD = re.compile("[A-Za-z']+")
ENGLISH_WORDS = frozenset((
    "the", "of", "and", "to", "that", "for", "it", "was", "with", "be", "by", "not", "this", "are", "from", "at",
    "which", "have", "they", "you", "your", "is", "or", "our",
))  # fmt: skip
"""English function words."""
_FOREIGN_WORDS = frozenset((
    "de", "la", "le", "les", "des", "et", "en", "un", "une", "du", "est", "que", "el", "los", "las", "y", "del",
    "por", "con", "una", "der", "die", "und", "das", "den", "ist", "nicht", "mit", "ein", "eine", "di", "il", "che",
    "per", "non", "het", "een", "van", "niet", "dat", "da", "do", "os", "em", "não", "och", "att", "det", "som",
    "är",
))  # fmt: skip
_HAN_PER_CANTONESE_WORD = 50


def identify_language(text: str) -> str:
    """Identify the language of a text, one of `LANGUAGES`; Chinese that fits both scripts is zh-Hans."""
    han, latin, other, *_ = count_char_kinds(text)
    if han + latin + other == 0:
        return "none"
    if other > han + latin or (other > han / 2 and other > latin):  # Japanese: kana among Chinese characters
        return "other"
    if 2 * han >= latin / 2:  # a Chinese character is worth about four Latin letters
        return _identify_chinese(text, han)
    return "en" if _is_english(text) else "other"


def _identify_chinese(text: str, han: int) -> str:
    cantonese = _CANTONESE.findall(text)
    if (
        len(cantonese) * _HAN_PER_CANTONESE_WORD >= han
        and len(set(cantonese)) > 1
        and len(cantonese) > len(_MANDARIN.findall(text))
    ):
        return "yue"
    traditional, simplified = count_script_chars(text)
    return "zh-Hant" if traditional > simplified else "zh-Hans"


def count_script_chars(text: str) -> tuple[int, int]:
    """Count characters that only traditional writing has, and those that only simplified writing has.

    Returns:
        (traditional, simplified).
    """
    codes = code_points(text)
    traditional, simplified = _script_tables()
    in_table = codes[codes < len(traditional)]
    return int(traditional.take(in_table).sum()), int(simplified.take(in_table).sum())


@cache
def _script_tables() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Two bool tables by code point, shape (0x20000,): only traditional, only simplified."""
    all_codes = np.arange(0x20000, dtype=np.uint32)
    traditional = build_conversion_table("simplified") != all_codes
    return traditional, (build_conversion_table("traditional") != all_codes) & ~traditional


def _is_english(text: str) -> bool:
    """Whether Latin text is English: English function words are at least as common as those of other languages."""
    words = [word.lower() for word in _WORD.findall(text)]
    english, foreign = sum(word in ENGLISH_WORDS for word in words), sum(word in _FOREIGN_WORDS for word in words)
    return english >= foreign and (english > 0 or sum(map(len, words)) >= 0.95 * count_char_kinds(text)[1])
