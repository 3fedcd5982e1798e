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
from hanlin.data.text.lexicons import (
    BETTING_SITES,
    CASH_CUES,
    CASH_KEYWORD,
    CLOSING_CONTACT,
    CLOSING_CONTACT_CUES,
    CLOSING_OFFER,
    COPY_CUE,
    DIRECT_OFFER,
    EDITOR_CUES,
    EDITOR_FRAME,
    GENERATED,
    GENERATED_CUE,
    HIDDEN_MESSENGER,
    HIDDEN_NUMBER,
    ILLEGAL_CONTACT,
    ILLEGAL_OFFER,
    INSTITUTION,
    LISTINGS,
    LONG_NUMBER,
    MARKED_CASH_KEYWORD,
    NO_OFFER,
    NOT_A_SALES_CALL,
    NOT_A_SMALL_AD,
    NOT_AN_OFFER,
    NOVEL_CUES,
    NOVEL_SITE,
    ON_BETTING,
    ON_CASH,
    ON_CRIME,
    ON_OFFERS,
    OPENING_ADDRESS,
    OPENING_CONTACT,
    PINYIN_IN_BRACKETS,
    SALES_CALL,
    SALES_CALL_WORDS,
    SEWN_IN_BETTING,
    SEWN_SHEET,
    SEWN_SHEET_CUES,
    SMALL_AD,
    SMALL_AD_OFFER,
    SOLD_TIPS,
    SOLD_TIPS_CUE,
    SPAM_PHRASES,
    SPUN,
    SPUN_CUE,
    SPUN_STATE,
    SPUN_WORD,
    STATE_CUE,
)
from hanlin.data.text.prefilter import Prefilter, find_composing_chars
from hanlin.data.text.verse import MAX_POST_CHARS, strip_emoticons

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
    if text.isascii():  # nothing of this is ASCII, and a flag is read faster than a text is scanned
        return text
    if _COMPOSING_PREFILTER.may_match(text) and not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    if _COMPATIBLE_PREFILTER.may_match(text):
        text = _COMPATIBLE.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text.translate(_FULL_WIDTH))
    return text


_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ue000-\uf8ff]"
)
_PAGE_BREAK = re.compile("(?<![\n\x0b\x0c])[\x0b\x0c]++(?!\n)")
"""Ends of lines and pages (\\v of slides and sheets, \\f of scanned pages) that no line end is beside."""
_ASCII_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_CONTROL_PREFILTER = Prefilter.from_char_class(re.compile(_CONTROL.pattern + "|[\r\u2028\u2029]"))


def control_characters(text: str) -> str | Drop:
    r"""Remove control, invisible and private-use characters; line ends become `\n`. Joiners of emoji stay.

    Why: they carry no language, each costs tokens, and hidden direction marks can make text display in another order.
    """
    if not (_ASCII_CONTROL.search(text) if text.isascii() else _CONTROL_PREFILTER.may_match(text)):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.replace("\u2028", "\n").replace("\u2029", "\n")
    if "\x0b" in text or "\x0c" in text:  # removed, they would join two words
        text = _PAGE_BREAK.sub("\n", text)
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


# --- rules that drop text -------------------------------------------------------------------------------------------


