"""The rules on lines of advertising and page furniture, and on pages that are advertorials.

What they say is in `hanlin.data.text.page_furniture` and `hanlin.data.text.advertorial_phrases`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from hanlin.data.ledger import Drop
from hanlin.data.text.advertorial_model import OPENING_CHARS, judge_opening, judge_page
from hanlin.data.text.advertorial_phrases import estimate_density
from hanlin.data.text.char_stats import code_points, split_lines
from hanlin.data.text.page_furniture import (
    ARTICLE,
    BLOCK_START,
    CALL,
    CREDIT,
    CREDITS,
    END_MARK,
    FURNITURE,
    LINKS_HEADING,
    LONG_NOTICE,
    NOT_A_CALL,
    NOTICE_STARTS,
    POST_END,
    POST_THAT_SELLS,
    SOURCE,
    find_cues,
    is_controls,
)
from hanlin.data.text.prefilter import Prefilter

_HEADING_OR_ITEM = re.compile(r"\s*(?:#|[-*+]\s|\d+[.、)])")
"""What begins a heading or an item of a list, which may name a button of the program that a text is about."""
_MARKDOWN = re.compile(r"[*`\u200b\ufeff]+|^[#>\s|+-]+")
_SENTENCE_OR_LINK = re.compile(r"[。！!；;]\W*$|\]\(|\]\[")
_SENTENCE = re.compile(r"[\u4e00-\u9fff][。！？]|[a-z][.!?]")
_FIRST_LINES, _LAST_LINES, _TAIL = 3, 8, 0.6
_MAX_TITLE_CHARS = 45
_NOTICE_FACTOR = 4
_MIN_CONTENT_CHARS = 100
_MIN_TABLE_MARKS = 4
"""What a row of a table of three cells has; a line between two or three bars is a frame around furniture."""
_MIN_POST_CHARS, _MIN_SAID_CHARS = 15, 7
_PAGE_NOTICE = re.compile(
    r"©|备案|备\d|网安备|本站|侵权|返回|[责编]辑|来源|转载|转自|公[众微]?号|授权|查看更多|[上下]一[篇页]|作者[：:]|文[/／]"
)
"""What pages have around a text and posts do not."""
_OFFICE_NOTICE = re.compile(
    r"定于[^。，]{2,24}(?:举行|召开|开展|进行)|各位(?:家长|同学|老师|业主|居民|村民|读者)|请各(?:单位|部门|媒体|班|位)|[凭持][^。，]{1,8}[证票]入场"
)
_NO_OFFICE_NOTICE = re.compile(
    r"领[取资福红]|免费(?!入场|开放)|优惠|折扣|福利|干货|课程|讲座|团购|购买|订购|招生|加盟|咨询|微信号|QQ|[¥￥]|\d\s?元|1[3-9]\d{9}|\d{3,4}-\d{7,8}"
)
"""What somebody tells members of a school, a house or an office, and what it has if it sells something after all."""
_NAMES = re.compile(r"@[\w-]+[:：]?|\[[^\[\]]{1,8}\]")


def advertisement_lines(text: str, longest: int, share: float) -> str | Drop:
    """Remove short lines of advertising and page furniture: calls to scan, follow or call, credits, notices, links.

    Why: they are on millions of pages and in no conversation. Lines longer than `longest` characters (default 80)
    stay, apart from disclaimers: they are sentences that mention such a thing. So do steps of instructions, questions,
    warnings, what somebody did or said, rows of tables and code. The source of a page (来源：) is cut at its beginning
    and end only, titles after a heading such as 往期回顾 in its last part only. If more than `share` of a text is such
    lines and fewer than 100 characters are left, it has no content beside them and is dropped. Source: the line rules
    of C4 (Raffel et al. 2020, section 2.2), adapted to Chinese pages.
    """
    lines = split_lines(text)
    candidates = _find_candidates(lines, longest)
    cut = _find_furniture(lines, candidates, longest) if candidates else None
    if not cut:
        return text
    left = "\n".join(line for index, line in enumerate(lines) if index not in cut)
    if not left.strip() and _is_post(text):
        return text
    called = 1 - len(left) / len(text)
    if called > share and len(left) < _MIN_CONTENT_CHARS and not _SENTENCE.search(left):
        return Drop("advertisement", f"share {called:.2f} in lines with calls to action")
    return left


def _is_post(text: str) -> bool:
    """Whether a text of one line, such as a post, says something besides its furniture and sells nothing."""
    line = text.strip()
    if "\n" in line:
        return False
    if end := POST_END.search(line):
        said = line[: end.start()]
        return sum(map(str.isalnum, said)) >= _MIN_POST_CHARS and not POST_THAT_SELLS.search(said)
    if _OFFICE_NOTICE.search(line) and not _NO_OFFICE_NOTICE.search(line):
        return True
    if POST_THAT_SELLS.search(line) or _PAGE_NOTICE.search(line):
        return False
    said = _NAMES.sub("", CALL.sub("", FURNITURE.sub("", line)))
    return sum(map("\u2fff".__lt__, filter(str.isalnum, said))) >= _MIN_SAID_CHARS


def _find_candidates(lines: Sequence[str], longest: int) -> list[int]:
    """Find the indices of the lines that a pattern may match, in order: short ones with a pair, and disclaimers."""
    lengths = list(map(len, lines))
    short = [index for index, length in enumerate(lengths) if 1 < length <= longest]
    found = [
        index
        for index, length in enumerate(lengths)
        if longest < length <= _NOTICE_FACTOR * longest
        and ((first := lines[index][0]) in NOTICE_STARTS or not first.isalnum())
        and LONG_NOTICE.match(lines[index])
    ]
    if short:
        joined = "\n".join([lines[index] for index in short]) + "\n"
        positions = find_cues(joined)
        if positions:
            line_ends = np.flatnonzero(code_points(joined) == 0x0A)
            found += [short[number] for number in dict.fromkeys(np.searchsorted(line_ends, positions).tolist())]
    return sorted(found)


def _find_furniture(lines: Sequence[str], candidates: Sequence[int], longest: int) -> set[int]:
    """Find the lines to cut.

    Args:
        lines: The lines of a text.
        candidates: Indices of the lines that a pattern may match, in order.
        longest: Characters of the longest line that is cut, disclaimers apart.

    Returns:
        Their indices.
    """
    found: set[int] = set()
    code = _find_code(lines)
    for index in candidates:
        line = lines[index]
        if index in code or index in found or line.startswith("    ") or line.count("|") >= _MIN_TABLE_MARKS:
            continue
        plain = _MARKDOWN.sub("", line).strip()
        if len(line) > longest:
            found.add(index)
        elif LINKS_HEADING.match(plain) and not line.startswith("##"):
            found.add(index)
            found.update(_find_links(lines, index))
        elif END_MARK.match(plain):
            if not any(map(BLOCK_START.match, lines)):
                found.add(index)
        elif (
            _is_furniture(plain)
            or (SOURCE.match(plain) and _is_at_edge(lines, index))
            or (is_controls(plain) and not _HEADING_OR_ITEM.match(line) and not _is_in_markup(lines, index))
        ):
            found.add(index)
    return found


def _is_in_markup(lines: Sequence[str], index: int) -> bool:
    """Whether a tag ends the line before: the word is part of a sentence that a program broke at its tags."""
    return index > 0 and lines[index - 1].rstrip().endswith(">")


def _find_code(lines: Sequence[str]) -> set[int]:
    """Find the lines of fenced code; a fence without an end is none."""
    fences = [index for index, line in enumerate(lines) if "```" in line and line.lstrip().startswith("```")]
    return {
        index
        for first, last in zip(fences[::2], [*fences[1::2], len(lines)], strict=False)
        for index in range(first, last)
    }


def _is_at_edge(lines: Sequence[str], index: int) -> bool:
    """Whether a line is among the first 3 or last 8 that have something in them."""
    before = sum(1 for line in islice(lines, index) if line.strip())
    return before < _FIRST_LINES or sum(1 for line in islice(lines, index, None) if line.strip()) <= _LAST_LINES


def _find_links(lines: Sequence[str], heading: int) -> Iterator[int]:
    """Find the titles after a heading of links, if it is in the last part of a page."""
    if heading < _TAIL * len(lines):
        return
    for index in range(heading + 1, len(lines)):
        plain = _MARKDOWN.sub("", lines[index]).strip()
        if len(plain) > _MAX_TITLE_CHARS or _SENTENCE_OR_LINK.search(plain):
            return
        if plain:
            yield index


@lru_cache(maxsize=4096)  # the same lines are on many pages of a site
def _is_furniture(line: str) -> bool:
    return not ARTICLE.match(line) and bool(
        FURNITURE.search(line)
        or (CREDIT.search(line) and CREDITS.match(line))
        or LONG_NOTICE.match(line)
        or (CALL.search(line) and not NOT_A_CALL.search(line))
    )


# --- advertorials ---------------------------------------------------------------------------------------------------


MIN_ADVERTORIAL_CHARS, MAX_ADVERTORIAL_CHARS = 150, 4_000
_TRADE_CUES = Prefilter(
    [
        *("公司", "产品", "厂家", "企业", "品牌", "客户", "服务", "患者", "设备", "官网", "生产"),
        *("性能", "材料", "专家", "小编", "安装", "加工", "质量", "价格", "技术", "市场"),
    ]
)
_MIN_CUES, _MIN_DENSITY = 2, 30.0
_MIN_OPENING_CUES, _MIN_OPENING_DENSITY = 6, 60.0


def may_sell(text: str) -> bool:
    """Whether a text has the length of a page, two words of trade in 1,000 characters and enough other words of pages
    that sell: a seventh of ordinary text, and all 263 pages that the model drops of 3,600 labeled and unlabeled ones.
    """
    if not MIN_ADVERTORIAL_CHARS <= len(text) <= MAX_ADVERTORIAL_CHARS:
        return False
    if _TRADE_CUES.count_candidates(text) < max(_MIN_CUES, _MIN_CUES * len(text) / 1000):
        return False
    return estimate_density(text) >= _MIN_DENSITY


def _opens_to_sell(text: str) -> bool:
    """Whether a page begins with as much as all 15 openings have that the model drops of 6,700 crawled pages."""
    if _TRADE_CUES.count_candidates(text, OPENING_CHARS) < _MIN_OPENING_CUES:
        return False
    return estimate_density(text[:OPENING_CHARS]) >= _MIN_OPENING_DENSITY


def advertorials(text: str, min_probability: float) -> str | Drop:
    """Drop a page that is written to sell: companies and clinics on themselves, goods and their praise, listings.

    Why: they are a fifth of the pages of a crawl of the Chinese web, and all say the same. `min_probability` (default
    0.5) is of a logistic model of words that such pages have in common, of words of offices, science and questions,
    and of the form: `hanlin.data.text.advertorial_model`. Texts of 150 to 4,000 characters are judged, and of those of
    more than 800 the first 400, with 0.83: programs put news or a novel behind an advertorial. Others stay.
    Not in the default set of chats, whose answers write such texts because they are asked to. Source: fitted to 1,800
    labeled pages of two crawls and 3,700 other texts by bench/fit_advertorials.py.
    """
    judged = judge_page(text, min_probability) if may_sell(text) else None
    if judged is None and len(text) > 2 * OPENING_CHARS and min_probability < 1 and _opens_to_sell(text):
        judged = judge_opening(text)
    return Drop("advertorial", f"{judged[0]:.2f}: {'、'.join(judged[1])}") if judged else text
