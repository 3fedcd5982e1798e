"""Rules for scanned books (OCR) and for Markdown pages: they remove what is around and inside lines but is no text.

Chapter headings, lists, code and verse are text.
"""

from __future__ import annotations

import re
from collections import Counter

from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

_H = "\u3400-\u4dbf\u4e00-\u9fff"
_PAGE_NUMBER = compile_on_use(
    r"[ \t\u3000]*(?:[-–—·•~～\[(（【]+ ?\d{1,4} ?[-–—·•~～\])）】]+"
    r"|第 ?\d{1,4} ?[页頁](?: ?[/／共,，] ?共?第? ?\d{1,4} ?[页頁])?"
    r"|\d{1,4} ?/ ?\d{1,4}|[Pp]age \d{1,4}(?: of \d{1,4})?)[ \t\u3000]*",
    re.A,
)  # fmt: skip
_HAN = compile_on_use(f"[{_H}]")
_SPACED_PAIR = compile_on_use(rf"(?<=[{_H}，。、；：？！])[ \u3000](?=[{_H}，。、；：？！])")
_ADJACENT_PAIR = compile_on_use(rf"(?<=[{_H}])[{_H}]")
_LIST_MARK = compile_on_use(r"\s*(?:[|*>#+-]|\d+[.、):：]|第 ?\d+)")
_LINE_ENDS = tuple("。！？；：…”』」）)!?;:.")
_OCR_ERRORS = compile_on_use(
    rf"(?<=[{_H}])[|¦丨\\^_{{}}■□◆●]{{1,2}}(?=[{_H}])|，。|、，|。，|；，|，、|[.,;:]{{1,2}}[，。；]|\ufffd|(?<=[{_H}])(?<![第令设取对当若点把数])[lij](?=[{_H}])(?!.[个行列次项步位层级种条])"
)
_MIN_LINE_CHARS = 18
_MIN_BROKEN_LINES = 5


def ocr_debris(text: str, share: float) -> str | Drop:
    """Remove page numbers, blanks between all characters and line ends inside sentences; drop texts with many errors.

    Why: a scanned book's lines end where the paper did, and a model learns to break sentences there. Lines are joined
    only if at least six in ten have one length (18 characters or more) and end without punctuation, which is not so in
    verse, lists and dialogue. Errors are strokes and single small letters inside a sentence (中|国, 的l人) and
    punctuation marks that never follow each other (，。); a text with more of them than `share` of its Chinese
    characters is dropped. Default 0.02: one in fifty. Source: observed on scans; no published rule is known to us. Not
    in the default set: for books only.
    """
    lines = [line for line in text.split("\n") if not _PAGE_NUMBER.fullmatch(line)]
    text = "\n".join(_join_broken_lines([_remove_char_spacing(line) for line in lines]))
    han = len(_HAN.findall(text))
    errors = len(_OCR_ERRORS.findall(text))
    if han and errors > max(2.0, share * han):
        return Drop("ocr_debris", f"{errors} OCR errors in {han} characters")
    return text


def _remove_char_spacing(line: str) -> str:
    """Remove the blanks between the characters of a line if at least six are spaced and hardly any adjacent; lists of
    names (王 明 李小红) are left alone.
    """
    apart = len(_SPACED_PAIR.findall(line))
    return _SPACED_PAIR.sub("", line) if apart >= 5 and len(_ADJACENT_PAIR.findall(line)) * 6 < apart else line


def _join_broken_lines(lines: list[str]) -> list[str]:
    """Join lines that were broken at the width of a page."""
    lengths = Counter(len(line.strip()) for line in lines if line.strip())
    if not lengths:
        return lines
    width = max(lengths, key=lambda length: (sum(lengths[length + step] for step in (-1, 0, 1)), length))
    if width < _MIN_LINE_CHARS:
        return lines

    def is_broken(line: str) -> bool:
        line = line.rstrip()
        if abs(len(line.strip()) - width) > 2 or line.endswith(_LINE_ENDS) or _LIST_MARK.match(line):
            return False
        return len(_HAN.findall(line)) >= 0.7 * len(line.strip())

    if sum(map(is_broken, lines)) < max(_MIN_BROKEN_LINES, 0.6 * sum(lengths.values())):
        return lines
    joined: list[str] = []
    is_continued = False
    for line in lines:
        if is_continued and line.strip() and not line.startswith(("\u3000", "    ")) and not _LIST_MARK.match(line):
            joined[-1] = joined[-1].rstrip() + line.strip()
        else:
            joined.append(line)
        is_continued = bool(line.strip()) and is_broken(line)
    return joined


_FENCE = compile_on_use(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.S)
_FRONT_MATTER = compile_on_use(r"\A---\n(?:(?:[\w-]{1,50}:|[ \t-]).*\n){1,100}?---\n")
_COMMENT = compile_on_use(r"<!--(?:(?!-->|<!--).){0,5000}-->", re.S)  # bounds keep every pattern here linear
_IMAGE = compile_on_use(r"!\[[^\]\n]{0,200}\]\([^)\s]{0,2000}(?: \"[^\"\n]*\")?\)")
_LINK = compile_on_use(
    r"(?<!!)\[([^\]\n]{1,200})\]"
    r"\((?:https?:|javascript:|/|#|\.{1,2}/|mailto:|\w[\w/-]*\.(?:md|html?))[^)\s]{0,2000}(?: \"[^\"\n]{0,200}\")?\)"
)
_ONLY_LINKS = compile_on_use(r"[ \t]*(?:[-*+|>·•] *)*(?:\[[^\]\n]*\]\([^)\n]*\)[ \t|·•/,，、>»-]*)+")


def markdown(text: str) -> str | Drop:
    """Remove from Markdown images and badges, lines of nothing but links, comments and front matter; of a link in a
    sentence the words stay.

    Why: URLs are long, random, and teach nothing; menus are on every page of a site. Headings, lists, tables and
    emphasis stay, because chat models write them, and code is never changed. A text of links alone is dropped. Not in
    the default set, which is for plain text.
    """
    if "](" not in text and "<!--" not in text and not text.startswith("---\n"):
        return text
    pieces = _FENCE.split(_FRONT_MATTER.sub("", text))
    pieces[::2] = [_strip_links(piece) for piece in pieces[::2]]
    rest = "".join(pieces)
    return rest if rest.strip() else Drop("no_text", "links alone")


def _strip_links(piece: str) -> str:
    lines = []
    for line in _COMMENT.sub("", piece).split("\n"):
        without_images = _IMAGE.sub("", line)
        if (without_images != line and not re.sub(r"[\s\[\]()|]|https?://[^\s)]*", "", without_images)) or _is_menu(
            without_images
        ):
            continue
        lines.append(_LINK.sub(r"\1", without_images))
    return "\n".join(lines)


def _is_menu(line: str) -> bool:
    """Whether a line is several links and nothing else; a single one is an ordinary list entry."""
    return line.count("](") > 1 and _ONLY_LINKS.fullmatch(line) is not None
