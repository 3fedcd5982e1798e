r"""Mojibake, text that was decoded with the wrong encoding: found, and repaired if no byte was lost.

Three kinds occur in Chinese data: UTF-8, GBK or Big5 decoded as a Western code page (cp1252, Turkish cp1254, Latin-1),
such as `ä½\xa0å¥½` for 你好; UTF-8 decoded as GBK, such as `浣犲ソ`; and any other pair of East Asian encodings, such
as GBK decoded as Big5, `腔岆`. The last loses bytes nearly always, and such text is only found
(`hanlin.data.text.wrong_codec`).

Western code pages leave a few bytes undefined. If a program dropped those, characters are lost for good, and the
repaired text is full of holes: it is worth less than none. `guess_lost_bytes` fills the holes with the likeliest
characters, and `meta` says how many.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hanlin.data.ledger import Drop
from hanlin.data.text.char_stats import code_points
from hanlin.data.text.common_characters import CHARS_BY_FREQUENCY, COMMON_CHARS, FREQUENT_CHARS
from hanlin.data.text.prefilter import Prefilter
from hanlin.data.text.wrong_codec import WESTERN, find_wrong_codec

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
    """Map each character that a byte above 0x7F may have been decoded to, to that byte."""
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
_LOSSY = re.compile("(?:锟斤拷)+|烫{6,}|屯{6,}")
"""What lossy conversions leave; 烫烫烫 alone is said of a soup."""
_ON_ENCODINGS = re.compile("乱码|亂碼|编码|編碼|字符集|UTF-?8|GBK|Unicode|未初始化", re.I)
_MAX_MENTIONED = 0.05
"""Up to this share of a text on encodings may be such characters: it explains them."""
_MAX_MENTIONS, _LONGEST_MENTION = 3, 6
"""So are a few of them in a short text, each by itself; damage is a row of them."""
_LOSSY_PREFILTER, _GBK_PREFILTER = Prefilter(_LOSSY_MARKS), Prefilter("锛銆")
_PAIR_PREFILTER = Prefilter([(_chars_of_bytes(0xC2, 0xF4), _chars_of_bytes(0x80, 0xBF))])
_FREQUENT_PREFILTER = Prefilter([[CHARS_BY_FREQUENCY]])
_MIN_FREQUENT = 0.6
_BLOCK, _MIN_IN_BLOCK, _MIN_FREQUENT_IN_BLOCK, _MAX_BLOCKS_TESTED = 128, 8, 0.4, 8
_MAX_TESTED = 256
_MIN_FREQUENT_IN_SHORT = 0.45
"""In text of 40 characters a few kana and marks that EUC-JP made of bytes weigh more than in a block."""
_CONTROLS = re.compile("[\x80-\x9f]")
_BEFORE_LONE_HALF = re.compile("([\u4e00-\u9fff])[@-~](?![!-~])")
_MAX_DECODINGS, _MIN_MAX_RARE, _MAX_RARE = 3, 2, 0.01


def repair(text: str) -> tuple[str, int]:
    """Decode every wrongly decoded run again.

    A run is replaced only if its bytes are valid UTF-8, or all of them GBK or Big5, and give ordinary text. Text that
    was decoded wrongly twice is repaired twice.

    Returns:
        (text, how many characters look wrong but cannot be repaired).
    """
    if text.isascii():  # a wrong encoding shows in other characters alone
        return text, 0
    repaired, lost = _repair_once(text)
    for _ in range(_MAX_DECODINGS - 1):
        if repaired == text or not _TRIPLE.search(repaired):
            break
        text = repaired
        repaired, lost = _repair_once(text)
    other, lost_in_other = _repair_other_encodings(repaired)
    return (other, lost_in_other) if other != repaired else (repaired, max(lost, lost_in_other))


def _repair_other_encodings(text: str) -> tuple[str, int]:
    """Find parts of a text that were decoded as another encoding, and repair it if that was a Western one.

    Only parts without frequent characters are examined, and only the first of them: a page is decoded as a whole.
    """
    blocks = _find_unusual_blocks(text)
    for start, end in blocks[:_MAX_BLOCKS_TESTED]:
        first = start + _BLOCK if end - start >= 3 * _BLOCK else start  # the first block may be right to one half
        wrong = find_wrong_codec(text[first : min(end, first + _MAX_TESTED)])
        if wrong is None:
            continue
        if wrong.read_as in WESTERN:
            decoded = _decode_western_text(text, wrong.written_as)
            if decoded is not None:
                return decoded, 0
        return text, sum(end - start for start, end in blocks)
    return text, 0


def _find_unusual_blocks(text: str) -> list[tuple[int, int]]:
    """Find the parts of a text in which few of the characters above ASCII are frequent ones, as (start, end)."""
    frequent = _count_frequent(text)
    if frequent >= _MIN_FREQUENT * len(text) or text.isascii():
        return []
    above_ascii = code_points(text) > 0x7F
    total = np.count_nonzero(above_ascii)
    if total < _MIN_IN_BLOCK or frequent >= _MIN_FREQUENT * total:
        return []
    if len(text) < 2 * _BLOCK:
        return [(0, len(text))] if frequent < _MIN_FREQUENT_IN_SHORT * total else []
    in_block = _count_in_blocks(above_ascii)
    unusual = (in_block >= _MIN_IN_BLOCK) & (
        _count_in_blocks(_FREQUENT_PREFILTER.find_candidates(text)) < _MIN_FREQUENT_IN_BLOCK * in_block
    )
    if not unusual.any():
        return []
    edges = np.flatnonzero(np.diff(unusual, prepend=False, append=False)) * _BLOCK
    edges[edges == len(unusual) * _BLOCK] = len(text)
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


@lru_cache(maxsize=2)
def _count_frequent(text: str) -> int:
    """Count the frequent characters of a text."""
    return _FREQUENT_PREFILTER.count_candidates(text)


def _count_in_blocks(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Count the true flags in each block; what is left at the end belongs to the last one."""
    whole = len(flags) // _BLOCK
    counts = flags[: whole * _BLOCK].reshape(whole, _BLOCK).sum(axis=1)
    counts[-1] += np.count_nonzero(flags[whole * _BLOCK :])
    return counts


