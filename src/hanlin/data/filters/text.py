"""The rules that clean text: each a function of a text that returns it, perhaps changed, or a Drop with a reason.

Owns what a rule does and why. Does not own the rules' order and default parameters (`hanlin.config.settings.data`), nor
rules on whole conversations (`conversations`); rules with much to know have modules of their own (`personal`,
`languages`, `scanned`). All shares are of characters, for Chinese has no words to count.
"""

from __future__ import annotations

import html as entities
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html.parser import HTMLParser

import numpy as np

from hanlin.config.settings.data import Rule
from hanlin.data.filters.mojibake import repair
from hanlin.data.filters.ocr import markdown, ocr_debris
from hanlin.data.filters.pii import personal_data
from hanlin.data.filters.verse import is_verse, without_code, without_rules
from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import code_points, profile, repetition
from hanlin.data.text.language_id import chinese_share, language
from hanlin.data.text.lexicons import BETTING, CALLS_TO_ACT, SELLING, words
from hanlin.data.text.prefilter import Sign, composing_characters

TextRule = Callable[[str], str | Drop]


def text_rules(rules: Iterable[Rule]) -> list[tuple[str, TextRule]]:
    """The functions of the rules on text among `rules`, each with its parameters set, in order."""
    return [(rule.name, partial(RULES[rule.name], **rule.parameters)) for rule in rules if rule.name in RULES]


