"""Properties of a text that need no library: its language, and whether it is valid Unicode."""

from __future__ import annotations

from typing import Literal

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

Language = Literal["zh", "en", "other", "none"]


_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


_CJK_SINGLE = (0x3005, 0x3007)  # 々 and 〇, written like characters though Unicode files them elsewhere


def answer_language(text: str) -> Language:
    """`zh` if Chinese characters are at least half of the letters, else `en` if Latin letters are, else `other`.

    Digits and punctuation do not count; the language of a text without letters is `none`.
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
    """Whether a text can be encoded: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str, where: str | None = None) -> None:
    """Raise UserError if a text holds half of a surrogate pair, which no encoding can write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        position = error.start + 1
        what = tr("character {position} of the text is half of a surrogate pair", position=position)
        hint = tr("it comes from a broken \\u escape: clean the text")
        raise UserError(what, where, hint) from error
