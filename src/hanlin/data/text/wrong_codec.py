"""Chinese text that was decoded as another encoding: found by encoding it again and reading the bytes as Chinese.

A wrong decoding leaves hardly any frequent character, but so do lists of plants, names and old poems. Only bytes tell
them apart: those of a real text, read in another encoding, are noise, and those of a wrong decoding are Chinese. A
decoder that drops bytes shifts all pairs after them, so that pairs are looked up at every byte, not at every second:

    的是 in GBK          b5 c4 ca c7
    read as Big5         腔(b5c4) 岆(cac7)
    looked up as GBK     b5c4 的    c4ca 哪    cac7 是
"""

from __future__ import annotations

import math
import re
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hanlin.data.text.common_characters import CHARS_BY_FREQUENCY, COMMON_CHARS, FREQUENT_CHARS
from hanlin.data.text.verse import NAMED_EMOTICON

_WRITTEN_AS = ("gb18030", "big5hkscs")
_READ_AS = {
    "big5hkscs": (0.2, 0.25), "gb18030": (0.2, 0.25), "cp932": (0.2, 0.2), "latin-1": (0.2, 0.2), "cp1252": (0.2, 0.2),
    "euc_jp": (0.3, 0.45), "cp949": (0.3, 0.45),
}  # fmt: skip
"""The largest codec of each family that a text may have been read as, with the score of a character from which on the
other reading is Chinese, and the share of frequent characters that a wrong reading has at most. Japanese and Korean
characters are in the rows of GB 2312, so that they come closer to it in both."""
WESTERN = ("latin-1", "cp1252")
_CHINESE = ("big5hkscs", "gb18030")
_MAX_COMMON = 0.9
"""More of the characters are never common ones if bytes were read as one of `_CHINESE`; in a list of words they are."""
_MIN_COMMAS = 25
"""One comma in so many characters is not from a wrong reading as EUC-JP, which has no character for that of GBK."""
_MIN_CHARS, _MIN_ENCODABLE = 8, 0.97
_EXTRA_FOR_FEW = 11
_FIRST_RANK, _RANKS, _MAX_REPEATS, _MIN_DISTINCT = 8, 400, 3, 5
_FOREIGN = (
    (re.compile("[\u3040-\u30ff]"), 0.35),  # kana
    (re.compile("[\xc0-\u024f]"), 0.35),  # Latin
    (re.compile("[\u0370-\u04ff]"), 0.5),  # Greek, Cyrillic
    (re.compile("[\uac00-\ud7a3]"), 0.95),  # Hangul
)
"""Letters that East Asian encodings have too, and the share of them from which on a text is in that script."""
_LETTERS = re.compile("[^\\W\\d_]|[\ue000-\uf8ff]")
"""Letters, and what GB 18030 has for bytes that are no character in it, as a third of those of Big5 are."""
_HALVING = ("euc_jp", "cp949", "gb18030", "cp932")
_LONE_HALVES = re.compile(r"(?<=[^\x00-\x7f])[@-~]{1,10}(?=[^\x00-\x7f])")
_ODD_HALF = re.compile(r"^[\\{}^]$|[a-z][A-Z]|[A-Z]{2}[a-z](?![a-z])|(?!@[A-Za-z]{3})(?=.*[A-Za-z]).*[@\[\\\]^_{|}~]")
_IN_POSTS, _MIN_HALVES = {"@", "~", "~~", "~~~", "[", "]", "_"}, 2
_MARKS, _MAX_COUNTED, _MAX_HALF_CHARS = "，。、；：", 4, 4
_OFFSET, _NEARNESS, _DISTINCT, _ODD, _MARK, _FREQUENT = -5.9, 5.7, 114.0, 1.0, -1.8, -17.6
_SCRIPTS = ((_FOREIGN[0][0], -12.0), (_FOREIGN[2][0], -5.1), (_FOREIGN[3][0], -5.7))
"""Weights of `_lost_first_bytes` by logistic regression on pieces of 20 to 400 characters of Chinese news and web pages
in Big5, each read as six other encodings, and on 12,800 pieces of real text (Japanese, Korean, dictionaries, recipes,
abstracts, verse) that come this far; the offset asks for odds of 20 to 1."""
_MIN_DISTINCT_CHARS = 6
_MIN_UTF8_BYTES, _MIN_LEADS, _MAX_LEADS, _MIN_WHOLE = 0.95, 0.2, 0.7, 0.1
_SEQUENCES = (re.compile(rb"[\xe2-\xe9\xef][\x80-\xbf]{2}"), re.compile(rb"[\xc2\xc3][\x80-\xbf]"))


