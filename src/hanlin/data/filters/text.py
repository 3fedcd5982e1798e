"""Rules on text: each a function of a text that returns it, perhaps changed, or a Drop with a reason.

Order and default parameters of the rules are in `hanlin.config.settings.rules`. All shares are of characters, because
Chinese text has no word boundaries.
"""

from __future__ import annotations

import math
import re
import unicodedata

from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.lexicons import BETTING_SITES, CALLS_TO_ACTION, SPAM_PHRASES
from hanlin.data.text.prefilter import Prefilter, find_composing_chars

# --- rules that change text -----------------------------------------------------------------------------------------


_FULL_WIDTH = {0xFF10 + i: 0x30 + i for i in range(10)}
_FULL_WIDTH |= {0xFF21 + i: 0x41 + i for i in range(26)} | {0xFF41 + i: 0x61 + i for i in range(26)}
_COMPATIBLE = re.compile("[\u2e80-\u2fdf\ufb00-\ufb06\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_COMPATIBLE_PREFILTER = Prefilter.from_char_class(_COMPATIBLE)
_COMPOSING_PREFILTER = Prefilter([[find_composing_chars()]])


def unicode(text: str) -> str | Drop:
    """Normalize to NFC; full-width letters and digits to ASCII; radicals used as characters (⼈) and ligatures (ﬁ) too.

    Why: one spelling for one thing. Not NFKC as a whole, which would turn ，！？ into ASCII and ² into 2.
    Source: Unicode Standard Annex 15.
    """
    if _COMPOSING_PREFILTER.may_match(text) and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if _COMPATIBLE_PREFILTER.may_match(text):
        text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text.translate(_FULL_WIDTH))
    return text


_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ue000-\uf8ff]"
)
_CONTROL_PREFILTER = Prefilter.from_char_class(re.compile(_CONTROL.pattern + "|[\r\u2028\u2029]"))


def control_characters(text: str) -> str | Drop:
    r"""Remove control, invisible and private-use characters; line ends become `\n`. Joiners of emoji stay.

    Why: they carry no language, each costs tokens, and hidden direction marks can make text display in another order.
    """
    if not _CONTROL_PREFILTER.may_match(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\u2028", "\n").replace("\u2029", "\n")
    return _CONTROL.sub("", text)


_TRAILING_BLANK = re.compile("[ \t\u3000](?:\n|\\Z)")
_INDENT = re.compile("^ ?\u3000[\u3000 ]*", re.M)
_EMPTY_LINES = re.compile(r"\n{3,}")
_WIDE_BLANK_PREFILTER, _TRAILING_BLANK_PREFILTER = Prefilter(["\xa0", "\u3000"]), Prefilter([(" \t\u3000", "\n")])
_EMPTY_LINES_PREFILTER = Prefilter(["\n\n\n"])


def whitespace(text: str) -> str | Drop:
    """Remove trailing blanks, ideographic indents, and empty lines beyond one. ASCII indents stay: they are code."""
    if not (
        _WIDE_BLANK_PREFILTER.may_match(text)
        or _TRAILING_BLANK_PREFILTER.may_match(text)
        or _EMPTY_LINES_PREFILTER.may_match(text)
        or text.endswith((" ", "\t"))
    ):
        return text.strip("\n")
    text = text.replace("\xa0", " ")
    if _TRAILING_BLANK.search(text):
        text = "\n".join(line.rstrip(" \t\u3000") for line in text.split("\n"))
    if "\u3000" in text:
        text = _INDENT.sub("", text)
    if "\n\n\n" in text:
        text = _EMPTY_LINES.sub("\n\n", text)
    return text.strip("\n")


def advertisement_lines(text: str, longest: int, share: float) -> str | Drop:
    """Remove short lines that ask to scan, click, follow or call, and boilerplate (editor, copyright, links).

    Why: they are on millions of pages and in no conversation. Lines longer than `longest` characters (default 80) stay:
    they are sentences that mention such a thing. A text of which more than `share` is such lines has no content beside
    them and is dropped. Source: the line rules of C4 (Raffel et al. 2020, section 2.2), adapted to Chinese pages.
    """
    if not CALLS_TO_ACTION.prefilter.may_match(text):
        return text
    calls = CALLS_TO_ACTION.pattern.search
    left = "\n".join(line for line in text.split("\n") if len(line) > longest or not calls(line))
    called = 1 - len(left) / len(text)
    return Drop("advertisement", f"share {called:.2f} in lines with calls to action") if called > share else left


# --- rules that drop text -------------------------------------------------------------------------------------------


def replacement_characters(text: str, share: float, allowed: int) -> str | Drop:
    """Drop a text with more than this share of U+FFFD, which decoders write for undecodable bytes.

    One or two of them (`allowed`, default 2) do not cost a text of any length, as long as they are not more than one
    character in twenty of it: a page that lost one character of 150 is worth keeping.
    """
    lost = text.count("\ufffd")
    if lost <= share * len(text) or (lost <= allowed and lost * 20 <= len(text)):
        return text
    return Drop("replacement_characters", f"{lost} of {len(text)}")


def symbols(text: str, share: float) -> str | Drop:
    """Drop a text if more than this share of its non-blank characters are no letters, digits or common punctuation.

    Source: Rae et al. 2021 (Gopher), section A.1.1, symbol-to-word ratio 0.1; here 0.4 of the characters, which keeps
    tables, code and formulas.
    """
    han, latin, other, digit, point, symbol, _ = count_char_kinds(text)
    filled = han + latin + other + digit + point + symbol
    return Drop("symbols", f"share {symbol / filled:.2f}") if filled and symbol > share * filled else text


def chinese_or_english(text: str, share: float) -> str | Drop:
    """Drop a text if less than this share of its letters is Chinese or Latin.

    Why: the model is for Chinese and English, and pages that mix other scripts in are mostly machine-made.
    """
    han, latin, other, *_ = count_char_kinds(text)
    letters = han + latin + other
    if letters and han + latin < share * letters:
        return Drop("other_language", f"share {(han + latin) / letters:.2f}")
    return text


def advertisements(text: str, per_thousand: float, different: int) -> str | Drop:
    """Drop a text with `per_thousand` phrases of gambling, quack medicine, sales and the like in 1,000 characters.

    At least `different` of them must differ, so that an article on one such matter stays. Two mentions of betting
    sites by name are enough at any length: they are pasted into copied news. Defaults 5 and 3, chosen on labeled spam
    against encyclopedia, law and news. Advertising that reads like an article cannot be told by phrases.
    """
    if names := BETTING_SITES.find_all(text, minimum=2):
        return Drop("advertisement", "、".join(sorted(set(names))[:5]))
    hits = SPAM_PHRASES.find_all(text, minimum=max(different, math.ceil(per_thousand * len(text) / 1000)))
    if len(hits) * 1000 >= per_thousand * len(text) and len(set(hits)) >= different:
        return Drop("advertisement", "、".join(sorted(set(hits))[:5]))
    return text