def clean(text: str, rules: Sequence[tuple[str, TextRule]]) -> tuple[str, tuple[str, ...]] | Drop:
    """The text after every rule, and the names of the rules that changed it; or the first Drop.

    Half characters (lone surrogates, from `\\ud83d` in JSON) are no text and are dropped whatever the rules.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return Drop("broken_characters", f"U+{ord(text[error.start]):04X}")
    changed = []
    for name, rule in rules:
        after = rule(text)
        if isinstance(after, Drop):
            return after
        if after != text:
            changed.append(name)
            text = after
    return text, tuple(changed)


# --- rules that mend ------------------------------------------------------------------------------------------------


def mojibake(text: str, tolerated: float) -> str | Drop:
    """Turn back what was decoded with the wrong encoding; drop the text when more than this share is beyond repair.

    Why: a model learns `å¥½` as eagerly as 好. Default 0.005: a few stray characters in a long page may stay.
    """
    mended, lost = repair(text)
    if lost > tolerated * len(text):
        return Drop("mojibake", f"{lost} of {len(text)} characters")
    return mended


_PAGE = re.compile(
    r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|div|p|table|span|article|section)\b", re.I | re.S
)
_TAG = re.compile(
    r"</?(?:p|br|div|span|a|b|i|em|strong|table|t[rdh]|tbody|li|ul|ol|h[1-6]|img|font|center|script)\b[^<>]*>", re.I
)
_ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|[lr]dquo|[lr]squo|middot|hellip|mdash|ndash|#\d{2,6}|#x[0-9a-f]{2,5});", re.I
)


def html(text: str) -> str | Drop:
    """Take the text out of a page of HTML, and entities out of plain text.

    Why: tags and scripts are no language. What is a page is told by how it opens or by a common tag in every 100
    characters, some of them closing; text that only speaks of tags (`<p>`, or fenced by ```) is left alone.
    """
    if "<" not in text and "&" not in text:
        return text
    fenced = "```" in text or "`<" in text
    tagged = not fenced and "</" in text and len(_TAG.findall(text)) * 100 > len(text)
    if not fenced and (tagged or _PAGE.match(text)):
        reader = _PageReader()
        reader.feed(text)
        reader.close()
        return reader.text() or Drop("no_text", "a page that shows none")
    if not fenced and "&" in text and _ENTITY.search(text):
        return _ENTITY.sub(lambda match: entities.unescape(match.group()), text)
    return text


class _PageReader(HTMLParser):
    """Collects what a page shows; block elements end a line."""

    silent = words("script style head noscript template svg iframe nav footer select button")
    blocks = words(
        "p div br li ul ol table tr h1 h2 h3 h4 h5 h6 section article header blockquote pre dd dt dl hr form"
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.silent:
            self._hidden.append(tag)
        elif tag in self.blocks:
            self._parts.append("\n")
        elif tag == "body":
            self._hidden.clear()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag in self.blocks:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data)

    def text(self) -> str:
        lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in "".join(self._parts).split("\n"))
        return "\n".join(line for line in lines if line)


_WIDE = {0xFF10 + i: 0x30 + i for i in range(10)}
_WIDE |= {0xFF21 + i: 0x41 + i for i in range(26)} | {0xFF41 + i: 0x61 + i for i in range(26)}
_COMPATIBLE = re.compile("[\u2e80-\u2fdf\ufb00-\ufb06\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
_MAY_BE_COMPATIBLE = Sign.of_any(_COMPATIBLE)
_MAY_COMPOSE = Sign([[composing_characters()]])


def unicode(text: str) -> str | Drop:
    """NFC; full-width letters and digits as ASCII; radicals that stand for characters (⼈) and ligatures (ﬁ) resolved.

    Why: one spelling for one thing. Not NFKC as a whole, which would turn ，！？ into ASCII and ² into 2.
    Source: Unicode Standard Annex 15.
    """
    if _MAY_COMPOSE.may_be_in(text) and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if _MAY_BE_COMPATIBLE.may_be_in(text):
        text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text.translate(_WIDE))
    return text


_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ue000-\uf8ff]"
)
_MAY_BE_CONTROL = Sign.of_any(re.compile(_CONTROL.pattern + "|[\r\u2028\u2029]"))


def control_characters(text: str) -> str | Drop:
    """Take out control, invisible and private-use characters; line ends become `\\n`. Joiners of emoji stay.

    Why: they carry no language, each costs tokens, and hidden direction marks can make text read otherwise than shown.
    """
    if not _MAY_BE_CONTROL.may_be_in(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\u2028", "\n").replace("\u2029", "\n")
    return _CONTROL.sub("", text)


_BLANK_AT_END = re.compile("[ \t\u3000](?:\n|\\Z)")
_INDENT = re.compile("^ ?\u3000[\u3000 ]*", re.M)
_EMPTY_LINES = re.compile(r"\n{3,}")
_MAY_BE_WIDE_BLANK, _MAY_END_IN_BLANK = Sign(["\xa0", "\u3000"]), Sign([(" \t\u3000", "\n")])
_MAY_BE_EMPTY_LINES = Sign(["\n\n\n"])


def whitespace(text: str) -> str | Drop:
    """Take out trailing blanks, ideographic indents, and empty lines beyond one. ASCII indents stay: they are code."""
    if not (
        _MAY_BE_WIDE_BLANK.may_be_in(text)
        or _MAY_END_IN_BLANK.may_be_in(text)
        or _MAY_BE_EMPTY_LINES.may_be_in(text)
        or text.endswith((" ", "\t"))
    ):
        return text.strip("\n")
    text = text.replace("\xa0", " ")
    if _BLANK_AT_END.search(text):
        text = "\n".join(line.rstrip(" \t\u3000") for line in text.split("\n"))
    if "\u3000" in text:
        text = _INDENT.sub("", text)
    if "\n\n\n" in text:
        text = _EMPTY_LINES.sub("\n\n", text)
    return text.strip("\n")


def advertisement_lines(text: str, longest: int, share: float) -> str | Drop:
    """Take out short lines that call to scan, click, follow or phone, and page furniture (editor, copyright, links).

    Why: they stand on millions of pages and in no conversation. Default 80 characters: longer lines are sentences that
    mention such a thing. When more than `share` of the text is such lines, there is no text around them, and it is
    dropped. Source: the line rules of C4 (Raffel et al. 2020, section 2.2), for Chinese pages.
    """
    if not CALLS_TO_ACT.sign.may_be_in(text):
        return text
    calls = CALLS_TO_ACT.pattern.search
    left = "\n".join(line for line in text.split("\n") if len(line) > longest or not calls(line))
    called = 1 - len(left) / len(text)
    return Drop("advertisement", f"share {called:.2f} in lines that call to act") if called > share else left


# --- rules that judge -----------------------------------------------------------------------------------------------


def replacement_characters(text: str, share: float) -> str | Drop:
    """Drop a text with more than this share of U+FFFD, the mark that a decoder left for a lost character."""
    lost = text.count("\ufffd")
    return Drop("replacement_characters", f"{lost} of {len(text)}") if lost > share * len(text) else text


def repeated_lines(text: str, share: float) -> str | Drop:
    """Drop a text when more than this share of its characters is in lines that stood above already.

    Source: Rae et al. 2021 (Gopher, arXiv 2112.11446), table A1: duplicate line fraction 0.30, duplicate line character
    fraction 0.20. Only characters are counted here, at 0.50: verse and plays repeat lines. Fenced code is not counted:
    manuals show it again step by step.
    """
    lines = list(map(str.strip, text.split("\n")))
    different = set(lines)
    if len(lines) < 3 or len(different) == len(lines):
        return text
    total, once = sum(map(len, lines)), sum(map(len, different))
    if total == 0 or total - once <= share * total:
        return text
    if (prose := without_code(text)) != text:
        judged = repeated_lines(prose, share)
        return judged if isinstance(judged, Drop) else text
    return Drop("repeated_lines", f"share {(total - once) / total:.2f}")


def repeated_phrases(text: str, share: float, length: int) -> str | Drop:
    """Drop a text when more than this share of its characters is in phrases of `length` characters seen shortly before.

    Source: Rae et al. 2021 (Gopher), table A1, duplicate 10-gram character fraction 0.10, over *words* of a whole
    document. Here 15 Chinese characters (45 where Latin letters prevail), about 10 words, within windows of 5,000
    characters, so that a long book is not judged by its length. Default 0.40: laws, menus and classical verse with
    refrains stay below; at 0.10 a criminal code would go. Fenced code and drawn rules are not counted, and a song
    may repeat three quarters of itself.
    """
    han, latin, *_ = profile(text)
    found = repetition(text, length if han >= latin else 3 * length, share)
    if found <= share or (found <= _MOST_OF_A_SONG and is_verse(text)):
        return text
    if (prose := without_rules(without_code(text))) != text:
        judged = repeated_phrases(prose, share, length)
        return judged if isinstance(judged, Drop) else text
    return Drop("repeated_phrases", f"share {found:.2f}")


_MOST_OF_A_SONG = 0.75


def repeated_characters(text: str, share: float, run: int) -> str | Drop:
    """Drop a text when more than this share lies in runs of one character, `run` or longer (哈哈哈…, ！！！！).

    Indents, decimals (0.333…) and drawn rules (-----, ＿＿＿) are not counted, for code, tables and sums have them;
    unless the rules are most of the text.
    """
    if _share_in_runs(text, run, share) <= share:
        return text
    found = _share_in_runs(without_rules(text), run, share)
    return Drop("repeated_characters", f"share {found:.2f}") if found > share else text


def _share_in_runs(text: str, run: int, enough: float) -> float:
    """0 when it cannot be more than `enough`."""
    codes = code_points(text)
    same = np.count_nonzero(codes[1:] == codes[:-1])
    if len(codes) < run or same * run <= enough * len(codes) * (run - 1):
        return 0.0
    ends = np.flatnonzero(np.append(codes[1:] != codes[:-1], True))
    lengths = np.diff(ends, prepend=-1)
    return int(lengths[lengths >= run].sum()) / len(codes)


def symbols(text: str, share: float) -> str | Drop:
    """Drop a text when more than this share of what is not blank is neither letter, digit nor common punctuation.

    Source: Rae et al. 2021 (Gopher), section A.1.1, symbol-to-word ratio 0.1; restated for characters at 0.4, which
    keeps tables, code and formulas.
    """
    han, latin, other, digit, point, symbol, _ = profile(text)
    filled = han + latin + other + digit + point + symbol
    return Drop("symbols", f"share {symbol / filled:.2f}") if filled and symbol > share * filled else text


def chinese_or_english(text: str, share: float) -> str | Drop:
    """Drop a text when less than this share of its letters is Chinese or Latin.

    Why: other scripts are not this model's business, and pages that mix them are mostly machine-made.
    """
    han, latin, other, *_ = profile(text)
    letters = han + latin + other
    if letters and han + latin < share * letters:
        return Drop("other_language", f"share {(han + latin) / letters:.2f}")
    return text


def advertisements(text: str, per_thousand: float, different: int) -> str | Drop:
    """Drop a text with this many phrases of gambling, quack medicine, sales and the like in a thousand characters.

    At least `different` of them must differ, so that an article on one such matter stays. Two mentions of betting
    sites by name are enough at any length: they are pasted into copied news. Defaults 5 and 3, set on marked spam
    against encyclopedia, law and news; advertising that reads like an article is not told from one by phrases.
    """
    if names := BETTING.found(text, least=2):
        return Drop("advertisement", "、".join(sorted(set(names))[:5]))
    hits = SELLING.found(text, least=max(different, math.ceil(per_thousand * len(text) / 1000)))
    if len(hits) * 1000 >= per_thousand * len(text) and len(set(hits)) >= different:
        return Drop("advertisement", "、".join(sorted(set(hits))[:5]))
    return text


RULES: dict[str, Callable[..., str | Drop]] = {
    rule.__name__: rule
    for rule in (
        mojibake,
        html,
        unicode,
        control_characters,
        whitespace,
        replacement_characters,
        advertisement_lines,
        repeated_lines,
        repeated_phrases,
        repeated_characters,
        symbols,
        chinese_or_english,
        advertisements,
        markdown,
        ocr_debris,
        personal_data,
        chinese_share,
        language,
    )
}