class WrongCodec(NamedTuple):
    """A wrong decoding.

    Attributes:
        written_as: The encoding of the bytes.
        read_as: The encoding as which they were decoded.
    """

    written_as: str
    read_as: str


def find_wrong_codec(text: str) -> WrongCodec | None:
    """Find out whether a text was decoded as another encoding than the one in which it was written.

    Args:
        text: Some hundred characters, of which those above ASCII are hardly ever frequent in Chinese.

    Returns:
        None if the text was decoded rightly, or is too short to tell.
    """
    text = text.replace("\ufffd", "")
    above_ascii = "".join(char for char in text if char > "\x7f")
    if len(set(above_ascii)) < _MIN_DISTINCT_CHARS:
        return None  # one character, again and again
    frequent = sum(char in FREQUENT_CHARS for char in above_ascii)
    common = sum(char in COMMON_CHARS for char in above_ascii)
    for read_as, (per_char, max_frequent) in _READ_AS.items():
        if frequent > max_frequent * len(above_ascii):
            continue
        if read_as in _CHINESE and common > _MAX_COMMON * len(above_ascii):
            continue
        if read_as == "euc_jp" and _MIN_COMMAS * above_ascii.count("，") >= len(above_ascii):
            continue
        data = above_ascii.encode(read_as, "replace")
        if len(data) < 2 * _MIN_CHARS or data.count(b"?") > (1 - _MIN_ENCODABLE) * len(above_ascii):
            continue
        codes = np.frombuffer(data, dtype=np.uint8)
        if read_as not in WESTERN:
            if any(len(letters.findall(above_ascii)) > share * len(above_ascii) for letters, share in _FOREIGN):
                continue
            if 2 * len(_LETTERS.findall(above_ascii)) < len(above_ascii):
                continue  # degrees, squares and dashes of a text in English, not characters
            if _looks_like_utf8(codes):
                return WrongCodec("utf-8", read_as)
        if read_as != "gb18030" and _score_pairs(codes, "gb18030") >= per_char * len(codes) / 2 + _EXTRA_FOR_FEW:
            return WrongCodec("gb18030", read_as)
        if read_as != "big5hkscs":  # the second bytes of Big5 may be ASCII
            codes = np.frombuffer(text.encode(read_as, "replace"), dtype=np.uint8)
            if _measure_nearness(codes, per_char) >= 1:
                return WrongCodec("big5hkscs", read_as)
    lossy = _lost_first_bytes(text, above_ascii, frequent / len(above_ascii))
    return WrongCodec("big5hkscs", lossy) if lossy else None


def _measure_nearness(codes: npt.NDArray[np.uint8], per_char: float) -> float:
    """Measure how near bytes come to Chinese in Big5: from 1 on they are."""
    count = np.count_nonzero((codes[:-1] > 0x7F) & (codes[1:] >= 0x40)) / 2
    return _score_pairs(codes, "big5hkscs") / (per_char * count + _EXTRA_FOR_FEW)