def replacement_characters(text: str, most_cut: float, allowed: int) -> str | Drop:
    """Cut what lost characters: U+FFFD, which decoders write for undecodable bytes. Drop a text if that is too much.

    A line that lost one character in a hundred and more is cut, or its comment if it is code; from other lines only the
    U+FFFD are cut, so that a page of long paragraphs stays. A text goes if more than `most_cut` of it (default 0.2)
    would be cut, a half if it lost no more than `allowed` characters (default 5); or if it lost more than these in long
    lines, and one in a thousand. Up to three U+FFFD in a row are one character, because decoders write one for each
    byte of it. One or two of them do not cost a text of any length, as long as they are not more than one character in
    twenty of it: a post that lost one character of 50 is worth keeping. Lines that speak of U+FFFD stay, or have it
    alone in quotes, as programs do that look for it; and a line that lost but the mark of an item loses no more.
    """
    if "\ufffd" not in text:
        return text
    lines = text.split("\n")
    cut = sparse = 0
    left = []
    for line in lines:
        if "\ufffd" not in line or _ON_REPLACEMENT.search(line):
            left.append(line)
            continue
        if (bullet := _LOST_BULLET.match(line)) and "\ufffd" not in line[bullet.end() :]:
            left.append(line[bullet.end() :])
            sparse += 1
            continue
        lost = len(_LOST_CHARACTER.findall(line))
        if lost * _MIN_SPARSE_CHARS <= len(line):
            sparse += lost
            left.append(line.replace("\ufffd", ""))
            continue
        comment = _COMMENT.search(line)
        kept = line[: comment.start()] if comment and comment.end() <= line.index("\ufffd") else ""
        cut += len(line) - len(kept)
        if kept.strip():
            left.append(kept.rstrip())
    lost = len(_LOST_CHARACTER.findall(text))
    most = max(most_cut, _MAX_CUT_FOR_FEW) if lost <= allowed else most_cut
    if cut <= most * len(text) and (sparse <= allowed or sparse * _MIN_CHARS_PER_LOST <= len(text)):
        return "\n".join(left)
    if lost <= _MAX_LOST_IN_POST and lost * _MIN_POST_CHARS_PER_LOST <= len(text):
        return text.replace("\ufffd", "")
    return Drop("replacement_characters", f"{lost} of {len(text)}")


_LOST_CHARACTER = re.compile("\ufffd{1,3}")
_LOST_BULLET = re.compile("[ \t]*\ufffd{1,3}[ \t]+(?=\\w)")
"""A mark before an item, of which nothing else is lost."""
_COMMENT = re.compile(r"(?<!:)//|/\*|<!--|(?<=\s)(?:#|--)(?=\s)")
"""What begins a comment in a line of code; `//` of an address does not."""
_ON_REPLACEMENT = re.compile(
    "U\\+FFFD|([\"'`])\ufffd\\1|(?i:replacement char)|替[换換]字符|乱码|亂碼"
    "|(?:变成|變成|显示[成为]|替换[成为]|换成)\\W{0,2}\ufffd"
)
_MIN_SPARSE_CHARS, _MIN_CHARS_PER_LOST, _MAX_CUT_FOR_FEW = 100, 1_000, 0.5
_MAX_LOST_IN_POST, _MIN_POST_CHARS_PER_LOST = 2, 20


def symbols(text: str, share: float) -> str | Drop:
    """Drop a text if more than this share of its non-blank characters are no letters, digits or common punctuation.

    Source: Rae et al. 2021 (Gopher), section A.1.1, symbol-to-word ratio 0.1; here 0.4 of the characters, which keeps
    tables, code and formulas. Marks of Markdown, rules and frames are not counted: a table of short cells has more of
    them than of anything else. Nor are emoticons ([泪][泪], ⊙▽⊙), which many posts have more of than of words; a text
    of nothing else goes. In up to 200 characters a run of one symbol is one, because people write ///////.
    """
    if _symbol_share(text) <= share:
        return text
    words = _FORMAT_MARKS.sub("", strip_emoticons(text))
    symbol = _symbol_share(_SYMBOL_RUN.sub(r"\1", words) if len(text) <= MAX_POST_CHARS else words)
    return Drop("symbols", f"share {symbol:.2f}") if symbol > share else text


_SYMBOL_RUN = re.compile(r"([^\w\s])\1{2,}")
_FORMAT_MARKS = re.compile(r"[*|`~〜\u2500-\u257f]|([-=_#+.·•─━═＿．⋯])\1+")


def _symbol_share(text: str) -> float:
    *others, symbol, _ = count_char_kinds(text)
    filled = sum(others) + symbol
    return symbol / filled if filled else 1.0


