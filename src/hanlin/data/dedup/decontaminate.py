"""Decontamination: find evaluation questions inside training records by the n-grams that both have.

What becomes of a contaminated record is decided in `hanlin.data.ingest`, of a contaminated question in
`hanlin.evaluate`.

Source: Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C) compare 13-grams of words and leave out common ones.
Here Chinese questions are compared by 13-grams of characters (letters and digits, in one width, case and script, and
numbers in digits). These are shorter than 13 words, so that one common n-gram alone does not make a record contaminated
unless `share` is 0. Questions in other words are looked for in `hanlin.data.dedup.reworded`.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.config.settings.data import Decontaminate
from hanlin.core.context import Inputs
from hanlin.data.dedup.content import is_of_words
from hanlin.data.dedup.keys import Hashes, replace_code_points
from hanlin.data.dedup.minhash import extract_letters
from hanlin.data.dedup.numbers import DIGITS, unify_chinese_numbers, unify_english_numbers
from hanlin.data.dedup.question_sets import EvalQuestion, read_questions
from hanlin.data.dedup.reworded import RewordedIndex
from hanlin.data.text.char_stats import FIRST_SUPPLEMENTARY
from hanlin.data.text.ngrams import hash_ngrams
from hanlin.data.text.patterns import compile_on_use

CONTAMINATION_FILE = "contamination.json"
_MIN_NGRAM = 8
_MIN_DISTINCT_CODES = 6
_WORD = compile_on_use(r"[^\W_]+")
_FILTER_SIZE = 1 << 22


@dataclass(frozen=True, slots=True)
class _NgramTable:
    """The n-grams of one length of all questions.

        hashes [h0 h1 h2], starts [0 2 3 4], owners [5 9 5 7]: h0 is in questions 5 and 9, h1 in 5, h2 in 7

    Attributes:
        of_words: N-grams of words instead of characters.
        length: Words or characters of an n-gram.
        hashes: Sorted hashes.
        starts: Where the owners of each hash begin in `owners`, and one more at the end.
        owners: Indices of questions.
        filter: Whether any hash has this remainder modulo the size of the filter: rejects most hashes quickly.
    """

    of_words: bool
    length: int
    hashes: Hashes
    starts: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    filter: npt.NDArray[np.bool_]

    def find_owners(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """Return the questions that have any of these n-grams, once for each n-gram."""
        hashes = np.unique(hashes[self.filter.take((hashes % _FILTER_SIZE).astype(np.int64))])
        if not len(hashes):
            return np.empty(0, dtype=np.int64)
        rows = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        rows = rows[self.hashes[rows] == hashes]
        return np.concatenate(
            [self.owners[self.starts[row] : self.starts[row + 1]] for row in rows] or [np.empty(0, dtype=np.int64)]
        )


class QuestionIndex:
    """An index of the n-grams of all evaluation questions.

    Attributes:
        questions: The questions.
        settings: How to compare.
        unasked: Rows without a question that their files have besides them, by file.
    """

    def __init__(
        self, questions: Sequence[EvalQuestion], settings: Decontaminate, unasked: Mapping[Path, int] | None = None
    ) -> None:
        self.questions, self.settings, self.unasked = questions, settings, dict(unasked or {})
        self._num_ngrams = np.zeros(len(questions), dtype=np.int64)
        ngrams: dict[tuple[bool, int], list[tuple[Hashes, int]]] = {}
        for index, question in enumerate(questions):
            extracted = self._extract_ngrams(question)
            if extracted is not None:
                of_words, length, hashes = extracted
                ngrams.setdefault((of_words, length), []).append((np.unique(hashes), index))
        self._tables = [
            self._build_table(of_words, length, rows) for (of_words, length), rows in sorted(ngrams.items())
        ]
        asked = list(enumerate(questions)) if settings.reworded else []
        self._reworded = [
            RewordedIndex(
                [(index, question) for index, question in asked if is_of_words(question.text) == of_words],
                of_words,
                settings.reworded,
                settings.common,
            )
            for of_words in (False, True)
        ]

    @classmethod
    def read(cls, settings: Decontaminate, inputs: Inputs, field: str = "decontaminate.against") -> QuestionIndex:
        """Read every question set.

        Args:
            settings: How to compare.
            inputs: Paths of the sets.
            field: Under which name `inputs` has them.

        Raises:
            UserError: A file cannot be read or has no questions.
        """
        paths = inputs.paths(field)
        names = _make_unique_names(paths)
        unasked: Counter[Path] = Counter()
        questions = [
            question
            for path, name in zip(paths, names, strict=True)
            for question in read_questions(path, name, unasked)
        ]
        return cls(questions, settings, unasked)

    def find(self, text: str) -> list[EvalQuestion]:
        """Find the questions that a text contains, in the order of the sets."""
        counts: Counter[int] = Counter()
        words: npt.NDArray[np.uint32] | None = None
        letters: npt.NDArray[np.uint32] | None = None
        for table in self._tables:
            if table.of_words:
                words = _hash_words(text) if words is None else words
                hashes = hash_ngrams(words, table.length)
            else:
                letters = _extract_letters(text) if letters is None else letters
                hashes = hash_ngrams(letters, table.length)
            counts.update(table.find_owners(hashes).tolist())
        share = self.settings.share
        indices = {
            index for index, count in counts.items() if count >= max(1, math.ceil(share * int(self._num_ngrams[index])))
        }
        for reworded in self._reworded:
            indices.update(reworded.find(text))
        return [self.questions[index] for index in sorted(indices)]

    def report(self, hits: Mapping[str, int]) -> dict[str, Any]:
        """Build the content of `contamination.json`.

        Args:
            hits: For the `key` of a question the number of records that contain it.

        Returns:
            The settings, and for each set the ids that are contaminated (with the number of records), clean, and
            unsearched: too short, or only of common n-grams.
        """
        sets: dict[str, dict[str, Any]] = {}
        for index, question in enumerate(self.questions):
            row = sets.setdefault(question.set, {"contaminated": {}, "clean": [], "unsearched": []})
            if hits.get(question.key):
                row["contaminated"][question.id] = hits[question.key]
            elif self._num_ngrams[index]:
                row["clean"].append(question.id)
            else:
                row["unsearched"].append(question.id)
        settings = self.settings.model_dump(mode="json", exclude={"against"})
        return {"settings": settings, "sets": [{"name": name, **row} for name, row in sets.items()]}

    def _extract_ngrams(self, question: EvalQuestion) -> tuple[bool, int, Hashes] | None:
        """Return whether the n-grams of a question are of words, their length, and their hashes.

        A question shorter than an n-gram is taken with its choices (下列说法正确的是 is in every exam). If it has none,
        it is one n-gram, or None if it is too short even for that, or has few different characters: 8+88+888+8888 is in
        every long decimal. Of several turns, which have answers between them in a chat, no n-gram is in two.
        """
        if question.turns:
            return self._extract_ngrams_of_turns(question.turns)
        for text in (question.text, f"{question.text}\n{question.choices}"):
            of_words = is_of_words(text)
            codes = _hash_words(text) if of_words else _extract_letters(text)
            max_length = self.settings.words if of_words else self.settings.characters
            if len(codes) >= max_length or not question.choices:
                break
        length = min(len(codes), max_length)
        if length < min(_MIN_NGRAM, max_length) or len(np.unique(codes)) < min(_MIN_DISTINCT_CODES, max_length):
            return None
        return of_words, length, hash_ngrams(codes, length)

    def _extract_ngrams_of_turns(self, turns: Sequence[str]) -> tuple[bool, int, Hashes] | None:
        """Return the same of the turns that are as long as an n-gram; without any, of the longest as one n-gram."""
        of_words = is_of_words("\n".join(turns))
        max_length = self.settings.words if of_words else self.settings.characters
        codes = [_hash_words(text) if of_words else _extract_letters(text) for text in turns]
        length = min(max(map(len, codes)), max_length)
        searched = [turn for turn in codes if len(turn) >= length]
        if length < min(_MIN_NGRAM, max_length):
            return None
        if len(np.unique(np.concatenate(searched))) < min(_MIN_DISTINCT_CODES, max_length):
            return None
        return of_words, length, np.concatenate([hash_ngrams(turn, length) for turn in searched])

    def _build_table(self, of_words: bool, length: int, rows: Sequence[tuple[Hashes, int]]) -> _NgramTable:
        hashes = np.concatenate([hashes for hashes, _ in rows])
        owners = np.concatenate([np.full(len(hashes), index, dtype=np.int64) for hashes, index in rows])
        order = np.argsort(hashes, kind="stable")
        unique, counts = np.unique(hashes[order], return_counts=True)
        is_common = np.repeat(counts > self.settings.common, counts)
        owners, is_rare = owners[order][~is_common], counts <= self.settings.common
        np.add.at(self._num_ngrams, owners, 1)
        unique, counts = unique[is_rare], counts[is_rare]
        in_filter = np.zeros(_FILTER_SIZE, dtype=np.bool_)
        in_filter[(unique % _FILTER_SIZE).astype(np.int64)] = True
        return _NgramTable(of_words, length, unique, np.append(0, np.cumsum(counts)), owners, in_filter)


def _extract_letters(text: str) -> npt.NDArray[np.uint32]:
    """Extract the letters and digits of a text in one width, case and script, numbers in digits."""
    return replace_code_points(extract_letters(unify_chinese_numbers(text)), _build_digit_table())


@cache
def _build_digit_table() -> npt.NDArray[np.uint32]:
    digits = np.arange(FIRST_SUPPLEMENTARY, dtype=np.uint32)
    for char, digit in DIGITS.items():
        digits[ord(char)] = ord(digit)
    return digits


def _hash_words(text: str) -> npt.NDArray[np.uint32]:
    """Hash the words of a text, numbers in digits; letter case does not count."""
    words = _WORD.findall(unify_english_numbers(text.casefold()))
    return np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words], dtype=np.uint32)


def _make_unique_names(paths: Sequence[Path]) -> list[str]:
    """Return a short name for each set, with a number if two have the same."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        seen[path.name] += 1
        names.append(path.name if seen[path.name] == 1 else f"{path.name}({seen[path.name]})")
    return names
