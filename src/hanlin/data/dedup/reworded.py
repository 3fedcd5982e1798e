"""Questions whose function words, quantity words or order of clauses were changed, found by what they are about.

Function words are left out, and short n-grams of the rest are compared: 5 characters of Chinese, 3 words of English. So
many of them must be close together, in any order, that a text on the same matter has not enough. The place must ask
something, and have the numbers of the question: the same exercise with other numbers is another one. What a question
quotes is in many texts and does not count.

    下列关于赵州桥的说法，哪一项是不正确的？   ->  赵州桥说法不正确
    关于赵州桥，以下哪种说法不正确？           ->  赵州桥说法不正确
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hanlin.data.dedup.keys import CodePoints, Hashes
from hanlin.data.dedup.minhash import fold_letters
from hanlin.data.dedup.numbers import DIGITS, unify_chinese_numbers, unify_english_numbers
from hanlin.data.dedup.question_sets import EvalQuestion
from hanlin.data.text.char_stats import FIRST_SUPPLEMENTARY, count_char_kinds
from hanlin.data.text.ngrams import hash_ngrams

_CHARACTERS, _WORDS = 4, 2
_MIN_NGRAMS, _MIN_NGRAMS_WITHOUT_CUE = 4, {_CHARACTERS: 5, _WORDS: 8}
_VERY_FEW, _FEW, _MANY = 8, 12, 16
_SHARE_OF_FEW = 0.75
_SHARE_WITHOUT_CUE = 0.8
_SHARE_IF_COMPLETE, _SHARE_OF_VERY_FEW = 0.45, 0.7
_COMPLETE, _COMPLETE_WITHOUT_CUE = 0.9, 0.96
_WINDOW_FACTOR, _WINDOW_EXTRA = 1.6, 12
_CONTEXT = 24
_MIN_NUMBERS_FOUND = 0.7
_FILTER_SIZE = 1 << 22
_MIN_HAN, _MIN_LATIN = 8, 30


def _split(text: str) -> list[str]:
    return text.split()


_FUNCTION_CHARACTERS = (
    "的地得了着过吗呢吧啊呀嘛么之乎者也矣而则且与和及跟或是为乃即被把将给对就从自由于在到向往以按据因所其该此这那哪何谁"
    "什怎几多少请问有个些项种位只条件名会可要应都均共总还又再很最更并但它他她我们你您若如中里上呈不"
)
_FUNCTION_PAIRS = _split(
    "下列 以下 下面 关于 有关 对于 如果 假如 那么 因此 因为 由于 以及 然而 不过 其中 总共 共计 分别 各自 应该 应当 "
    "可以 能够 需要 必须 已经 曾经 若干 想问 现在 目前 根据 按照 依据 是否 选项 选择 回答 试问 求出 计算 已知 现有 "
    "那里 这里 时候 为止 正确 错误 有误 不对"
)
_STOPWORDS = frozenset(
    _split(
        "a an the of to in on at by for from with about into over after before between than then so and or "
        "but if as is are was were be been being am do does did done have has had having will would shall "
        "should can could may might must that this these those it its it they them their he him his she "
        "her we us our you your i my me there here what which who whom whose when where why how many much "
        "more most some any each every all both no not only just also very too please find calculate "
        "determine following number amount order well plus upon inside within suppose given called one "
        "such same other another"
    )
)
_CHINESE_CUE = re.compile(
    r"[?？吗呢哪谁]|什么|多少|若干|啥|怎|是否|[（(]\s*[)）]|_{2,}|＿|下列|以下|何[时种处地人事物以者项]|[为如]何"
    r"|几[个天小年本元人只次分千米公时种]|求[出：:得这该此其]|请[问选写计回算你根将给把]|试[求问计证]|[的是][:：]"
)
_QUOTED = re.compile("[“「『][^”」』]{8,}[”」』]")
_ENGLISH_CUE = re.compile(r"[?？]|\b(?:what|which|who|whom|whose|when|where|why|how|find|calculate|determine)\b|_{2,}")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_WORD = re.compile(r"[^\W_]+")


class _Content(NamedTuple):
    """The content of a text.

    Attributes:
        text: The text, its numbers in digits.
        codes: The letters, or hashes of the words, that are no function words.
        starts: Where each of them begins in `text`.
    """

    text: str
    codes: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]


class _IndexedQuestion(NamedTuple):
    """What is indexed of a question.

    Attributes:
        codes: The content.
        ngrams: How many n-grams it has that few other questions have.
        window: Letters or words within which they must be.
        numbers: The numbers in it.
        has_cue: Whether it asks in words or by a mark.
    """

    codes: npt.NDArray[np.uint32]
    ngrams: int
    window: int
    numbers: frozenset[str]
    has_cue: bool


class RewordedIndex:
    """An index of the content of all questions in one language.

    Args:
        questions: The questions with their indices.
        of_words: Whether they are in a language with words between blanks.
        share: Fraction of the n-grams of a question that must match.
        common: N-grams of more questions than this are not compared.
    """

    def __init__(
        self, questions: Sequence[tuple[int, EvalQuestion]], of_words: bool, share: float, common: int
    ) -> None:
        self._of_words, self._share = of_words, share
        self._length = _WORDS if of_words else _CHARACTERS
        contents = [
            (index, _extract_content(_QUOTED.sub(" ", question.text), of_words)) for index, question in questions
        ]
        ngrams = [(index, np.unique(hash_ngrams(content.codes, self._length))) for index, content in contents]
        hashes = np.concatenate([row for _, row in ngrams] or [np.empty(0, dtype=np.uint64)])
        owners = np.concatenate(
            [np.full(len(row), index, dtype=np.int64) for index, row in ngrams] or [np.empty(0, dtype=np.int64)]
        )
        order = np.argsort(hashes, kind="stable")
        unique, counts = np.unique(hashes[order], return_counts=True)
        owners = owners[order][np.repeat(counts <= common, counts)]
        self._hashes, counts = unique[counts <= common], counts[counts <= common]
        left = Counter(owners.tolist())
        least_without_cue = _MIN_NGRAMS_WITHOUT_CUE[self._length]
        self._indexed = {
            index: _IndexedQuestion(
                content.codes,
                left[index],
                int(_WINDOW_FACTOR * len(content.codes)) + _WINDOW_EXTRA,
                _find_numbers(content.text),
                bool(self._cue.search(content.text)),
            )
            for index, content in contents
            if left[index] >= (_MIN_NGRAMS if self._cue.search(content.text) else least_without_cue)
        }
        self._owners, self._starts = owners, np.append(0, np.cumsum(counts))
        self._filter = np.zeros(_FILTER_SIZE, dtype=np.bool_)
        self._filter[(self._hashes % _FILTER_SIZE).astype(np.int64)] = True

    @property
    def _cue(self) -> re.Pattern[str]:
        return _ENGLISH_CUE if self._of_words else _CHINESE_CUE

    def find(self, text: str) -> list[int]:
        """Find the indices of the questions that a text has in other words."""
        han, latin, *_ = count_char_kinds(text)
        if not self._indexed or (latin < _MIN_LATIN if self._of_words else han < _MIN_HAN):
            return []
        content = _extract_content(text, self._of_words)
        hashes = hash_ngrams(content.codes, self._length)
        positions = np.flatnonzero(self._filter.take((hashes % _FILTER_SIZE).astype(np.int64)))
        if len(positions) < _MIN_NGRAMS:
            return []
        rows = np.minimum(np.searchsorted(self._hashes, hashes[positions]), len(self._hashes) - 1)
        is_found = self._hashes[rows] == hashes[positions]
        positions_of: dict[int, list[tuple[int, int]]] = {}
        for position, row in zip(positions[is_found].tolist(), rows[is_found].tolist(), strict=True):
            for owner in self._owners[self._starts[row] : self._starts[row + 1]].tolist():
                positions_of.setdefault(owner, []).append((position, row))
        return [
            index
            for index, matches in positions_of.items()
            if index in self._indexed and self._contains(index, matches, content)
        ]

    def _contains(self, index: int, matches: list[tuple[int, int]], content: _Content) -> bool:
        """Whether enough n-grams of a question are in one window that has its numbers and asks something."""
        indexed = self._indexed[index]
        share = self._share if indexed.has_cue else max(self._share, _SHARE_WITHOUT_CUE)
        share = max(share, _SHARE_OF_FEW) if indexed.ngrams < _MANY else share
        least = math.ceil(share * indexed.ngrams) if indexed.ngrams >= _FEW else indexed.ngrams + 1
        if_complete = _SHARE_IF_COMPLETE if indexed.ngrams >= _VERY_FEW else _SHARE_OF_VERY_FEW
        least_if_complete = math.ceil(if_complete * indexed.ngrams)
        if len(matches) < least_if_complete:
            return False
        counts: Counter[int] = Counter()
        first = 0
        best, span = 0, (0, 0)
        for position, row in matches:
            counts[row] += 1
            while position - matches[first][0] >= indexed.window:
                counts[matches[first][1]] -= 1
                if not counts[matches[first][1]]:
                    del counts[matches[first][1]]
                first += 1
            if len(counts) > best:
                best, span = len(counts), (matches[first][0], position + self._length)
        if best < least_if_complete or (best < least and not _is_complete(indexed, content, *span)):
            return False
        return self._asks(indexed, content, *span)

    def _asks(self, indexed: _IndexedQuestion, content: _Content, first: int, end: int) -> bool:
        """Whether the text around a part of the content asks something, and has the numbers of the question."""
        start, last = int(content.starts[first]), int(content.starts[min(end, len(content.starts)) - 1])
        window = content.text[max(0, start - _CONTEXT) : last + _CONTEXT]
        if indexed.has_cue and not self._cue.search(window):
            return False
        return len(indexed.numbers & _find_numbers(window)) >= _MIN_NUMBERS_FOUND * len(indexed.numbers)


def _is_complete(indexed: _IndexedQuestion, content: _Content, first: int, end: int) -> bool:
    """Whether nearly all letters or words of a question are around a part of the content, in any order."""
    around = max(0, len(indexed.codes) - (end - first))
    counts = Counter(indexed.codes.tolist())
    counts.subtract(content.codes[max(0, first - around) : end + around].tolist())
    missing = sum(count for count in counts.values() if count > 0)
    return missing <= (1 - (_COMPLETE if indexed.has_cue else _COMPLETE_WITHOUT_CUE)) * len(indexed.codes)


def is_of_words(text: str) -> bool:
    """Whether a question is compared by words, not by characters."""
    han, latin, *_ = count_char_kinds(text)
    return 4 * han < latin


def _find_numbers(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(text)) - {"1"}


def _extract_content(text: str, of_words: bool) -> _Content:
    return _extract_words(text) if of_words else _extract_characters(text)


def _extract_words(text: str) -> _Content:
    text = unify_english_numbers(text.casefold())
    words = [(match.start(), match.group()) for match in _WORD.finditer(text) if match.group() not in _STOPWORDS]
    codes = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for _, word in words], dtype=np.uint32)
    return _Content(text, codes, np.array([start for start, _ in words], dtype=np.int64))


def _extract_characters(text: str) -> _Content:
    text = unify_chinese_numbers(text)
    codes, is_letter = fold_letters(text)
    starts = np.flatnonzero(is_letter)
    codes = codes[starts]
    digits, is_function, firsts, seconds = _build_tables()
    in_table = np.minimum(codes, FIRST_SUPPLEMENTARY - 1)
    codes = digits.take(in_table) if len(codes) and codes.max() < FIRST_SUPPLEMENTARY else codes
    is_left_out = is_function.take(in_table)
    if len(codes) > 1:
        is_pair = (firsts.take(in_table[:-1]) & seconds.take(in_table[1:])) != 0
        is_left_out[:-1] |= is_pair
        is_left_out[1:] |= is_pair
        is_digit = (codes >= ord("0")) & (codes <= ord("9"))
        is_alone = codes == ord("1")
        is_alone[1:] &= ~(is_digit[:-1] & (np.diff(starts) == 1))
        is_alone[:-1] &= ~(is_digit[1:] & (np.diff(starts) == 1))
        is_left_out |= is_alone
    return _Content(text, codes[~is_left_out], starts[~is_left_out])


@cache
def _build_tables() -> tuple[CodePoints, npt.NDArray[np.bool_], Hashes, Hashes]:
    """Build tables by code point, each of FIRST_SUPPLEMENTARY entries.

    Returns:
        (digit of a Chinese one, whether it is a function character, bits of the pairs that it begins, and ends).
    """
    digits = np.arange(FIRST_SUPPLEMENTARY, dtype=np.uint32)
    is_function = np.zeros(FIRST_SUPPLEMENTARY, dtype=np.bool_)
    firsts, seconds = np.zeros((2, FIRST_SUPPLEMENTARY), dtype=np.uint64)
    for char, digit in DIGITS.items():
        digits[ord(char)] = ord(digit)
    is_function[[ord(char) for char in _FUNCTION_CHARACTERS]] = True
    for bit, pair in enumerate(_FUNCTION_PAIRS):
        firsts[ord(pair[0])] |= np.uint64(1 << bit)
        seconds[ord(pair[1])] |= np.uint64(1 << bit)
    return digits, is_function, firsts, seconds