def chinese_or_english(text: str, share: float) -> str | Drop:
    """Drop a text if less than this share of its letters is Chinese or Latin.

    Why: the model is for Chinese and English, and pages that mix other scripts in are mostly machine-made. Letters in
    emoticons are not counted ((´θ｀)ノ), nor are one or two in all (迷の人): they are no text of another language.
    """
    han, latin, other, *_ = count_char_kinds(text)
    letters = han + latin + other
    if not letters or han + latin >= share * letters:
        return text
    if len(text) <= MAX_POST_CHARS:
        han, latin, other, *_ = count_char_kinds(_MARKS_ON_LETTERS.sub("", strip_emoticons(text)))
        letters = han + latin + other
        if other < _MIN_OTHER_LETTERS or han + latin >= share * letters:
            return text
    return Drop("other_language", f"share {(han + latin) / letters:.2f}")


_MIN_OTHER_LETTERS = 3
_MARKS_ON_LETTERS = re.compile("[ʕʔʘᴗᴥ\u0300-\u036f\u0f00-\u0fff\u20d0-\u20ff\u3131-\u318e]")
"""Combining marks, Tibetan marks, jamo and the five phonetic letters that posts draw faces with (ʕ•ᴥ•ʔ)."""


_CHARS_PER_BETTING_NAME = 1_200
_MIN_SALES_CHARS, _MAX_SALES_CHARS, _CLOSING_CHARS = 200, 3_000, 120
_ABSTRACT = re.compile(r"^[^\w\n]*(?:本文|文章)摘要[：:]\s*(\S[^\n]{5,})", re.M)
_ABSTRACT_HEAD, _ABSTRACT_END = 15, 12
_MIN_INSTITUTION_WORDS, _MIN_GENERATED = 4, 4
_MAX_COPY_CHARS = 5_000
_MIN_OFFER_CHARS, _CONTACT_CHARS, _OFFER_CHARS = 150, 120, 300
_OPENING_CHARS = 24
_MAX_LISTING_CHARS, _MIN_LISTED = 2_000, 3
_MAX_BLURB_CHARS, _MAX_FRAME_CHARS, _MIN_FORMULAS, _MIN_CRIME_WORDS = 600, 300, 2, 2
_BETTING_CUES = (
    *("赌博", "网赌", "赌球", "娱乐平", "娱乐城", "娱乐网", "娱乐官", "娱人网", "葡京", "萄京"),
    *("棋牌", "比分网", "快三"),
)
"""One of them is in every `SEWN_IN_BETTING`."""
_COPY_CUES = ("文摘要", *_BETTING_CUES)
_COPY_PREFILTER = Prefilter(_COPY_CUES)
_MIN_SPUN_WORDS = 2
_CLOSING_CONTACT_CHARS, _MAX_SMALL_AD_CHARS = 150, 200
_MIN_PINYIN, _CHARS_PER_PINYIN, _MAX_PINYIN_SHARE = 3, 40, 1 / 3
_DIGITS = re.compile(r"\d{4}")
_CLOSING_BET_CHARS, _KEYWORDS_CHARS, _MIN_TITLE_WORDS = 24, 300, 4
_KEYWORDS = re.compile(r"关键[词字][：:]\s*([^\n]{8,})")
_KEYWORD_MARK, _NO_WORD = re.compile("[,，、]"), re.compile(r"\W")
_CLOSING_BET = re.compile(r"[：:][^\s，。：:、]{1,14}(?:下注|投注|买球|赌场|棋牌)\W*\Z")


