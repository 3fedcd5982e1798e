"""Properties of a text that need no library: its language, and whether it is valid Unicode."""

from __future__ import annotations

from typing import Literal

from hanlin.core.errors import UserError
from hanlin.core.i18n import say

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


def is_valid_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str, where: str | None = None) -> None:
    """Raise UserError when a text holds half a surrogate pair: no encoding can write it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = error.start + 1
        what = say(f"character {place} of the text is half a surrogate pair", f"文本第 {place} 个字符是半个代理对")
        hint = say("it comes from a broken \\u escape: clean the text", "这来自损坏的 \\u 转义：请清洗文本")
        raise UserError(what, where, hint) from error
