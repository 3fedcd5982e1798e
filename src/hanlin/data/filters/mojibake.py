"""Text that was decoded with the wrong encoding: found, repaired where no byte was lost, given up otherwise.

Owns the two kinds that Chinese text meets: UTF-8 read as a Western code page (cp1252, Turkish cp1254, Latin-1), as
`ä½\\xa0å¥½` for 你好, and UTF-8 read as GBK, as `浣犲ソ`. Does not own rules (`clean`).

The Western code pages leave a few bytes undefined. Where a program dropped those, characters are gone for good, and
what can be turned back is full of holes: such a text is worth less than none. Who wants it nevertheless gets the
likeliest characters for the holes (`guess`), marked as what they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from hanlin.data.ledger import Drop
from hanlin.data.text.common_characters import CHARS_BY_FREQUENCY, COMMON_CHARS
from hanlin.data.text.prefilter import Prefilter

_PLAUSIBLE_RANGES = (
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


def _map_chars_to_bytes() -> dict[int, int]:
    """For each character that some byte above 0x7F may have become, that byte."""
    table = {byte: byte for byte in range(0x80, 0x100)}
    for page in ("cp1252", "cp1254"):
        for byte in range(0x80, 0x100):
            try:
                table[ord(bytes([byte]).decode(page))] = byte
            except UnicodeDecodeError:
                continue
    return table


_BYTE_OF_CHAR = _map_chars_to_bytes()


def _chars_of_bytes(low: int, high: int) -> str:
    return "".join(chr(char) for char, byte in sorted(_BYTE_OF_CHAR.items()) if low <= byte <= high)


def _char_class(low: int, high: int) -> str:
    return f"[{re.escape(_chars_of_bytes(low, high))}]"


_RUN = re.compile(_char_class(0x80, 0xFF) + "{2,}")
_PAIR = re.compile(_char_class(0xC2, 0xF4) + _char_class(0x80, 0xBF))
_TRIPLE = re.compile(_char_class(0xE0, 0xEF) + _char_class(0x80, 0xBF) + "{2}")
_QUOTING = re.compile("[‘’“”–—…•‚„‹›«»]")
_HEAD_CHARS, _MIN_NON_ASCII, _MAX_FREQUENT_FRACTION = 200, 3, 0.1
_LOSSY_MARKS = ("锟斤拷", "烫烫烫", "屯屯屯")
_LOSSY_PREFILTER, _GBK_PREFILTER = Prefilter(_LOSSY_MARKS), Prefilter("锛銆")
_PAIR_PREFILTER = Prefilter([(_chars_of_bytes(0xC2, 0xF4), _chars_of_bytes(0x80, 0xBF))])
_FREQUENT_PREFILTER = Prefilter([[CHARS_BY_FREQUENCY]])


def repair(text: str) -> tuple[str, int]:
    """The text with every wrongly decoded run turned back, and how many characters look wrong but cannot be.

    A run is turned back only if its bytes are whole UTF-8 and what comes out is ordinary text.
    """
    lost = sum(3 * text.count(mark) for mark in _LOSSY_MARKS) if _LOSSY_PREFILTER.may_match(text) else 0
    if _GBK_PREFILTER.count_candidates(text) * 100 > len(text):
        turned = _decode_gbk(text)
        return (text, len(text)) if turned is None else (turned, lost)
    start = text[:_HEAD_CHARS]
    beyond = len(start) - len(start.encode("ascii", "ignore"))
    if (
        beyond > _MIN_NON_ASCII
        and _FREQUENT_PREFILTER.count_candidates(text, _HEAD_CHARS) / beyond < _MAX_FREQUENT_FRACTION
    ):
        turned = _decode_gbk(text)
        if turned is not None:
            return turned, lost
    if not (_PAIR_PREFILTER.may_match(text) and _PAIR.search(text)):
        return text, lost

    def turn(match: re.Match[str]) -> str:
        nonlocal lost
        run = match.group()
        pairs = len(_PAIR.findall(run))
        turned = _decode_western(run) if pairs else run
        if turned is None:
            # A letter between quotation marks (“à”, é…) is a pair by accident, and none without them.
            bare = _QUOTING.sub("", run)
            lost += len(run) if _TRIPLE.search(run) and _PAIR.search(bare) else 0
            return run
        return turned

    return _RUN.sub(turn, text), lost


def _decode_western(run: str) -> str | None:
    try:
        text = bytes(_BYTE_OF_CHAR[ord(char)] for char in run).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if all(any(low <= ord(char) <= high for low, high in _PLAUSIBLE_RANGES) for char in text) else None


def _decode_gbk(text: str) -> str | None:
    try:
        return text.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return None


# --- guesses ----------------------------------------------------------------------------------------------------------

HOLE = "□"
"""What editions of old books print for a character that cannot be read."""
_DROPPED_BYTES = bytes((0x81, 0x8D, 0x8E, 0x8F, 0x90, 0x9D, 0x9E, 0xAD))
_ANY_RUN = re.compile(_char_class(0x80, 0xFF) + "+")
_CHINESE = re.compile("[\u4e00-\u9fff]")
_FREQUENCY_RANK = {char: rank for rank, char in reversed(list(enumerate(CHARS_BY_FREQUENCY)))}
_BIGRAM_WEIGHT = 20.0


@dataclass(frozen=True, slots=True)
class GuessedText:
    """A text whose lost bytes were guessed: in how many characters, and how many stay holes (`HOLE`)."""

    text: str
    guessed: int
    holes: int

    @property
    def meta(self) -> dict[str, int]:
        """What `meta` says of it; nothing where nothing was guessed."""
        found = {"mojibake_guessed": self.guessed, "mojibake_holes": self.holes}
        return {name: count for name, count in found.items() if count}


def guess_lost_bytes(text: str) -> GuessedText:
    """The text with what `repair` gives up filled in, where UTF-8 was read as a Western page that dropped bytes.

    For each character with lost bytes there are at most 64 that it may have been: the one is taken that the rest of the
    text and everyday Chinese make likeliest. A text that `repair` mends, or that was damaged otherwise, comes back as
    `repair` leaves it.
    """
    mended, lost = repair(text)
    if not lost or not _PAIR.search(mended):
        return GuessedText(mended, 0, 0)
    places = list(_iter_candidates(text))
    whole = "".join(options for options in places if len(options) == 1)
    seen, together = Counter(whole), Counter(pairwise(whole))
    said: list[str] = []
    guessed = holes = 0
    for options in places:
        before = said[-1] if said else ""
        if len(options) == 1:
            said.append(options)
            continue
        weights = {char: _score_char(char, seen) + _BIGRAM_WEIGHT * together[before, char] for char in options}
        best = max(weights, key=lambda char: weights[char], default=HOLE)
        known = best != HOLE and (best in COMMON_CHARS or seen[best] > 0)
        guessed += known
        holes += not known
        said.append(best if known else HOLE)
    return GuessedText("".join(said), guessed, holes)


def _score_char(char: str, seen: Counter[str]) -> float:
    rank = _FREQUENCY_RANK.get(char)
    prior = 500 / (rank + 20) if rank is not None else 0.2 if char in COMMON_CHARS else 0.0
    return 5 * seen[char] + prior


def _iter_candidates(text: str) -> Iterator[str]:
    """For each character of the text before it was damaged, what it was: one character, or all it may have been."""
    at = 0
    damaged_throughout = not _CHINESE.search(text)
    for run in _ANY_RUN.finditer(text):
        yield from text[at : run.start()]
        at = run.end()
        if not damaged_throughout and not _PAIR.search(_QUOTING.sub("", run.group())):
            yield from run.group()
            continue
        data = bytes(_BYTE_OF_CHAR[ord(char)] for char in run.group())
        place = 0
        while place < len(data):
            if not 0xC2 <= data[place] <= 0xF4:
                yield run.group()[place]
                place += 1
                continue
            size = 2 if 0xC2 <= data[place] <= 0xDF else 3 if 0xE0 <= data[place] <= 0xEF else 4
            end = place + 1
            while end < min(place + size, len(data)) and 0x80 <= data[end] <= 0xBF:
                end += 1
            yield _complete_bytes(data[place:end], size)
            place = end
    yield from text[at:]


def _complete_bytes(found: bytes, size: int) -> str:
    """The ordinary characters of `size` bytes in UTF-8 of which these bytes are left, in order."""
    ways = {found}
    for _ in range(size - len(found)) if size < 4 else ():
        ways = {
            way[:at] + bytes([lost]) + way[at:]
            for way in ways
            for at in range(1, len(way) + 1)
            for lost in _DROPPED_BYTES
        }
    options = set()
    for way in ways:
        try:
            char = way.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(char) == 1 and any(low <= ord(char) <= high for low, high in _PLAUSIBLE_RANGES):
            options.add(char)
    return "".join(sorted(options)) if len(found) < size or not options else min(options)


def mojibake(text: str, tolerated: float) -> str | Drop:
    """Turn back what was decoded with the wrong encoding; drop the text when more than this share is beyond repair.

    Why: a model learns `å¥½` as eagerly as 好. Default 0.005: a few stray characters in a long page may stay.
    """
    mended, lost = repair(text)
    if lost > tolerated * len(text):
        return Drop("mojibake", f"{lost} of {len(text)} characters")
    return mended