def advertisements(text: str, per_thousand: float, different: int) -> str | Drop:
    """Drop a text with `per_thousand` phrases of gambling, quack medicine, sales and the like in 1,000 characters.

    At least `different` of them must differ, so that an article on one such matter stays. Two mentions of betting
    sites by name are enough, one for each 1,200 characters: they are pasted into copied news. So is one name in the
    first 24 characters of a text that does not speak of betting, the number of a telephone or messenger in the first
    120 of one that neither asks for help nor complains, and one word of theirs after a last colon, or on a page of a
    school or institute that does not speak of betting (赌博软件师范学院). Copies with words replaced have a form:
    本文摘要： and then the same beginning or end again, or 本文关键词： at the end and then the words of the title
    one by one; and so have essays of a widespread generator. A text of 200 to 3,000 characters whose last 120 call to
    buy or to ask a company (欢迎来电洽谈) is written to sell. A text in which 民 has become 平易近, or 国 邦, was
    rewritten by a program, one that begins with a keyword between two marks and an address was sewn together, one of
    up to 600 characters sells tips for a lottery (pk10计划，加微信), and a short one has nothing else that has two
    formulas of novel sites (无弹窗, 最新章节) or ends where the editor of a site announces a sample (一起来看看吧).
    In up to 2,000 characters three items of an offer of a flat, of goods or of a loan are one (户型介绍, 业主诚心;
    供应地：, 包装说明：; 黑户, 下款). Two words of a program of synonyms (伴跟着, 德律风) show its work, and so do in
    up to 600 characters headlines in a data sheet and sounds in brackets, 最(zui)大(da), one for each 40 characters.
    The same words of offers of cash twice in up to 600 characters are scattered there to be found (白条提现, 花呗套现),
    unless they tell of risks, rules or crimes. A detective, a hacker or a call girl with a number in the first 120
    characters is an advertisement, and so are the number of a messenger beside an offer in the last 150
    (亏损咨询加微信), its name in disguise there (幑の信), and a text of up to 200 that offers something and ends with
    a telephone number.
    Phrases and names are not counted on pages of the police and the courts, which warn of them. Defaults 5 and 3, on
    labeled spam against encyclopedia, law and news. Advertising that reads like an article is for `advertorials`.
    """
    copied = _COPY_PREFILTER.may_match(text) and any(
        text.startswith(_COPY_CUES, start) for start in _COPY_PREFILTER.find_starts(text)
    )
    if copied and "文摘要" in text and (abstract := _ABSTRACT.search(text)):
        rest, lead = text[abstract.end() :], abstract[1].rstrip()
        if lead[:_ABSTRACT_HEAD] in rest or lead[-_ABSTRACT_END:] in rest:
            return Drop("advertisement", abstract[0][:20])
    closing_part = text[-_KEYWORDS_CHARS:]
    closing = closing_part[-_CLOSING_BET_CHARS:]
    if ("：" in closing or ":" in closing) and (closing_bet := _CLOSING_BET.search(closing)):
        return Drop("advertisement", closing_bet[0])
    if "关键" in closing_part and (keywords := _find_title_keywords(text, closing_part)):
        return Drop("advertisement", keywords)
    if form := _find_copied_form(text):
        return Drop("advertisement", form)
    names = BETTING_SITES.find_all(text, minimum=max(2, math.ceil(len(text) / _CHARS_PER_BETTING_NAME)))
    if names and not _is_on_crime(text):
        return Drop("advertisement", "、".join(sorted(set(names))[:5]))
    if opening := _find_opening_bet(text):
        return Drop("advertisement", opening)
    if contact := _find_opening_contact(text):
        return Drop("advertisement", contact)
    if contact := _find_closing_contact(text):
        return Drop("advertisement", contact)
    if _MIN_SALES_CHARS <= len(text) <= _MAX_SALES_CHARS and (call := _find_sales_call(text[-_CLOSING_CHARS:])):
        return Drop("advertisement", call)
    if copied and (sewn_in := _find_sewn_in_betting(text)):
        return Drop("advertisement", sewn_in)
    if GENERATED_CUE in text and len(generated := GENERATED.findall(text)) >= _MIN_GENERATED:
        return Drop("advertisement", generated[0])
    hits = SPAM_PHRASES.find_all(text, minimum=max(different, math.ceil(per_thousand * len(text) / 1000)))
    if len(hits) * 1000 >= per_thousand * len(text) and len(set(hits)) >= different and not _is_on_crime(text):
        return Drop("advertisement", "、".join(sorted(set(hits))[:5]))
    return text