def _decode_western_text(text: str, encoding: str) -> str | None:
    """Decode a text of which every character was a byte; None if it has others, or if bytes seem to be missing.

    Windows code pages drop some bytes from 0x80 to 0x9F, so that text with others of them is not complete. After a
    byte that was dropped many characters are rare; if the next second byte is an ASCII character, only one is, and that
    character is left behind it (`面向公憪h` for 面向公衆多).
    """
    try:
        decoded = text.encode("latin-1").decode(encoding)
    except UnicodeError:
        return None
    if not _CONTROLS.search(text) and any(char not in FREQUENT_CHARS for char in _BEFORE_LONE_HALF.findall(decoded)):
        return None
    rare = sum(char > "\x7f" and char not in COMMON_CHARS for char in decoded)
    most_rare = max(_MIN_MAX_RARE, _MAX_RARE * len(decoded))
    return None if rare > most_rare or _find_unusual_blocks(decoded) else decoded


def _count_lossy_marks(text: str) -> int:
    """Count the characters that lossy conversions leave, unless a text on encodings mentions them."""
    marks = _LOSSY.findall(text)
    lost = sum(map(len, marks))
    is_mentioned = lost <= _MAX_MENTIONED * len(text) or (
        len(marks) <= _MAX_MENTIONS and all(len(mark) <= _LONGEST_MENTION for mark in marks)
    )
    return 0 if is_mentioned and _ON_ENCODINGS.search(text) else lost


