"""The search for copies over all texts of a stage: which one each text copies, of each group the first.

Owns candidates and decisions. Does not own what texts are compared by (`dedup`), nor where that lies (`joining`).

Texts are known by their places in the order of the sources. Those that agree in a band of their signatures are
candidates; candidates that hang together are a component, and no decision reaches beyond it, so that components can be
decided one by one, in any order and on any machine. Where signatures cannot tell (within three standard errors of the
threshold, 0.11 at 128 num_perm) the shingles themselves are compared, so that a pair at the threshold is not found
or missed by chance.

Memory: some numbers for each text, sorted band by band, and some more for those texts alone that have candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hanlin.config.settings.data import Dedup
from hanlin.data.dedup.keys import Numbers
from hanlin.data.dedup.minhash import Signatures, band_keys, jaccard, shingles

_SORTED_AT_ONCE = 1 << 25
"""Texts whose numbers of one band are sorted together; of more, those with the same last bits (1.5 GB at the most)."""
_DECIDED_AT_ONCE = 2_000

Places = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]


def exact_copies(keys: Numbers) -> Places:
    """For each of the keys (texts, 2) the place of the first equal one, or -1 where it is itself the first."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # keeps the order of equal ones
    new = np.ones(len(keys), dtype=np.bool_)
    new[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    firsts = np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))
    copies = np.empty(len(keys), dtype=np.int64)
    copies[order] = np.where(new, -1, order[firsts])
    return copies


@dataclass(frozen=True, slots=True)
class Groups:
    """Texts that agree in a band: the places of each group in order, group after group, and how many each has."""

    members: Places
    sizes: Places

    @property
    def starts(self) -> Places:
        return np.cumsum(self.sizes) - self.sizes

    def pick(self, groups: Places) -> Groups:
        sizes = self.sizes[groups]
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return Groups(self.members[np.repeat(self.starts[groups], sizes) + inside], sizes)


def candidate_groups(bands: Iterable[Numbers], taking: Chosen) -> Groups:
    """The groups of all bands (each a number for every text) among the texts that take part. A group that has the same
    members as one of an earlier band says nothing new and is left out."""
    found: list[Groups] = []
    seen = np.empty(0, dtype=np.uint64)
    for column in bands:
        for hashes, places in _slices(column, taking):
            groups = _equal(hashes, places)
            if not len(groups.sizes):
                continue
            marks = np.add.reduceat(_mixed(groups.members), groups.starts)
            fresh = np.sort(np.unique(marks, return_index=True)[1])
            fresh = fresh[~np.isin(marks[fresh], seen)]
            seen = np.concatenate([seen, marks[fresh]])
            found.append(groups.pick(fresh))
    empty = [np.empty(0, dtype=np.int64)]
    return Groups(
        np.concatenate([*(groups.members for groups in found), *empty]),
        np.concatenate([*(groups.sizes for groups in found), *empty]),
    )


def _slices(column: Numbers, taking: Chosen) -> Iterator[tuple[Numbers, Places]]:
    count = 1 << max(0, math.ceil(math.log2(max(1, len(column) / _SORTED_AT_ONCE))))
    for number in range(count):
        mine = taking if count == 1 else taking & ((column & np.uint64(count - 1)) == number)
        places = np.flatnonzero(mine)
        yield column[places], places