def _find_copied_form(text: str) -> str | None:
    """Find what only texts have that programs rewrote, sewed together or copied from sites of novels, or None."""
    if SPUN_CUE[1] in text and SPUN_CUE in text and (spun := SPUN.search(text)):
        return spun[0]
    if STATE_CUE in text and len(states := set(SPUN_STATE.findall(text))) >= _MIN_FORMULAS:
        return "、".join(sorted(states))
    if (not text[:1].isalnum() or text[0] in "卍卐") and (address := OPENING_ADDRESS.match(text)):
        return address[0]
    if COPY_CUE.search(text, 0, _MAX_LISTING_CHARS):  # on all of a long text it would cost half as much again
        if len(replaced := set(SPUN_WORD.findall(text))) >= _MIN_SPUN_WORDS:
            return "、".join(sorted(replaced)[:5])
        for cue, items in LISTINGS.items() if len(text) <= _MAX_LISTING_CHARS else ():
            if cue in text and len(listed := set(items.findall(text))) >= _MIN_LISTED and not _is_on_crime(text):
                return "、".join(sorted(listed)[:5])
    if len(text) > _MAX_BLURB_CHARS:
        return None
    for cue in CASH_CUES:
        if cue in text and (scattered := _find_scattered_keywords(text)):
            return scattered
    if text.count("(") >= (least := max(_MIN_PINYIN, len(text) / _CHARS_PER_PINYIN)):
        sounds = PINYIN_IN_BRACKETS.findall(text)
        if least <= len(sounds) < _MAX_PINYIN_SHARE * count_char_kinds(text)[0]:  # a lesson has one behind each
            return "".join(sounds[:5])
    for cue in SEWN_SHEET_CUES:
        if cue in text and (sheet := SEWN_SHEET.search(text)):
            return sheet[0][:20]
    if SOLD_TIPS_CUE in text and (tips := SOLD_TIPS.search(text)):
        return tips[0]
    for cue in NOVEL_CUES:
        if cue in text and len(formulas := set(NOVEL_SITE.findall(text))) >= _MIN_FORMULAS:
            return "、".join(sorted(formulas)[:5])
    if len(text) > _MAX_FRAME_CHARS:
        return None
    for cue in EDITOR_CUES:
        if cue in text and (frame := EDITOR_FRAME.search(text)):
            return frame[0][:20]
    return None


def _find_scattered_keywords(text: str) -> str | None:
    """Find offers of cash that a program scattered in a short text: two, one beside a mark, or three of two kinds.

    A text on one of them that has no marks explains it, and one on risks, rules or crimes tells of it.
    """
    words = [(match[0], match[1]) for match in CASH_KEYWORD.finditer(text)]
    if len(words) < _MIN_FORMULAS or ON_CASH.search(text) or _is_on_crime(text):
        return None
    is_mixed = (
        len(text) <= _MAX_SMALL_AD_CHARS and len(set(words)) >= _MIN_LISTED and len({kind for _, kind in words}) > 1
    )
    if not is_mixed and not MARKED_CASH_KEYWORD.search(text):
        return None
    return "、".join(word for word, _ in words[:5])


def _find_opening_bet(text: str) -> str | None:
    """Find the name of a betting site with which a text begins that does not speak of betting, or None."""
    if not BETTING_SITES.prefilter.may_match(text, _OPENING_CHARS):
        return None
    names = BETTING_SITES.find_all(text[: 2 * _OPENING_CHARS])
    if not names or ON_BETTING.search(text, 2 * _OPENING_CHARS):  # not in the opening: 亚博游戏娱乐
        return None
    return names[0]


