"""Reworded questions that stand alone in a text: clauses whose content is that of the question and no more.

It finds what is too short for n-grams. The order of letters, words and clauses does not count; clauses that are nothing
but function words (`请问，`) have no content.

    question  青蛙的生殖特征是_____        ->  青蛙生殖特征
    text      练习。试问，青蛙之生殖特征为？  ->  练习 | 青蛙生殖特征
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from hanlin.data.dedup.content import Content, find_cue, find_numbers, may_be_stem
from hanlin.data.dedup.keys import Hashes

_ENDS = "，。；？！：、,;?!\n（）()_＿．"
_DOTS = ".:"
"""Ends of a clause that are in numbers and names too, so that what follows decides."""
_MAX_CLAUSES = 6
_LEAST = {False: 5, True: 3}
_LEAST_WITHOUT_CUE = {False: 14, True: 6}
_LEAST_NOT_NUMBERS = 2
_AROUND = 10
_FILTER_SIZE = 1 << 20


class ClauseIndex:
    """An index of questions by all of their content.

    Args:
        contents: Index and content of the questions.
        of_words: Whether they are in a language with words between blanks.
    """

    def __init__(self, contents: Iterable[tuple[int, Content]], of_words: bool) -> None:
        self._of_words = of_words
        self._asked: dict[int, list[tuple[int, frozenset[str], bool]]] = {}
        for index, content in contents:
            has_cue = find_cue(content.text, of_words)
            least = (_LEAST if has_cue or may_be_stem(content, of_words) else _LEAST_WITHOUT_CUE)[of_words]
            if len(content.codes) >= least and _count_not_numbers(content) >= _LEAST_NOT_NUMBERS:
                key = int(_hash_codes(content.codes).sum(dtype=np.uint64))
                must_ask = has_cue or len(content.codes) < _LEAST_WITHOUT_CUE[of_words]
                self._asked.setdefault(key, []).append((index, find_numbers(content.text), must_ask))
        self._filter = np.zeros(_FILTER_SIZE, dtype=np.bool_)
        for key in self._asked:
            self._filter[key % _FILTER_SIZE] = True

    def find(self, content: Content) -> set[int]:
        """Find the indices of the questions whose content is that of up to six neighboring clauses of a text."""
        if not self._asked or not len(content.codes):
            return set()
        ends = _find_clause_ends(content.text, self._of_words)
        edges = np.unique(np.searchsorted(content.starts, np.concatenate(([0], ends, [len(content.text)]))))
        sums = np.append(np.uint64(0), np.cumsum(_hash_codes(content.codes), dtype=np.uint64))[edges]
        found: set[int] = set()
        for clauses in range(1, min(_MAX_CLAUSES, len(edges) - 1) + 1):
            keys = sums[clauses:] - sums[:-clauses]
            for row in np.flatnonzero(self._filter.take((keys % _FILTER_SIZE).astype(np.int64))).tolist():
                asked = self._asked.get(int(keys[row]))
                if asked:
                    window = _cut_window(content, ends, int(edges[row]), int(edges[row + clauses]))
                    found.update(index for index, numbers, must_ask in asked if self._asks(window, numbers, must_ask))
        return found

    def _asks(self, window: str, numbers: frozenset[str], must_ask: bool) -> bool:
        return numbers <= find_numbers(window) and (not must_ask or find_cue(window, self._of_words))


@cache
def _build_end_table() -> npt.NDArray[np.uint8]:
    """By code point below 65,536: 1 for an end of a clause, 2 for a dot, 4 for a digit, 8 for white space."""
    table = np.zeros(1 << 16, dtype=np.uint8)
    for bit, chars in ((1, _ENDS), (2, _DOTS), (4, "0123456789"), (8, " \t\n\r")):
        table[[ord(char) for char in chars]] |= bit
    return table


def _find_clause_ends(text: str, of_words: bool) -> npt.NDArray[np.int64]:
    """Where clauses of a text end: at a mark, or at a dot that is not in a number, in English only before a blank."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _build_end_table().take(np.minimum(codes, (1 << 16) - 1))
    following = np.append(kinds[1:], 8)
    is_end_of_dot = (following & 8) != 0 if of_words else (following & 4) == 0
    return np.flatnonzero(((kinds & 1) != 0) | (((kinds & 2) != 0) & is_end_of_dot))


def _count_not_numbers(content: Content) -> int:
    """How many letters or words are no numbers: 1-2+3-4 is in many tables."""
    return sum(not content.text[start].isnumeric() for start in content.starts.tolist())


def _cut_window(content: Content, ends: npt.NDArray[np.int64], first: int, end: int) -> str:
    """The text of whole clauses, with what is just before and after them: `when was the` has no content, but asks."""
    start, last = int(content.starts[first]), int(content.starts[end - 1])
    before, after = np.searchsorted(ends, (start, last)).tolist()
    start = min(start - _AROUND, int(ends[before - 1]) if before else 0)
    last = max(last + _AROUND, int(ends[after]) if after < len(ends) else len(content.text))
    return content.text[max(0, start) : last]


def _hash_codes(codes: npt.NDArray[np.uint32]) -> Hashes:
    """Hash letters or words so that the sum of the hashes tells which there are, in any order (splitmix64)."""
    hashes = (codes.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