def _equal(hashes: Numbers, places: Places) -> Groups:
    """The places of equal hashes, where there are two or more."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.append(False, same) | np.append(same, False)
    begins = np.flatnonzero(shared & ~np.append(False, same))
    number = np.cumsum(shared & ~np.append(False, same))[shared] - 1
    return Groups(places[order[shared]], np.bincount(number, minlength=len(begins)))


def _mixed(places: Places) -> Numbers:
    """A number for each place whose sums tell sets of places apart (the finaliser of splitmix64)."""
    mixed = places.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def components(groups: Groups) -> Iterator[Groups]:
    """Groups that hang together, some thousand texts' worth at a time."""
    if not len(groups.sizes):
        return
    texts, index = np.unique(groups.members, return_inverse=True)
    label = _labels(len(texts), index, np.repeat(index[groups.starts], groups.sizes))
    of_group = label[index[groups.starts]]
    order = np.argsort(of_group, kind="stable")
    sizes = np.bincount(label, minlength=len(texts))  # texts of each component, at its label
    bunch = (np.cumsum(sizes) // _DECIDED_AT_ONCE)[of_group[order]]
    cuts = np.flatnonzero(np.diff(bunch)) + 1
    for part in np.split(order, cuts):
        yield groups.pick(part)


def _labels(count: int, one: Places, other: Places) -> Places:
    """For each of `count` nodes the least node that pairs of neighbors connect it with."""
    label = np.arange(count)
    while True:
        low = np.minimum(label[one], label[other])
        after = label.copy()
        for ends in (one, other):
            np.minimum.at(after, label[ends], low)
            np.minimum.at(after, ends, low)
        while not np.array_equal(after[after], after):
            after = after[after]
        if np.array_equal(after, label):
            return label
        label = after


def decided(
    groups: Groups, marks: Signatures, dedup: Dedup, fixed: int, text_of: Callable[[int], str] | None
) -> tuple[Places, Places]:
    """The texts of whole components that copy another one, and those that they copy. `marks` are the signatures of
    all texts of the groups, in the order of their places.

    With `clustering: greedy` it goes in order and compares with kept texts only: a text is not dropped for being like one
    that was dropped. With `clustering: connected_components` all that hangs together by similar pairs is one group (a connected
    component), and the first of it is kept. The first `fixed` places of all are kept whatever they are like. `text_of`
    gives a text to compare shingles where the signatures are too close to the threshold to tell; without it they decide
    alone.
    """
    texts, index = np.unique(groups.members, return_inverse=True)
    groups_of: list[list[int]] = [[] for _ in texts]
    for group, member in zip(
        np.repeat(np.arange(len(groups.sizes)), groups.sizes).tolist(), index.tolist(), strict=True
    ):
        groups_of[member].append(group)
    places = texts.tolist()
    similar = _Similar(marks, dedup, None if text_of is None else lambda member: text_of(places[member]))
    met: dict[int, list[int]] = {}
    first = np.arange(len(texts), dtype=np.int64)
    chain = dedup.clustering == "connected_components"
    for member, mine in enumerate(groups_of):
        others = sorted({other for group in mine for other in met.get(group, ())})
        if places[member] < fixed and not chain:
            others = []
        found, same = similar.to(member, others, chain)
        for other in found:
            _join(first, member, other)
        if not found or (chain and not same):  # what equals another in all bands links to nothing that it does not
            for group in mine:
                met.setdefault(group, []).append(member)
    roots = np.array([_first(first, member) for member in range(len(texts))], dtype=np.int64)
    copies = np.flatnonzero(roots != np.arange(len(texts)))
    return texts[copies], texts[roots[copies]]


def near_copies(
    marks: Signatures, dedup: Dedup, skip: Chosen, text_of: Callable[[int], str] | None = None, fixed: int = 0
) -> Places:
    """For each signature the place of the text that it copies, or -1; `skip` says which take no part."""
    copies = np.full(len(marks), -1, dtype=np.int64)
    for groups in components(candidate_groups(band_keys(marks, dedup).T, ~skip)):
        mine, firsts = decided(groups, marks[np.unique(groups.members)], dedup, fixed, text_of)
        copies[mine] = firsts
    return copies


def _first(first: Places, place: int) -> int:
    while first[place] != place:
        first[place] = first[first[place]]
        place = int(first[place])
    return place


def _join(first: Places, one: int, other: int) -> None:
    one, other = _first(first, one), _first(first, other)
    first[max(one, other)] = min(one, other)


class _Similar:
    """Says which texts are at least as similar as the threshold."""

    def __init__(self, marks: Signatures, dedup: Dedup, text_of: Callable[[int], str] | None) -> None:
        self._marks, self._threshold = marks, dedup.threshold
        error = math.sqrt(dedup.threshold * (1 - dedup.threshold) / dedup.num_perm)
        self._unsure = 3 * error if text_of is not None else 0.0

        @lru_cache(maxsize=4096)
        def shingles_of(place: int) -> Numbers:
            assert text_of is not None
            return np.unique(shingles(text_of(place), dedup))

        self._shingles_of = shingles_of

    def to(self, place: int, others: Sequence[int], every: bool) -> tuple[list[int], bool]:
        """Those of `others` that are similar to the text at `place` (unless `every`: only the most similar), and
        whether one has an equal signature."""
        if not others:
            return [], False
        alike = (self._marks[others] == self._marks[place]).mean(axis=1)
        found = []
        for rank in np.argsort(-alike, kind="stable"):
            if alike[rank] < self._threshold - self._unsure:
                break
            other = others[int(rank)]
            sure = alike[rank] >= self._threshold + self._unsure
            if sure or jaccard(self._shingles_of(place), self._shingles_of(other)) >= self._threshold:
                found.append(other)
                if not every:
                    break
        return found, bool(alike.max() == 1.0)
