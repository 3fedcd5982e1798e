"""Questions whose function words, quantity words or order of clauses were changed, found by what they are about.

Function words are left out, and short n-grams of the rest are compared: 5 characters of Chinese, 3 words of English. So
many of them must be close together, in any order, that a text on the same matter has not enough. The place must ask
something, and have the numbers of the question: the same exercise with other numbers is another one. What a question
quotes is in many texts and does not count.

Questions that are too short for that are found where they stand alone, by `hanlin.data.dedup.clauses`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hanlin.data.dedup.clauses import ClauseIndex
from hanlin.data.dedup.content import Content, extract_content, find_cue, find_numbers, may_be_stem
from hanlin.data.dedup.question_sets import EvalQuestion
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.ngrams import hash_ngrams
from hanlin.data.text.patterns import compile_on_use

_CHARACTERS, _WORDS = 4, 2
_MIN_NGRAMS, _MIN_NGRAMS_WITHOUT_CUE = 4, {_CHARACTERS: 5, _WORDS: 8}
_MIN_NGRAMS_OF_STEM = 3
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
_QUOTED = compile_on_use("[“「『][^”」』]{8,}[”」』]")


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
        self._of_words, self._share, self._has_questions = of_words, share, bool(questions)
        self._length = _WORDS if of_words else _CHARACTERS
        contents = [
            (index, extract_content(_QUOTED.sub(" ", question.text), of_words)) for index, question in questions
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
        self._indexed = {
            index: _IndexedQuestion(
                content.codes,
                left[index],
                int(_WINDOW_FACTOR * len(content.codes)) + _WINDOW_EXTRA,
                find_numbers(content.text),
                find_cue(content.text, of_words),
            )
            for index, content in contents
            if left[index] >= self._find_least_ngrams(content)
        }
        self._owners, self._starts = owners, np.append(0, np.cumsum(counts))
        self._clauses = ClauseIndex(
            ((index, extract_content(question.text, of_words)) for index, question in questions), of_words
        )
        self._filter = np.zeros(_FILTER_SIZE, dtype=np.bool_)
        self._filter[(self._hashes % _FILTER_SIZE).astype(np.int64)] = True

    def _find_least_ngrams(self, content: Content) -> int:
        """How many n-grams a question must have to be searched by them."""
        if find_cue(content.text, self._of_words):
            return _MIN_NGRAMS
        if may_be_stem(content, self._of_words):
            return _MIN_NGRAMS_OF_STEM
        return _MIN_NGRAMS_WITHOUT_CUE[self._length]

    def find(self, text: str) -> list[int]:
        """Find the indices of the questions that a text has in other words."""
        han, latin, *_ = count_char_kinds(text)
        if not self._has_questions or (latin < _MIN_LATIN if self._of_words else han < _MIN_HAN):
            return []
        content = extract_content(text, self._of_words)
        return sorted({*self._find_by_ngrams(content), *self._clauses.find(content)})

    def _find_by_ngrams(self, content: Content) -> list[int]:
        hashes = hash_ngrams(content.codes, self._length)
        positions = np.flatnonzero(self._filter.take((hashes % _FILTER_SIZE).astype(np.int64)))
        if len(positions) < _MIN_NGRAMS_OF_STEM:
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

    def _contains(self, index: int, matches: list[tuple[int, int]], content: Content) -> bool:
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

    def _asks(self, indexed: _IndexedQuestion, content: Content, first: int, end: int) -> bool:
        """Whether the text around a part of the content asks something, and has the numbers of the question."""
        start, last = int(content.starts[first]), int(content.starts[min(end, len(content.starts)) - 1])
        window = content.text[max(0, start - _CONTEXT) : last + _CONTEXT]
        must_ask = indexed.has_cue or indexed.ngrams < _MIN_NGRAMS_WITHOUT_CUE[self._length]
        if must_ask and not find_cue(window, self._of_words):
            return False
        return len(indexed.numbers & find_numbers(window)) >= _MIN_NUMBERS_FOUND * len(indexed.numbers)


def _is_complete(indexed: _IndexedQuestion, content: Content, first: int, end: int) -> bool:
    """Whether nearly all letters or words of a question are around a part of the content, in any order."""
    around = max(0, len(indexed.codes) - (end - first))
    counts = Counter(indexed.codes.tolist())
    counts.subtract(content.codes[max(0, first - around) : end + around].tolist())
    missing = sum(count for count in counts.values() if count > 0)
    return missing <= (1 - (_COMPLETE if indexed.has_cue else _COMPLETE_WITHOUT_CUE)) * len(indexed.codes)
