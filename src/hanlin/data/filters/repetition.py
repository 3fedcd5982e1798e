"""Rules on lines that break off, lists of keywords, and repeated lines, phrases and characters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import code_points, count_char_kinds, split_lines
from hanlin.data.text.ngrams import repeated_ngram_fraction
from hanlin.data.text.verse import (
    MAX_POST_CHARS,
    MAX_VERSE_REPETITION,
    MIN_VERSE_LINES,
    is_verse,
    strip_code,
    strip_drawn_rules,
    strip_emoticons,
)

_LEAST_TEASER_CHARS, _LEAST_LATIN_TEASER_CHARS = 20, 60
_HAN = re.compile("[\u4e00-\u9fff]")
_ELLIPSES = ("...", "…")
_SEARCH_PIECE = re.compile(r"\A[^，。\n]{0,16}?\d{1,2}\s?(?:小时|分钟|天|秒)前[\s?？\ufffd\xa0·]*-")
"""How long ago a search engine read a page: 7小时前 -."""
_READ_ON = re.compile(r"(?:\.\.|…)[\[【(（]?(?:阅读详情|阅读全文|查看全文|查看详情)")
_MIN_LINKS, _CHARS_PER_LINK = 5, 300
_MIN_PIECE_CHARS, _MIN_PIECE_BLANKS = 100, 5
"""One of them has a piece in Chinese that ends with ` ..` and has no age; posts trail off so too: 睡了 .."""
_BREAKS_OFF = re.compile(r"[^\W_](?:\.{3,}|(?<!…)…)$|[^\s.…。！？!?][ \xa0]\.{3}$")
"""Search engines put a blank before the dots, and break off behind a comma or a bracket too: 清政府， ..."""


def ellipsis_lines(text: str, share: float, least: int) -> str | Drop:
    """Drop a text of which more than `share` of the lines, and at least `least`, break off with an ellipsis.

    Why: it is a list of articles with the beginning of each, as search pages and front pages of sites have them.
    Source: Rae et al. 2021 (Gopher), section A.1.1, 30 % of the lines. Here these lines must also hold that share of
    the characters, so that an article stays that is followed by the beginnings of others. Only lines of 20 characters
    and more count, of 60 without a Chinese character, because lines of songs and remarks in English trail off; and only
    `...` and a single `…` behind a letter or digit, or ` ...` behind a blank and no full stop, as search engines write
    it: `……` and `!...` are how Chinese writers pause. A piece of such a list goes too: up to 400 characters that begin
    with its age (7小时前 -) and break off, or that end with ` ..` and are no short post. So does a text in one line
    with five links to read on (...阅读详情), one for each 300 characters.
    """
    if len(text) <= _MAX_FRAME_CHARS and text.endswith(("..", "…", "-")):
        piece = _SEARCH_PIECE.match(text)
        is_long = len(text) >= _MIN_PIECE_CHARS or text.count(" ") >= _MIN_PIECE_BLANKS
        if piece or (text.endswith(" ..") and is_long and not text.isascii()):
            return Drop("ellipsis_lines", piece[0] if piece else "..")
    if text.count("...") + text.count("…") < least:
        return text
    if "阅读" in text or "查看" in text:
        links = len(_READ_ON.findall(text))
        if links >= _MIN_LINKS and links * _CHARS_PER_LINK >= len(text):
            return Drop("ellipsis_lines", f"{links} links to read on")
    all_lines = split_lines(text)
    if sum(1 for line in all_lines if line.endswith(_ELLIPSES) or line[-1:].isspace()) < least:
        return text
    lines = [stripped for line in all_lines if len(stripped := line.strip()) >= _LEAST_TEASER_CHARS]
    broken = [
        len(line)
        for line in lines
        if _BREAKS_OFF.search(line[-_LEAST_TEASER_CHARS:])
        and (len(line) >= _LEAST_LATIN_TEASER_CHARS or _HAN.search(line))
    ]
    if len(broken) < least or len(broken) <= share * len(lines) or sum(broken) <= share * len(text):
        return text
    return Drop("ellipsis_lines", f"{len(broken)} of {len(lines)} lines")


_SENTENCE_MARKS = ("。", "！", "？", "!", "?")
_SEPARATOR = re.compile(r"[\s|｜│•>»/]+")
_NUMBER, _MIN_PAGE_NUMBERS = re.compile(r"(?<![\d.])\d{1,4}(?![\d.])"), 15
_BAR = re.compile("[|｜│]")
_HEAD_CHARS = 200
_MAX_FRAME_CHARS = 400
_FRAME = re.compile(
    "今日本吧第|一键签到成为超级会员|(?<![当如果若])正在为[您你]跳转|浏览器(?:没有|未能?)自动跳转"
    "|(?<![当如果若])(?:[您你](?:要?访问|请求|查看)的|抱歉[，,]?)(?:该|此)?(?:页面|网页|内容|文章|帖子)[^。，,\n]{0,6}"
    "(?:不存在|已?被?删除|找不到|无法(?:访问|打开|显示))(?!时|的时候|[，,](?:服务器|就|则))"
    "|(?:该|此)(?:内容|帖子|文章)已被(?:发布者|作者|管理员)?删除(?!时|的时候)"
    r"|\A\W*(?:40[34]|50[0234])\W{1,3}(?i:not found|forbidden|bad gateway|service unavailable|internal server)"
    r"(?i: error)?+(?!\W{0,3}(?:错误|状态码?)?(?:表示|是|指|意味|代表|说明|怎么|如何))"
    r"|(?i:failed ?to ?open ?stream|\A\W*(?:please )?enable javascript|javascript (?:is|seems) (?:disabled|to be))"
)
"""What a server or a site says where a page should be, or around one."""
_FRAME_CUES = (
    *("本吧第", "一键签到", "正在为", "浏览器", "不存在", "删除", "找不到", "无法"),
    *("failed", "javascript", "not found", "forbidden", "bad gateway", "unavailable", "internal server"),
)
"""One of them, in lower case, is in every `_FRAME`, and looked for at a seventh of the cost."""
_MAX_CAPTION_CHARS, _MAX_SOURCE_CHARS = 100, 40
_TIME = re.compile(r"20\d\d-\d\d-\d\d ?\d\d:\d\d")
_CLAUSE = re.compile("[。！？!?，；]")
_ADDRESS, _WHOLE_ADDRESS = re.compile(r"https?://[!-~]+"), re.compile(r"https?://\S+")
_FUNCTION_WORD = re.compile("[的了是在和我你他她这那有也就不都而与之]")
_FACT = re.compile(r"[0-9《》，,、；;：:=+＋—–→\[\](){}（）]")
_MIN_SCRAPS, _MIN_PAIRS, _MIN_SCRAP_WORDS = 30, 0.6, 0.03
_LATIN = re.compile("[0-9A-Za-z]")
_EVEN_LENGTHS = (2, 3, 4, 5, 7)
_MAX_ADDRESS_SHARE, _MIN_HAN_SHARE, _MAX_FUNCTION_SHARE, _MAX_FACT_SHARE = 0.7, 0.6, 0.05, 0.08
_MIN_BESIDE_ADDRESSES, _MIN_SAID_CHARS = 1_000, 7
_MIN_KEYWORD_CHARS, _MAX_KEYWORD_CHARS, _MAX_SAME_LENGTH, _MAX_SAME_END = 3, 14, 0.7, 0.4


def keyword_lists(text: str, least: int) -> str | Drop:
    """Drop a text that is nothing but keywords, names of links or addresses: no sentence, and `least` items in a line.

    Why: menus, lists of other titles and words for search engines teach which names stand together and nothing else; C4
    drops lines without a sentence mark for the same reason (Raffel et al. 2020, section 2.2). Default 12 items, of 3 to
    14 characters on average, divided by blanks or arrows, or of 2 to 14 divided by bars. Only Chinese text without any
    sentence mark, with hardly any function words, digits or commas is judged, and not if most items between blanks have
    the same length of two to five or of seven characters: verse without marks and lists of persons. 30 scraps, most of
    two characters, with function words, Latin or digits between them go whatever their length. A text of which
    seven tenths are addresses goes too, unless 1,000 characters are beside them or a post says something to a single
    one, in seven Chinese characters and more; so does one of which a half is numbers of pages, and one of up to 400
    characters that begins as the frame of a page: the bar of a forum, a redirection, an error of the server. So does
    the entry of a catalog of films, and what has the time and the source of a page and nothing else.
    """
    if len(text) <= _MAX_FRAME_CHARS and (frame := _find_frame(text[:_HEAD_CHARS])):
        return Drop("keyword_list", frame)
    if len(text) <= _MAX_CAPTION_CHARS and (entry := _find_entry(text)):
        return Drop("keyword_list", entry)
    if "http" in text[:_HEAD_CHARS] and _is_list_of_addresses(text):
        return Drop("keyword_list", "addresses")  # which have question marks
    for mark in _SENTENCE_MARKS:  # twice as fast as `any`; nearly every text has the first
        if mark in text:
            return text
    han, latin, other, digits, punctuation, *_ = count_char_kinds(text)
    if _count_page_numbers(text, digits) >= _MIN_PAGE_NUMBERS:
        return Drop("keyword_list", "page numbers")
    if han < _MIN_HAN_SHARE * (han + latin + other + digits + punctuation):  # of fewer than `chars` below
        return text
    rows = [list(filter(None, _SEPARATOR.split(line))) for line in split_lines(text)]
    items = [item for row in rows if len(row) >= least for item in row]
    chars, listed = sum(len(item) for row in rows for item in row), sum(map(len, items))
    if not items or listed < _MIN_HAN_SHARE * chars or han < _MIN_HAN_SHARE * chars:
        return text
    if _is_scrap(items):
        return Drop("keyword_list", f"{len(items)} scraps: {' '.join(items[:5])}")
    shortest = _MIN_KEYWORD_CHARS - (2 * len(_BAR.findall(text)) > len(items))
    if not shortest * len(items) <= listed <= _MAX_KEYWORD_CHARS * len(items):
        return text
    if shortest == _MIN_KEYWORD_CHARS and _is_even(items):
        return text
    if len(_FUNCTION_WORD.findall(text)) > _MAX_FUNCTION_SHARE * chars:
        return text
    if len(_FACT.findall(text)) > _MAX_FACT_SHARE * chars:
        return text
    return Drop("keyword_list", f"{len(items)} items: {' '.join(items[:3])}")


def _find_frame(head: str) -> str | None:
    """Find what a server or a site says where a page should be, or around one, in the beginning of a text, or None."""
    lower = head.lower()
    for cue in _FRAME_CUES:  # twice as fast as `any`, and asked of every short text
        if cue in lower:
            break
    else:
        return None
    frame = _FRAME.search(head)
    return frame[0] if frame else None


def _find_entry(text: str) -> str | None:
    """Find the time in the entry of a catalog of films, or in a page that is a time and a source, or None."""
    time = _TIME.search(text)
    if (
        time is None
        or _CLAUSE.search(text)
        or not ("&gt" in text or (len(text) <= _MAX_SOURCE_CHARS and "来源" in text))
    ):
        return None
    return time[0]


def _is_scrap(items: Sequence[str]) -> bool:
    """Whether items are scraps of texts, most of two characters, with function words and Latin: 失所 欧是 1150 敬酒."""
    if len(items) < _MIN_SCRAPS or sum(1 for item in items if len(item) == 2) < _MIN_PAIRS * len(items):
        return False
    joined = "".join(items)
    return _LATIN.search(joined) is not None and len(_FUNCTION_WORD.findall(joined)) >= _MIN_SCRAP_WORDS * len(joined)


def _is_list_of_addresses(text: str) -> bool:
    """Whether most of a text is addresses, unless 1,000 characters are beside them or a post says something to one."""
    addresses = _ADDRESS.findall(text)
    listed = sum(map(len, addresses))
    if listed <= _MAX_ADDRESS_SHARE * len(text) or len(text) - listed >= _MIN_BESIDE_ADDRESSES:
        return False
    if len(addresses) > 1 or len(text) > MAX_POST_CHARS:
        return True
    return count_char_kinds(_WHOLE_ADDRESS.sub("", text))[0] < _MIN_SAID_CHARS


def _is_even(items: Sequence[str]) -> bool:
    """Whether most items have the same length, like verse and names of persons, and do not end alike, like villages."""
    lengths = Counter(map(len, items))
    ends = Counter(item[-1] for item in items)
    even = max(lengths[size] for size in _EVEN_LENGTHS)
    return even > _MAX_SAME_LENGTH * len(items) and max(ends.values()) < _MAX_SAME_END * len(items)


def _count_page_numbers(text: str, digits: int) -> int:
    """How many numbers of a text follow the one before by one, if most of the text is such numbers: links to pages."""
    rest = len(text) - text.count(" ") - text.count(",")
    if 2 * digits < rest:
        return 0
    numbers = _NUMBER.findall(text)
    if len(numbers) < _MIN_PAGE_NUMBERS or 2 * sum(map(len, numbers)) < rest:
        return 0
    values = list(map(int, numbers))
    return sum(1 for before, after in pairwise(values) if after == before + 1)


def repeated_lines(text: str, share: float) -> str | Drop:
    """Drop a text if more than this share of its characters is in lines that occurred before.

    Source: Rae et al. 2021 (Gopher, arXiv 2112.11446), table A1: duplicate line fraction 0.30, duplicate line character
    fraction 0.20. Only characters are counted here, at 0.50: verse and plays repeat lines. Fenced code is not counted,
    because manuals show it again step by step, nor are front matter, images and lines without a letter or digit, which
    are drawn rules; and songs and source code may repeat three quarters of themselves.
    """
    fraction = _repeated_line_fraction(split_lines(text))
    if fraction <= share:
        return text
    prose = strip_code(_FRONT_MATTER.sub("", text, count=1))
    lines = [line for line in prose.split("\n") if _WORD_CHARACTER.search(_IMAGE.sub("", line))]
    fraction = _repeated_line_fraction(lines)
    if fraction <= share or (fraction <= MAX_VERSE_REPETITION and (_is_verse(lines) or _is_code(lines))):
        return text
    return Drop("repeated_lines", f"share {fraction:.2f}")


_FRONT_MATTER = re.compile(r"\A---\n.*?^---$", re.S | re.M)
_CODE_LINE = re.compile(
    r"[;{}(\[,>]\s*+(?:(?://|/\*).*)?$"
    r"|^(?: {4}|\t)|^\s*+(?://|/\*|\*[\s/]|[)\]<@]|[\w:.-]++\s?=\s?[\"'\w]"
    r"|#\s?(?:include|define|if|ifn?def|el|endif|pragma|undef)\b)"
)


def _is_verse(lines: Sequence[str]) -> bool:
    return len(set(lines)) >= MIN_VERSE_LINES and is_verse("\n".join(lines))


def _is_code(lines: Sequence[str]) -> bool:
    """Whether a half of the lines are indented, or end or begin as statements, calls, comments and directives of C and
    its like, or as tags and attributes of markup.
    """
    return 2 * sum(1 for line in lines if _CODE_LINE.search(line)) >= len(lines)


_IMAGE = re.compile(r"!\[[^\[\]]*\]\([^()]*\)")
_WORD_CHARACTER = re.compile(r"[^\W_]")


def _repeated_line_fraction(lines: Sequence[str]) -> float:
    """Fraction of the characters of lines that are in lines equal to one before, blanks around them not counted."""
    if len(lines) < 3:
        return 0.0
    stripped = list(map(str.strip, lines))
    different = set(stripped)
    if len(different) == len(stripped):
        return 0.0
    total = sum(map(len, stripped))
    return 1 - sum(map(len, different)) / total if total else 0.0


def repeated_phrases(text: str, share: float, length: int) -> str | Drop:
    """Drop a text if more than this share of its characters is in n-grams of `length` characters seen shortly before.

    Source: Rae et al. 2021 (Gopher), table A1, duplicate 10-gram character fraction 0.10, over *words* of a whole
    document. Here 15 Chinese characters (45 where Latin letters prevail), about 10 words, within windows of 5,000
    characters, so that the length of a long book does not count against it. Default 0.60: pages that show their
    beginning again, lists of notices in one wording and tables stay below; at 0.40 they are most of what is dropped,
    at 0.10 a criminal code is. Fenced code and drawn rules are not counted, and a song may repeat three quarters of
    itself. In up to 200 characters that say something emoticons and runs are not counted either.
    """
    han, latin, *_ = count_char_kinds(text)
    fraction = repeated_ngram_fraction(text, length if han >= latin else 3 * length, share)
    if fraction <= share or (fraction <= MAX_VERSE_REPETITION and is_verse(text)):
        return text
    if (prose := strip_drawn_rules(strip_code(text))) != text:
        result = repeated_phrases(prose, share, length)
        return result if isinstance(result, Drop) else text
    if len(text) <= MAX_POST_CHARS and _find_allowed_runs(text):
        said = _RUN.sub(r"\1", strip_emoticons(text))
        if repeated_ngram_fraction(said, length if han >= latin else 3 * length, share) <= share:
            return text
    return Drop("repeated_phrases", f"share {fraction:.2f}")


def repeated_characters(text: str, share: float, run: int) -> str | Drop:
    """Drop a text if more than this share of it is in runs of one character, `run` or longer (哈哈哈…, ！！！！).

    Fenced code, indents, decimals (0.333…) and drawn rules (-----, ＿＿＿) are not counted, because tables and
    calculations have them; unless drawn rules are most of the text, or dots that lead to page numbers are two fifths
    of it and fewer than 1,000 characters follow the last of them: a table of contents, not the document behind one.
    In up to 200 characters that say something beside their laughter and exclamation marks, a half may be runs, and two
    thirds if they say seven characters or more: so people write posts and reviews.
    """
    drop = find_runs(text, share, run)
    if drop and len(text) <= MAX_POST_CHARS and (allowed := _find_allowed_runs(text)) > share:
        drop = find_runs(text, allowed, run)
    return drop or text


_ALLOWED_RUNS = ((7, 2 / 3), (5, 1 / 2))
"""What share of a post may be runs if it says at least so many characters."""
_RUN = re.compile(r"(.)\1{3,}")
_UNSAID = re.compile(r"@[\w-]+|[哈呵嘿嘻啊哦喔嗷呀哇噗唉额嗯嘎]|(.)\1{3,}")


def _find_allowed_runs(text: str) -> float:
    """The share of a post that may be runs, by what it says beside names (@…), emoticons, interjections and runs.

    Two Latin letters count as one character.
    """
    han, latin, *_ = count_char_kinds(_UNSAID.sub("", strip_emoticons(text)))
    return next((allowed for least, allowed in _ALLOWED_RUNS if han + latin / 2 >= least), 0.0)


def find_runs(text: str, share: float, run: int) -> Drop | None:
    """The Drop for a text of which more than `share` is in runs, as `repeated_characters` counts them, or None."""
    if _fraction_in_runs(text, run, share) <= share:
        return None
    judged = text
    leaders = [leader.span() for leader in _LEADER.finditer(text)]
    led = sum(end - start for start, end in leaders)
    if led > _MAX_LEADERS * len(text):
        if len(text) - leaders[-1][1] < _MIN_AFTER_CONTENTS:
            return Drop("repeated_characters", f"share {led / len(text):.2f}")
        judged = _LEADER.sub("", text)
    fraction = _fraction_in_runs(strip_drawn_rules(strip_code(judged)), run, share)
    return Drop("repeated_characters", f"share {fraction:.2f}") if fraction > share else None


_LEADER = re.compile(r"(?<![.·…])(?<![.·…]\s)(?:[.·…]\s?){9,}+(?=\s*\d)")
_MAX_LEADERS, _MIN_AFTER_CONTENTS = 0.4, 1_000


def _fraction_in_runs(text: str, run: int, threshold: float) -> float:
    """Fraction of characters in runs of `run` or more; 0 if it cannot exceed `threshold`."""
    codes = code_points(text)
    same = np.count_nonzero(codes[1:] == codes[:-1])
    if len(codes) < run or same * run <= threshold * len(codes) * (run - 1):
        return 0.0
    ends = np.flatnonzero(np.append(codes[1:] != codes[:-1], True))
    lengths = np.diff(ends, prepend=-1)
    return int(lengths[lengths >= run].sum()) / len(codes)
