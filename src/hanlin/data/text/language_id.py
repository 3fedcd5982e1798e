"""Which language a text is written in: zh-Hans, zh-Hant, yue, en, other, or none where it has no letters.

Owns the signs that tell them apart. Mixed text counts as what most of its letters are.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import code_points, profile
from hanlin.data.text.lexicons import words
from hanlin.data.text.script import folded_characters

LANGUAGES = ("zh-Hans", "zh-Hant", "yue", "en", "other", "none")
_CANTONESE = re.compile("[嘅咗佢哋冇嚟喺啲嘢咁噉乜嗰攞畀瞓嬲咩喎啩嘥唔]|係咪|邊度|點解|而家|鍾意|鐘意|睇")
_STANDARD = re.compile("[的們這那嗎吧們这们吗]|什麼|什么")
_WORD = re.compile("[A-Za-z']+")
ENGLISH_WORDS = words(
    "the of and to that for it was with be by not this are from at which have they you your is or our"
)
_FOREIGN = words(
    """de la le les des et en un une du est que el los las y del por con una der die und das den ist nicht mit ein eine
    di il che per non het een van niet dat da do os em não och att det som är"""
)
_PER_CANTONESE = 50


def language(text: str, keep: str, shortest: int) -> str | Drop:
    """Drop a text in another language than those in `keep` (zh-Hans zh-Hant yue en, blanks between).

    A text with fewer than `shortest` letters stays: too short to tell. Why: a corpus meant as Mandarin often holds
    Cantonese forum pages and traditional pages, and models mix what they read. Signs: characters that OpenCC would
    simplify; the words that only written Cantonese uses (嘅 咗 唔 佢 哋 冇 喺 …), one in fifty characters and more of
    them than of 的 這 們; for English its small words (the of and), against those of other languages (de la der und).
    Not in the default set, which keeps all four.
    """
    han, latin, other, *_ = profile(text)
    if han + latin + other < shortest:
        return text
    found = language_of(text)
    return text if found == "none" or found in keep.replace(",", " ").split() else Drop("unwanted_language", found)


def language_of(text: str) -> str:
    """The language of a text, one of `LANGUAGES`; Chinese without a sign either way counts as zh-Hans."""
    han, latin, other, *_ = profile(text)
    if han + latin + other == 0:
        return "none"
    if other > han + latin or (other > han / 2 and other > latin):  # kana stand among Chinese characters
        return "other"
    if 2 * han >= latin / 2:  # a Chinese character is worth about four Latin letters
        return _chinese(text, han)
    return "en" if _is_english(text) else "other"


def _chinese(text: str, han: int) -> str:
    spoken = _CANTONESE.findall(text)
    if len(spoken) * _PER_CANTONESE >= han and len(set(spoken)) > 1 and len(spoken) > len(_STANDARD.findall(text)):
        return "yue"
    traditional, simplified = signs(text)
    return "zh-Hant" if traditional > simplified else "zh-Hans"


def signs(text: str) -> tuple[int, int]:
    """How many characters stand in traditional writing alone, and how many in simplified alone."""
    codes = code_points(text)
    traditional, simplified = _tables()
    near = codes[codes < len(traditional)]
    return int(traditional.take(near).sum()), int(simplified.take(near).sum())


@cache
def _tables() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """For each code point: whether simplifying changes it, and whether only complicating does."""
    places = np.arange(0x20000, dtype=np.uint32)
    traditional = folded_characters("simplified") != places
    return traditional, (folded_characters("traditional") != places) & ~traditional


def _is_english(text: str) -> bool:
    """Whether Latin letters are English: its small words are as common as those of other languages, or more."""
    found = [word.lower() for word in _WORD.findall(text)]
    english, foreign = sum(word in ENGLISH_WORDS for word in found), sum(word in _FOREIGN for word in found)
    return english >= foreign and (english > 0 or sum(map(len, found)) >= 0.95 * profile(text)[1])


def chinese_share(text: str, share: float) -> str | Drop:
    """Drop a text when less than this share of its letters is Chinese; four Latin letters count as one.

    Why: pages that are Chinese by their menu alone teach little Chinese. Default 0.3, far below prose with English
    terms in it. Not in the default set, for English is kept there (replay).
    """
    han, latin, other, *_ = profile(text)
    letters = han + latin / 4 + other
    if letters and han < share * letters:
        return Drop("little_chinese", f"share {han / letters:.2f}")
    return text