def _find_opening_contact(text: str) -> str | None:
    """Find the number to call or to write to with which a text begins that offers something, or None."""
    opening = text[:_CONTACT_CHARS]
    if ("提现" in opening or "套现" in opening) and (offer := DIRECT_OFFER.search(opening)):
        return None if _is_on_crime(opening) or "记者" in opening else offer[0]
    if not LONG_NUMBER.search(opening) and "www." not in opening:
        return None
    if (contact := ILLEGAL_CONTACT.search(opening)) and ILLEGAL_OFFER.search(opening):
        return None if ON_OFFERS.search(opening) or _is_on_crime(opening) else contact[0]
    if len(text) < _MIN_OFFER_CHARS:
        return None
    if (hidden := HIDDEN_NUMBER.search(text, 0, _CONTACT_CHARS)) and not _is_on_crime(text):
        return hidden[0]
    contact = OPENING_CONTACT.search(text, 0, _CONTACT_CHARS)
    return None if contact is None or NO_OFFER.search(text, 0, _OFFER_CHARS) else contact[0]


def _find_closing_contact(text: str) -> str | None:
    """Find the contact with which a text ends that offers something there, or a short one that is a small ad."""
    closing = text[-_CLOSING_CONTACT_CHARS:]
    if len(text) <= _MAX_SMALL_AD_CHARS:
        if not _DIGITS.search(closing):
            return None
        number = SMALL_AD.search(closing)
        return number[0] if number and SMALL_AD_OFFER.search(text) and not NOT_A_SMALL_AD.search(text) else None
    for cue in CLOSING_CONTACT_CUES:
        if cue in closing:
            break
    else:
        return None
    if "信" in closing and (hidden := HIDDEN_MESSENGER.search(closing)) and not _is_on_crime(text):
        return hidden[0]
    contact = CLOSING_CONTACT.search(closing) if _DIGITS.search(closing) else None
    if contact is None or not CLOSING_OFFER.search(closing) or NOT_AN_OFFER.search(closing):
        return None
    return contact[0]


def _is_on_crime(text: str) -> bool:
    """Whether a text has two different words of the police and the courts."""
    return len(set(ON_CRIME.findall(text))) >= _MIN_CRIME_WORDS


def _find_title_keywords(text: str, closing: str) -> str | None:
    """Find keywords at the end of a text that are the words of its beginning in order, as programs list them.

    Example:
        德邦物流能否代替顺丰 … 本文关键词：某某app,德邦,物流,能否,代替 -> 德邦物流能否代替
    """
    if not (listed := _KEYWORDS.search(closing)):
        return None
    before = len(text) - len(closing) + listed.start()
    head = _NO_WORD.sub("", text[: min(_KEYWORDS_CHARS, before)])
    words = [_NO_WORD.sub("", word) for word in _KEYWORD_MARK.split(listed[1])]
    for first in range(len(words) - _MIN_TITLE_WORDS + 1):
        run = words[first : first + _MIN_TITLE_WORDS]
        if all(run) and (joined := "".join(run)) in head:
            return joined
    return None


def _find_sewn_in_betting(text: str) -> str | None:
    """Find a word of betting sites on a page on a school or institute that does not speak of betting, or None."""
    if len(text) > _MAX_COPY_CHARS or not any(cue in text for cue in _BETTING_CUES):
        return None
    if not (word := SEWN_IN_BETTING.search(text)):
        return None
    if ON_BETTING.search(text) or len(INSTITUTION.findall(text)) < _MIN_INSTITUTION_WORDS:
        return None
    return word[0]


def _find_sales_call(closing: str) -> str | None:
    """Find the call to buy or to ask a company at the end of a text, or None."""
    for word in SALES_CALL_WORDS:  # twice as fast as `any`, and asked of nearly every text
        if word in closing:
            break
    else:
        return None
    if NOT_A_SALES_CALL.search(closing):
        return None
    call = SALES_CALL.search(closing)
    if call is None or _is_quoted(closing[call.end() :]):
        return None
    return call[0]


def _is_quoted(after: str) -> bool:
    """Whether what comes before a part of a text is within quotation marks: somebody says it, and not the page."""
    closes, opens = after.find("”"), after.find("“")
    return closes >= 0 and (opens < 0 or closes < opens)
