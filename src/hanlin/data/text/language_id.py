"""Language identification: zh-Hans, zh-Hant, yue, en, other, or none for a text without letters.

Mixed text gets the language of most of its letters; code, addresses and names in Latin letters do not make a Chinese
text English. No model: characters and function words decide. Cantonese is told in `hanlin.data.text.cantonese`.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from hanlin.data.text.cantonese import is_cantonese
from hanlin.data.text.char_stats import code_points, count_char_kinds
from hanlin.data.text.patterns import compile_on_use
from hanlin.data.text.script import build_conversion_table

LANGUAGES = ("zh-Hans", "zh-Hant", "yue", "en", "other", "none")
_WORD = compile_on_use("[A-Za-z']+")
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
_PROSE_WORDS = frozenset((
    "the", "of", "to", "a", "an", "that", "was", "were", "are", "be", "been", "have", "has", "had", "they", "their",
    "you", "your", "our", "his", "her", "he", "she", "which", "who", "would", "can", "will", "at", "by", "on",
))  # fmt: skip
"""English function words that are not keywords of programming languages."""
_LETTERS_PER_PROSE_WORD = 12
_NOT_PROSE = compile_on_use(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`|<[a-zA-Z/!][^<>]*>"  # code, tags
    r"|(?:https?|ftp)://[^\s\u3000-\u9fff\uff00-\uffef]+|www\.[\w./-]+"  # addresses
    r"|(?<![\w.+-])[\w.+-]++@[\w-]+\.[\w.-]+"
    r"|(?<![\w.-])(?:[A-Za-z]:)?(?:[\w.-]*[\\/]){2,}[\w.-]*",  # paths
    re.DOTALL | re.ASCII,
)
_KANA = compile_on_use("[\u3041-\u3096]")
_MIN_HAN, _MIN_KANA, _HAN_PER_KANA, _HAN_PER_LATIN = 4, 3, 6, 4


def identify_language(text: str) -> str:
    """Identify the language of a text, one of `LANGUAGES`; Chinese that fits both scripts is zh-Hans."""
    han, latin, other, *_ = count_char_kinds(text)
    if han + latin + other == 0:
        return "none"
    if other > han + latin or (other and _is_japanese(text, han, latin, other)):
        return "other"
    if _HAN_PER_LATIN * han >= latin or (han >= _MIN_HAN and _is_chinese_beside_latin(text, han)):
        return _identify_chinese(text, han)
    return "en" if _is_english(text) else "other"


def _is_japanese(text: str, han: int, latin: int, other: int) -> bool:
    """Whether a text is Japanese: kana among Chinese characters."""
    if other > han / 2:
        return other > latin
    kana = len(_KANA.findall(text))
    return kana >= _MIN_KANA and kana * _HAN_PER_KANA >= han and _HAN_PER_LATIN * (kana + han) >= latin


def _is_chinese_beside_latin(text: str, han: int) -> bool:
    """Whether a text with many Latin letters is Chinese, because they are code, addresses or names, not sentences."""
    prose = _NOT_PROSE.sub(" ", text)
    if _HAN_PER_LATIN * han >= count_char_kinds(prose)[1]:
        return True
    words = sum(word.lower() in _PROSE_WORDS for word in _WORD.findall(prose))
    return words * _LETTERS_PER_PROSE_WORD <= _HAN_PER_LATIN * han


def _identify_chinese(text: str, han: int) -> str:
    if is_cantonese(text, han):
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
