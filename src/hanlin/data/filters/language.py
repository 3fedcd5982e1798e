"""Rules on the language of a text."""

from __future__ import annotations

from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.language_id import identify_language


def language(text: str, keep: str, shortest: int) -> str | Drop:
    """Drop a text in a language that is not in `keep` (zh-Hans zh-Hant yue en, separated by blanks).

    A text with fewer than `shortest` letters stays: too short to tell. Why: a corpus meant as Mandarin often contains
    Cantonese forum pages and traditional pages, and models mix what they read. Evidence: characters that OpenCC would
    simplify; characters, words and verb endings that only written Cantonese uses (嘅 咗 唔 佢, 屋企, 食緊), weighed
    against those of Mandarin (的 這 們); for English its function words (the of and) against those of other languages
    (de la der und) and of Chinese, so that code, addresses and names in Latin letters do not count. Not in the default
    set, which keeps all four.
    """
    han, latin, other, *_ = count_char_kinds(text)
    if han + latin + other < shortest:
        return text
    identified = identify_language(text)
    return (
        text
        if identified == "none" or identified in keep.replace(",", " ").split()
        else Drop("unwanted_language", identified)
    )


def chinese_share(text: str, share: float) -> str | Drop:
    """Drop a text if less than this share of its letters is Chinese; four Latin letters count as one.

    Why: pages of which only the menu is Chinese teach little Chinese. Default 0.3, far below prose with English terms
    in it. Not in the default set, because English is kept there (replay).
    """
    found = han_share(text)
    return text if found is None or found >= share else Drop("little_chinese", f"share {found:.2f}")


def han_share(text: str) -> float | None:
    """The share of a text's letters that is Chinese, four Latin letters counted as one; None without letters."""
    han, latin, other, *_ = count_char_kinds(text)
    letters = han + latin / 4 + other
    return han / letters if letters else None