def _lost_first_bytes(text: str, above_ascii: str, frequent: float) -> str | None:
    """Find out whether second bytes of Big5 stand alone between other characters, of which a decoder lost the first.

    The pairs of two fifths of all characters have an ASCII character (@ to ~) as their second byte, and readers of
    Japanese and Korean drop the byte before it. What is left is `春枌鋸WA酔廛祖紀讎B題wF@W~aklCbD飴鋸`: next to no
    pair is whole, but nobody writes like this.

    Args:
        text: A part of a text.
        above_ascii: Its characters above ASCII.
        frequent: The share of them that is frequent in Chinese.

    Returns:
        The encoding as which it was read; None if it was not.
    """
    total = len(above_ascii)
    latin, max_latin = _FOREIGN[1]
    if len(latin.findall(above_ascii)) > max_latin * total:
        return None  # words with accents: készült
    codecs = []
    nearness = 0.0
    for codec in _HALVING:
        per_char, max_frequent = _READ_AS[codec]
        unknown = above_ascii.encode(codec, "replace").count(b"?")
        if frequent <= max_frequent and unknown <= (1 - _MIN_ENCODABLE) * total:
            codecs.append(codec)
            codes = np.frombuffer(text.encode(codec, "replace"), dtype=np.uint8)
            nearness = max(nearness, _measure_nearness(codes, per_char))
    if not codecs:
        return None
    halves = _LONE_HALVES.findall(NAMED_EMOTICON.sub("。", text))
    if sum(map(len, halves)) > _MAX_HALF_CHARS * len(halves):
        return None  # words, not bytes
    distinct = set(halves)
    if len(distinct - _IN_POSTS) < _MIN_HALVES:
        distinct = set()  # a path or a list has one mark again and again, a post names people and draws out its words
    score = _OFFSET + _NEARNESS * nearness + _FREQUENT * frequent + _DISTINCT * len(distinct) / len(text)
    score += _ODD * min(_MAX_COUNTED, sum(1 for half in distinct if _ODD_HALF.search(half)))
    score += _MARK * sum(map(above_ascii.count, _MARKS))
    score += sum(weight * len(letters.findall(above_ascii)) / total for letters, weight in _SCRIPTS)
    return codecs[0] if score > 0 else None


def _score_pairs(codes: npt.NDArray[np.uint8], codec: str) -> float:
    """Add the scores of all positions at which two bytes are a frequent character; repeats count up to three times."""
    pairs, counts = np.unique((codes[:-1].astype(np.uint16) << 8) | codes[1:], return_counts=True)
    scores = _pair_scores(codec).take(pairs)
    is_varied = np.count_nonzero(scores) >= _MIN_DISTINCT
    return float(scores @ np.minimum(counts, _MAX_REPEATS)) if is_varied else 0.0


@cache
def _pair_scores(codec: str) -> npt.NDArray[np.float32]:
    """Score of each pair of bytes, shape (65536,): the more frequent the character is in Chinese, the higher.

    The score of the commonest characters is 5.7, of the last in the list 0.7, of all others 0.
    """
    table = np.zeros(1 << 16, dtype=np.float32)
    traditional = CHARS_BY_FREQUENCY.index("這個們")  # from here on only every second character is listed
    for index, char in enumerate(CHARS_BY_FREQUENCY):
        rank = index if index < traditional else 2 * (index - traditional)
        data = char.encode(codec, "ignore")
        if "\u4e00" <= char <= "\u9fff" and len(data) == 2:
            table[int.from_bytes(data, "big")] = math.log2(1 + _RANKS / (rank + _FIRST_RANK))
    return table


def _looks_like_utf8(codes: npt.NDArray[np.uint8]) -> bool:
    """Whether bytes are those of Chinese in UTF-8, or of Latin letters in UTF-8 that were bytes of Chinese in UTF-8.

    Some bytes are missing after a lossy decoding, so that mainly the ranges of bytes are compared: the bytes of a short
    list of words may have them too (冬夜 秋夜 春夜 in Japanese bytes), but hardly a sequence of them is whole.
    """
    high = codes[codes > 0x7F]
    trails = np.count_nonzero(high <= 0xBF)
    chinese = np.count_nonzero(((high >= 0xE2) & (high <= 0xE9)) | (high == 0xEF))
    latin = np.count_nonzero((high == 0xC2) | (high == 0xC3))
    return any(
        trails + leads >= _MIN_UTF8_BYTES * len(high)
        and _MIN_LEADS * len(high) <= leads <= _MAX_LEADS * len(high)
        and len(sequences.findall(codes.tobytes())) >= _MIN_WHOLE * leads
        for leads, sequences in zip((chinese, latin), _SEQUENCES, strict=True)
    )
