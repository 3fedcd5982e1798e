"""Text that was decoded with the wrong encoding: found, repaired where no byte was lost, given up otherwise.

Owns the two kinds that Chinese text meets: UTF-8 read as a Western code page (cp1252, Turkish cp1254, Latin-1), as
`ä½\\xa0å¥½` for 你好, and UTF-8 read as GBK, as `浣犲ソ`. Does not own rules (`clean`).

The Western code pages leave a few bytes undefined. Where a program dropped those, characters are gone for good, and
what can be turned back is full of holes: such a text is worth less than none.
"""

from __future__ import annotations

import re

from hanlin.data.encodings import plausibility

_PLAUSIBLE = (
    (0xA0, 0x17F),
    (0x391, 0x3C9),
    (0x400, 0x45F),
    (0x2000, 0x206F),
    (0x20A0, 0x2BFF),
    (0x2E80, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFE30, 0xFE4F),
    (0xFEFF, 0xFEFF),
    (0xFF00, 0xFFEF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x323AF),
)


def _bytes_of_characters() -> dict[int, int]:
    """For each character that some byte above 0x7F may have become, that byte."""
    table = {byte: byte for byte in range(0x80, 0x100)}
    for page in ("cp1252", "cp1254"):
        for byte in range(0x80, 0x100):
            try:
                table[ord(bytes([byte]).decode(page))] = byte
            except UnicodeDecodeError:
                continue
    return table


_BYTE = _bytes_of_characters()


def _class(low: int, high: int) -> str:
    return "[" + "".join(re.escape(chr(char)) for char, byte in sorted(_BYTE.items()) if low <= byte <= high) + "]"


_RUN = re.compile(_class(0x80, 0xFF) + "{2,}")
_PAIR = re.compile(_class(0xC2, 0xF4) + _class(0x80, 0xBF))
_TRIPLE = re.compile(_class(0xE0, 0xEF) + _class(0x80, 0xBF) + "{2}")
_QUOTING = re.compile("[‘’“”–—…•‚„‹›«»]")
_GBK_COMMA_AND_STOP = re.compile("[锛銆]")
_LOOK, _FEW, _STRANGE = 200, 3, 0.1
_LOST_TWICE = ("锟斤拷", "烫烫烫", "屯屯屯")


def repair(text: str) -> tuple[str, int]:
    """The text with every wrongly decoded run turned back, and how many characters look wrong but cannot be.

    A run is turned back only if its bytes are whole UTF-8 and what comes out is ordinary text.
    """
    lost = sum(3 * text.count(mark) for mark in _LOST_TWICE)
    if len(_GBK_COMMA_AND_STOP.findall(text)) * 100 > len(text):
        turned = _from_gbk(text)
        return (text, len(text)) if turned is None else (turned, lost)
    start = text[:_LOOK]
    if len(start.encode("ascii", "ignore")) + _FEW < len(start) and plausibility(start) < _STRANGE:
        turned = _from_gbk(text)
        if turned is not None:
            return turned, lost
    if not _PAIR.search(text):
        return text, lost

    def turn(match: re.Match[str]) -> str:
        nonlocal lost
        run = match.group()
        pairs = len(_PAIR.findall(run))
        turned = _from_western(run) if pairs else run
        if turned is None:
            # A letter between quotation marks (“à”, é…) is a pair by accident, and none without them.
            bare = _QUOTING.sub("", run)
            lost += len(run) if _TRIPLE.search(run) and _PAIR.search(bare) else 0
            return run
        return turned

    return _RUN.sub(turn, text), lost


def _from_western(run: str) -> str | None:
    try:
        text = bytes(_BYTE[ord(char)] for char in run).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(any(low <= ord(char) <= high for low, high in _PLAUSIBLE) for char in text) else None


def _from_gbk(text: str) -> str | None:
    try:
        return text.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return None
