"""The rules on lines of advertising and page furniture, and on pages that are advertorials.

What they say is in `hanlin.data.text.page_furniture` and `hanlin.data.text.advertorial_phrases`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from hanlin.data.ledger import Drop
from hanlin.data.text.advertorial_phrases import (
    CLINIC_SIGNS,
    FRANCHISE_SIGNS,
    REPORTING,
    find_advertorial_phrases,
)
from hanlin.data.text.char_stats import code_points
from hanlin.data.text.page_furniture import (
    CALL,
    CREDIT,
    CREDITS,
    END_MARK,
    FURNITURE,
    LINKS_HEADING,
    LONG_NOTICE,
    NOT_A_CALL,
    PAIRS,
    SOURCE,
)

_MARKDOWN = re.compile(r"[*`\u200b\ufeff]+|^[#>\s|+-]+")
_SENTENCE_OR_LINK = re.compile(r"[。！!；;]\W*$|\]\(|\]\[")
_SENTENCE = re.compile(r"[\u4e00-\u9fff][。！？]|[a-z][.!?]")
_FIRST_LINES, _LAST_LINES, _TAIL = 3, 8, 0.6
_MAX_TITLE_CHARS = 45
_NOTICE_FACTOR = 4
_MIN_CONTENT_CHARS = 100


def advertisement_lines(text: str, longest: int, share: float) -> str | Drop:
    """Remove short lines of advertising and page furniture: calls to scan, follow or call, credits, notices, links.

    Why: they are on millions of pages and in no conversation. Lines longer than `longest` characters (default 80)
    stay, apart from disclaimers: they are sentences that mention such a thing. So do steps of instructions, questions,
    warnings and code. The source of a page (来源：) is cut at its beginning and end only, titles after a heading such
    as 往期回顾 in its last part only. If more than `share` of a text is such lines and fewer than 100 characters are
    left, it has no content beside them and is dropped. Source: the line rules of C4 (Raffel et al. 2020, section 2.2),
    adapted to Chinese pages.
    """
    lines = text.split("\n")
    candidates = _find_candidates(lines, longest)
    cut = _find_furniture(lines, candidates, longest) if candidates else None
    if not cut:
        return text
    left = "\n".join(line for index, line in enumerate(lines) if index not in cut)
    called = 1 - len(left) / len(text)
    if called > share and len(left) < _MIN_CONTENT_CHARS and not _SENTENCE.search(left):
        return Drop("advertisement", f"share {called:.2f} in lines with calls to action")
    return left


def _find_candidates(lines: Sequence[str], longest: int) -> list[int]:
    """Find the indices of the lines that a pattern may match, in order: short ones with a pair, and disclaimers."""
    short, found = [], []
    for index, length in enumerate(map(len, lines)):
        if length <= longest:
            if length > 1:
                short.append(index)
        elif length <= _NOTICE_FACTOR * longest and LONG_NOTICE.match(lines[index]):
            found.append(index)
    if short:
        joined = "\n".join([*(lines[index] for index in short), ""])
        positions = PAIRS.find(joined)
        if len(positions):
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
        if index in code or index in found or line.startswith("    "):
            continue
        plain = _MARKDOWN.sub("", line).strip()
        if len(line) > longest:
            found.add(index)
        elif LINKS_HEADING.match(plain) and not line.startswith("##"):
            found.add(index)
            found.update(_find_links(lines, index))
        elif _is_furniture(plain) or (SOURCE.match(plain) and _is_at_edge(lines, index)):
            found.add(index)
    return found


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
    return bool(
        END_MARK.match(line)
        or FURNITURE.search(line)
        or (CREDIT.search(line) and CREDITS.match(line))
        or LONG_NOTICE.match(line)
        or (CALL.search(line) and not NOT_A_CALL.search(line))
    )


# --- advertorials ---------------------------------------------------------------------------------------------------


_MIN_CHARS, _MAX_CHARS, _LEAST_CHARS = 150, 3_000, 300
_MIN_MENTIONS, _MENTIONS_PER_THOUSAND = 4, 6
_MIN_CLINIC_SIGNS, _MIN_FRANCHISE_SIGNS = 3, 4
_WEIGHTS = {"voice": 2.0, "trade": 1.5, "claim": 1.0, "goods": 0.5}
_TITLE_QUESTION = re.compile(r"([^。！!\n]{6,32}?)[?？\n]")


def advertorials(text: str, per_thousand: float, different: int) -> str | Drop:
    """Drop a text in which a company praises itself or its goods, or a clinic or franchise looks for customers.

    Why: they are a tenth of the pages of a crawl of the Chinese web, and all say the same. Phrases are added up: 2 for
    what only a company says of itself (我公司, 竭诚), 1.5 for words of companies (售后服务), 1 for what is said of
    goods (结构紧凑), 0.5 for words of the trade, each twice at most, less 2 for each word of news, schools and offices,
    which praise in the same words. A text of 150 to 3,000 characters is dropped with one phrase of the first kind,
    `different` of the first three (default 3) and a sum of `per_thousand` (default 8.5) in 1,000 characters. A clinic's
    page names one disease in each 170 characters and has 3 signs of 6: an expert who reminds, a title that returns, a
    wish for good health. A page for shopkeepers says 加盟 as often. Not in the default set: of 22 drops on other pages
    than those the rule was made on, 17 were right. Source: read off 432 labeled pages of SkyPile.
    """
    if not _MIN_CHARS <= len(text) <= _MAX_CHARS:
        return text
    found = find_advertorial_phrases(text)
    detail = (
        _find_company(text, found, per_thousand, different)
        or _find_clinic(text, found.get("disease", ()))
        or _find_franchise(text, found.get("franchise", ()))
    )
    return Drop("advertorial", detail) if detail else text


def _find_company(text: str, found: Mapping[str, Sequence[str]], per_thousand: float, different: int) -> str | None:
    """Find the phrases with which a company praises itself or its goods, or None if they are too few."""
    phrases = sorted({*found.get("voice", ()), *found.get("trade", ()), *found.get("claim", ())})
    if "voice" not in found or len(phrases) < different:
        return None
    score = sum(
        weight * sum(min(count, 2) for count in Counter(found.get(kind, ())).values())
        for kind, weight in _WEIGHTS.items()
    )
    needed = per_thousand * max(len(text), _LEAST_CHARS) / 1000
    if score < needed or score - 2 * len(REPORTING.findall(text)) < needed:
        return None
    return "、".join(phrases[:5])


def _find_clinic(text: str, diseases: Sequence[str]) -> str | None:
    """Find the disease that a page of a clinic is about, or None."""
    if len(diseases) < _MIN_MENTIONS:
        return None
    disease, mentions = Counter(diseases).most_common(1)[0]
    if mentions < _MIN_MENTIONS or 1000 * mentions < _MENTIONS_PER_THOUSAND * len(text):
        return None
    title = _TITLE_QUESTION.match(text)
    signs = sum(1 for sign in CLINIC_SIGNS if sign.search(text)) + bool(title and title[1] in text[title.end() :])
    return f"{disease} × {mentions}" if signs >= _MIN_CLINIC_SIGNS else None


def _find_franchise(text: str, mentions: Sequence[str]) -> str | None:
    """Tell whether a page looks for shopkeepers, as a detail, or None."""
    if len(mentions) < _MIN_MENTIONS or 1000 * len(mentions) < _MENTIONS_PER_THOUSAND * len(text):
        return None
    signs = sum(1 for sign in FRANCHISE_SIGNS if sign in text)
    return f"{mentions[0]} × {len(mentions)}" if signs >= _MIN_FRANCHISE_SIGNS else None