def _repair_once(text: str) -> tuple[str, int]:
    lost = _count_lossy_marks(text) if _LOSSY_PREFILTER.may_match(text) else 0
    if _GBK_PREFILTER.count_candidates(text) * 100 > len(text):
        decoded = _decode_gbk(text)
        if decoded is not None:
            return decoded, lost
        if _is_mostly_utf8(text):
            return text, len(text)
    if _count_frequent(text) < _MIN_FREQUENT * len(text):  # of a text that is wrong as a whole few are
        start = text[:_HEAD_CHARS]
        beyond = len(start) - len(start.encode("ascii", "ignore"))
        frequent = _FREQUENT_PREFILTER.count_candidates(text, _HEAD_CHARS)
        if beyond > _MIN_NON_ASCII and frequent / beyond < _MAX_FREQUENT_FRACTION:
            decoded = _decode_gbk(text)
            if decoded is not None:
                return decoded, lost
    if not (_PAIR_PREFILTER.may_match(text) and _PAIR.search(text)):
        return text, lost

    def decode_run(match: re.Match[str]) -> str:
        nonlocal lost
        run = match.group()
        pairs = len(_PAIR.findall(run))
        decoded = _decode_western(run) if pairs else run
        if decoded is None:
            # A letter between quotation marks (“à”, é…) looks like a pair by accident, but not without them.
            bare = _QUOTING.sub("", run)
            lost += len(run) if _TRIPLE.search(run) and _PAIR.search(bare) else 0
            return run
        return decoded

    return _RUN.sub(decode_run, text), lost


def _decode_western(run: str) -> str | None:
    try:
        text = bytes(_BYTE_OF_CHAR[ord(char)] for char in run).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if all(any(low <= ord(char) <= high for low, high in _PLAUSIBLE_RANGES) for char in text):
        return text
    return _decode_western(text) if all(ord(char) in _BYTE_OF_CHAR for char in text) else None


def _decode_gbk(text: str) -> str | None:
    try:
        return text.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return None


_WIDE_SEQUENCE = re.compile(rb"[\xe3-\xe9\xef][\x80-\xbf]{2}")


def _is_mostly_utf8(text: str) -> bool:
    """Whether a half of the bytes of a text in GB18030 are characters in UTF-8: 削 绞 锛 are tools, not lost bytes."""
    characters = sum(map("\x7f".__lt__, text))
    return 3 * len(_WIDE_SEQUENCE.findall(text.encode("gb18030", "replace"))) >= characters


# --- guesses ----------------------------------------------------------------------------------------------------------

HOLE = "□"
"""What editions of old books print for an illegible character."""
_DROPPED_BYTES = bytes((0x81, 0x8D, 0x8E, 0x8F, 0x90, 0x9D, 0x9E, 0xAD))
_ANY_RUN = re.compile(_char_class(0x80, 0xFF) + "+")
_CHINESE = re.compile("[\u4e00-\u9fff]")
_FREQUENCY_RANK = {char: rank for rank, char in reversed(list(enumerate(CHARS_BY_FREQUENCY)))}
_BIGRAM_WEIGHT = 20.0


@dataclass(frozen=True, slots=True)
class GuessedText:
    """A text whose lost bytes were guessed.

    Attributes:
        text: The text.
        guessed: Characters that were guessed.
        holes: Characters that could not be, and are `HOLE` in the text.
    """

    text: str
    guessed: int
    holes: int

    @property
    def meta(self) -> dict[str, int]:
        """Counts for `meta`, without those that are 0."""
        counts = {"mojibake_guessed": self.guessed, "mojibake_holes": self.holes}
        return {name: count for name, count in counts.items() if count}


