"""Evaluation questions inside training records: found by runs of characters or words that both have.

Owns the reading of question sets, the index and `contamination.json`. Does not own what becomes of a record
(`sifting`) or of a question that was found (`evaluate`).

Source: Brown et al. 2020 (GPT-3, arXiv 2005.14165, appendix C) compare runs of 13 words and leave out those that are
common; here Chinese questions are compared by runs of 13 characters (letters and digits, in one width, case and
script), which are shorter than 13 words, so that one common run alone does not make a record contaminated unless
`share` is 0.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.config.settings.data import Decontaminate
from hanlin.core.context import Inputs
from hanlin.data.dedup.minhash import letters
from hanlin.data.dedup.question_sets import Asked, read_set
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.ngrams import hash_ngrams

FILE = "contamination.json"
_SHORTEST = 8
_FEWEST_DIFFERENT = 6
_WORD = re.compile(r"[^\W_]+")
_FILTER = 1 << 22


@dataclass(frozen=True, slots=True)
class _Index:
    """Runs of one length: their hashes, sorted, and for each which questions have it."""

    words: bool
    length: int
    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]

    def owners_in(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """The questions that own any of these runs, once for each run."""
        hashes = np.unique(hashes[self.seen.take((hashes % _FILTER).astype(np.int64))])
        if not len(hashes):
            return np.empty(0, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        places = places[self.hashes[places] == hashes]
        return np.concatenate(
            [self.owners[self.starts[place] : self.starts[place + 1]] for place in places]
            or [np.empty(0, dtype=np.int64)]
        )


class Questions:
    """The questions of all sets, ready to be looked for."""

    def __init__(self, asked: Sequence[Asked], settings: Decontaminate) -> None:
        self.asked, self.settings = asked, settings
        self.total = np.zeros(len(asked), dtype=np.int64)
        runs: dict[tuple[bool, int], list[tuple[npt.NDArray[np.uint64], int]]] = {}
        for place, question in enumerate(asked):
            found = self._runs(question)
            if found is not None:
                words, length, hashes = found
                runs.setdefault((words, length), []).append((np.unique(hashes), place))
        self._indices = [self._index(words, length, found) for (words, length), found in sorted(runs.items())]

    @classmethod
    def read(cls, settings: Decontaminate, inputs: Inputs, field: str = "decontaminate.against") -> Questions:
        """Read every set. Raises UserError for a file that holds no questions."""
        paths = inputs.paths(field)
        names = _names(paths)
        return cls([asked for path, name in zip(paths, names, strict=True) for asked in read_set(path, name)], settings)

    def found(self, text: str) -> list[Asked]:
        """The questions that a text holds, in the order of the sets."""
        counts: Counter[int] = Counter()
        by_word: npt.NDArray[np.uint32] | None = None
        by_letter: npt.NDArray[np.uint32] | None = None
        for index in self._indices:
            if index.words:
                by_word = _words(text) if by_word is None else by_word
                hashes = hash_ngrams(by_word, index.length)
            else:
                by_letter = letters(text) if by_letter is None else by_letter
                hashes = hash_ngrams(by_letter, index.length)
            counts.update(index.owners_in(hashes).tolist())
        share = self.settings.share
        places = sorted(
            place for place, count in counts.items() if count >= max(1, math.ceil(share * int(self.total[place])))
        )
        return [self.asked[place] for place in places]

    def account(self, hits: Mapping[str, int]) -> dict[str, Any]:
        """What `contamination.json` says: for each set the ids that were found (with how many records hold them), those
        that were not, and those that are too short, or too common, to look for."""
        sets: dict[str, dict[str, Any]] = {}
        for place, question in enumerate(self.asked):
            row = sets.setdefault(question.set, {"contaminated": {}, "clean": [], "unsearched": []})
            if hits.get(question.key):
                row["contaminated"][question.id] = hits[question.key]
            elif self.total[place]:
                row["clean"].append(question.id)
            else:
                row["unsearched"].append(question.id)
        settings = self.settings.model_dump(mode="json", exclude={"against"})
        return {"settings": settings, "sets": [{"name": name, **row} for name, row in sets.items()]}

    def _runs(self, question: Asked) -> tuple[bool, int, npt.NDArray[np.uint64]] | None:
        """By words or not, how long, and the runs of a question. One that is shorter than a run is taken with its
        choices (下列说法正确的是 is on every exam); without any it is one run, or none where it is shorter still. So is
        one of a few different characters: 8+88+888+8888 is in every long decimal."""
        for text in (question.text, f"{question.text}\n{question.more}"):
            han, latin, *_ = count_char_kinds(text)
            by_words = 4 * han < latin
            codes = _words(text) if by_words else letters(text)
            longest = self.settings.words if by_words else self.settings.characters
            if len(codes) >= longest or not question.more:
                break
        length = min(len(codes), longest)
        if length < min(_SHORTEST, longest) or len(np.unique(codes)) < min(_FEWEST_DIFFERENT, longest):
            return None
        return by_words, length, hash_ngrams(codes, length)

    def _index(self, words: bool, length: int, found: Sequence[tuple[npt.NDArray[np.uint64], int]]) -> _Index:
        hashes = np.concatenate([hashes for hashes, _ in found])
        owners = np.concatenate([np.full(len(hashes), place, dtype=np.int64) for hashes, place in found])
        order = np.argsort(hashes, kind="stable")
        unique, counts = np.unique(hashes[order], return_counts=True)
        common = np.repeat(counts > self.settings.common, counts)
        ordered, kept = owners[order][~common], counts <= self.settings.common
        np.add.at(self.total, ordered, 1)
        unique, counts = unique[kept], counts[kept]
        seen = np.zeros(_FILTER, dtype=np.bool_)
        seen[(unique % _FILTER).astype(np.int64)] = True
        return _Index(words, length, unique, np.append(0, np.cumsum(counts)), ordered, seen)


def _words(text: str) -> npt.NDArray[np.uint32]:
    """The words of a text as numbers, letter case aside."""
    found = _WORD.findall(text.casefold())
    return np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in found], dtype=np.uint32)


def _names(paths: Sequence[Path]) -> list[str]:
    """A short name for each set, with a number where two would have the same."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        seen[path.name] += 1
        names.append(path.name if seen[path.name] == 1 else f"{path.name}({seen[path.name]})")
    return names