def guess_lost_bytes(text: str) -> GuessedText:
    """Guess the characters that `repair` cannot restore because a Western code page dropped bytes.

    A character with lost bytes has at most 64 candidates. The one is chosen that the rest of the text and the frequency
    of Chinese characters make likeliest. A text that `repair` restores, or that was damaged in another way, is returned
    as `repair` leaves it.
    """
    repaired, lost = repair(text)
    if not lost or not _PAIR.search(repaired):
        return GuessedText(repaired, 0, 0)
    candidates = list(_iter_candidates(text))
    known_text = "".join(options for options in candidates if len(options) == 1)
    counts, bigrams = Counter(known_text), Counter(pairwise(known_text))
    chars: list[str] = []
    guessed = holes = 0
    for options in candidates:
        previous = chars[-1] if chars else ""
        if len(options) == 1:
            chars.append(options)
            continue
        scores = {char: _score_char(char, counts) + _BIGRAM_WEIGHT * bigrams[previous, char] for char in options}
        best = max(scores, key=lambda char: scores[char], default=HOLE)
        is_known = best != HOLE and (best in COMMON_CHARS or counts[best] > 0)
        guessed += is_known
        holes += not is_known
        chars.append(best if is_known else HOLE)
    return GuessedText("".join(chars), guessed, holes)


def _score_char(char: str, counts: Counter[str]) -> float:
    rank = _FREQUENCY_RANK.get(char)
    prior = 500 / (rank + 20) if rank is not None else 0.2 if char in COMMON_CHARS else 0.0
    return 5 * counts[char] + prior


def _iter_candidates(text: str) -> Iterator[str]:
    """Yield for each character of the undamaged text its candidates: one character, or all that it may have been."""
    position = 0
    damaged_throughout = not _CHINESE.search(text)
    for run in _ANY_RUN.finditer(text):
        yield from text[position : run.start()]
        position = run.end()
        if not damaged_throughout and not _PAIR.search(_QUOTING.sub("", run.group())):
            yield from run.group()
            continue
        data = bytes(_BYTE_OF_CHAR[ord(char)] for char in run.group())
        offset = 0
        while offset < len(data):
            if not 0xC2 <= data[offset] <= 0xF4:
                yield run.group()[offset]
                offset += 1
                continue
            size = 2 if 0xC2 <= data[offset] <= 0xDF else 3 if 0xE0 <= data[offset] <= 0xEF else 4
            end = offset + 1
            while end < min(offset + size, len(data)) and 0x80 <= data[end] <= 0xBF:
                end += 1
            yield _complete_bytes(data[offset:end], size)
            offset = end
    yield from text[position:]


def _complete_bytes(remaining: bytes, size: int) -> str:
    """Find the ordinary characters of `size` bytes in UTF-8 of which these bytes are left, in order.

    Args:
        remaining: The bytes that were not dropped.
        size: Bytes of the character.
    """
    sequences = {remaining}
    for _ in range(size - len(remaining)) if size < 4 else ():
        sequences = {
            sequence[:position] + bytes([lost]) + sequence[position:]
            for sequence in sequences
            for position in range(1, len(sequence) + 1)
            for lost in _DROPPED_BYTES
        }
    options = set()
    for sequence in sequences:
        try:
            char = sequence.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(char) == 1 and any(low <= ord(char) <= high for low, high in _PLAUSIBLE_RANGES):
            options.add(char)
    return "".join(sorted(options)) if len(remaining) < size or not options else min(options)


_LOST_ENTITY, _MIN_LOST_ENTITIES = re.compile(r"\?#\d{4,5};"), 2


def mojibake(text: str, tolerated: float) -> str | Drop:
    """Repair wrongly decoded text; drop it if more than this share of its characters cannot be repaired.

    Why: a model learns `å¥½` as readily as 好. Default 0.005: a few stray characters in a long page may stay. Entities
    whose & was lost to an encoding (`?#36947;`) stand for characters that are not those that were there.
    """
    if "#" in text and "?#" in text:  # one character is found faster than two
        entities = _LOST_ENTITY.findall(text)
        chars = sum(map(len, entities))
        if len(entities) >= _MIN_LOST_ENTITIES and chars > tolerated * len(text):
            return Drop("mojibake", f"{chars} of {len(text)} characters")
    repaired, lost = repair(text)
    if lost > tolerated * len(text):
        return Drop("mojibake", f"{lost} of {len(text)} characters")
    return repaired
