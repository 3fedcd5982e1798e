"""Deduplication over all texts of a stage: for each text, the earlier text that it duplicates.

Texts are numbered in the order of the sources. Texts with an equal band of their MinHash signatures are candidates
(locality-sensitive hashing: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4). The connected
components of the candidates are independent, so they are resolved one by one, in any order and on any machine. If
the signatures of two texts are within three standard errors of the threshold (0.11 with 128 permutations), their
n-grams are compared instead, so that chance does not decide about a pair at the threshold.

Memory: O(texts) for one band at a time, which is sorted, and the groups of candidates of all bands.
Dedup keys and signatures are computed in `keys` and `minhash`, and stored by `hanlin.data.ingest`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hanlin.config.settings.data import Dedup
from hanlin.data.dedup.keys import Hashes
from hanlin.data.dedup.minhash import Signatures, compute_band_keys, hash_text_ngrams, jaccard_similarity

_SORT_LIMIT = 1 << 25
"""Most band keys that are sorted at once, in at most 1.5 GB of memory; more are partitioned by their low bits first."""
_BATCH_TEXTS = 2_000
"""Texts of the components that are resolved together, about."""

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def find_exact_duplicates(keys: Hashes) -> Indices:
    """For each text, find the first text with an equal key.

        keys of texts 0..3: a b a b  ->  [-1, -1, 0, 1]

    Args:
        keys: Dedup keys of 128 bits, [texts, 2].

    Returns:
        The index of the first equal text, or -1 if it is the text itself; [texts].
    """
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal keys stay in the order of the texts
    starts_group = np.ones(len(keys), dtype=np.bool_)
    starts_group[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    group_start = np.maximum.accumulate(np.where(starts_group, np.arange(len(keys)), 0))
    duplicate_of = np.empty(len(keys), dtype=np.int64)
    duplicate_of[order] = np.where(starts_group, -1, order[group_start])
    return duplicate_of


@dataclass(frozen=True, slots=True)
class CandidateGroups:
    """Groups of texts with an equal band key.

        members [4 9 2 4 7], sizes [2 3]  ->  the groups {4, 9} and {2, 4, 7}

    Attributes:
        members: Indices of the texts, group after group, ascending within a group, [sum of sizes].
        sizes: Number of texts of each group, [groups].
    """

    members: Indices
    sizes: Indices

    @property
    def starts(self) -> Indices:
        """Where each group begins in `members`, [groups]."""
        return np.cumsum(self.sizes) - self.sizes

    def select(self, groups: Indices) -> CandidateGroups:
        """Return the groups of these indices, in this order."""
        sizes = self.sizes[groups]
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return CandidateGroups(self.members[np.repeat(self.starts[groups], sizes) + offsets], sizes)


def find_candidates(bands: Iterable[Hashes], active: Mask) -> CandidateGroups:
    """Group texts that have the same key in a band.

    Args:
        bands: For each band the keys of all texts, [texts].
        active: Which texts are compared, [texts].

    Returns:
        The groups of two or more texts of all bands, each set of members once.
    """
    groups_of_bands: list[CandidateGroups] = []
    seen = np.empty(0, dtype=np.uint64)
    for band in bands:
        for keys, indices in _partition_by_low_bits(band, active):
            groups = _group_equal_keys(keys, indices)
            if not len(groups.sizes):
                continue
            set_hashes = np.add.reduceat(_mix_bits(groups.members), groups.starts)
            new = np.sort(np.unique(set_hashes, return_index=True)[1])
            new = new[~np.isin(set_hashes[new], seen)]
            seen = np.concatenate([seen, set_hashes[new]])
            groups_of_bands.append(groups.select(new))
    empty = [np.empty(0, dtype=np.int64)]
    return CandidateGroups(
        np.concatenate([*(groups.members for groups in groups_of_bands), *empty]),
        np.concatenate([*(groups.sizes for groups in groups_of_bands), *empty]),
    )


def _partition_by_low_bits(band: Hashes, active: Mask) -> Iterator[tuple[Hashes, Indices]]:
    """Yield keys and indices of the active texts, in partitions by the last bits of the key if there are many."""
    count = 1 << max(0, math.ceil(math.log2(max(1, len(band) / _SORT_LIMIT))))
    for low_bits in range(count):
        selected = active if count == 1 else active & ((band & np.uint64(count - 1)) == low_bits)
        indices = np.flatnonzero(selected)
        yield band[indices], indices


def _group_equal_keys(keys: Hashes, indices: Indices) -> CandidateGroups:
    """Group the indices of equal keys, both [n]; a key that occurs once gives no group."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.append(False, same) | np.append(same, False)
    starts_group = shared & ~np.append(False, same)
    group = np.cumsum(starts_group)[shared] - 1
    return CandidateGroups(indices[order[shared]], np.bincount(group, minlength=np.count_nonzero(starts_group)))


def _mix_bits(indices: Indices) -> Hashes:
    """Hash each index with the finalizer of splitmix64, so that sums of hashes tell sets of indices apart."""
    mixed = indices.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def split_into_components(groups: CandidateGroups) -> Iterator[CandidateGroups]:
    """Yield the groups in batches of whole connected components, of about 2,000 texts each."""
    if not len(groups.sizes):
        return
    texts, nodes = np.unique(groups.members, return_inverse=True)
    first_nodes = nodes[groups.starts]
    labels = label_components(len(texts), nodes, np.repeat(first_nodes, groups.sizes))
    group_labels = labels[first_nodes]
    order = np.argsort(group_labels, kind="stable")
    component_sizes = np.bincount(labels, minlength=len(texts))
    batch = (np.cumsum(component_sizes) // _BATCH_TEXTS)[group_labels[order]]
    cuts = np.flatnonzero(np.diff(batch)) + 1
    for selected in np.split(order, cuts):
        yield groups.select(selected)


def label_components(num_nodes: int, sources: Indices, targets: Indices) -> Indices:
    """Label the connected components of an undirected graph, by label propagation with pointer jumping.

    Args:
        num_nodes: Number of nodes.
        sources: One end of each edge, [edges].
        targets: The other end of each edge, [edges].

    Returns:
        For each node the lowest node of its component, [nodes].
    """
    labels = np.arange(num_nodes)
    while True:
        lowest = np.minimum(labels[sources], labels[targets])
        updated = labels.copy()
        for ends in (sources, targets):
            np.minimum.at(updated, labels[ends], lowest)
            np.minimum.at(updated, ends, lowest)
        while not np.array_equal(updated[updated], updated):
            updated = updated[updated]
        if np.array_equal(updated, labels):
            return labels
        labels = updated


def resolve_duplicates(
    groups: CandidateGroups,
    signatures: Signatures,
    dedup: Dedup,
    num_reference: int,
    text_of: Callable[[int], str] | None,
) -> tuple[Indices, Indices]:
    """Find the near duplicates in whole components, and the text that each one duplicates.

    With `clustering: greedy` texts are compared in order, with kept texts only: similarity to a dropped text drops no
    other. With `clustering: connected_components` all texts that are connected by similar pairs form one cluster, of
    which the first text is kept. If B is similar to A, and C to B but not to A:

        greedy                  keeps A and C
        connected_components    keeps A

    Args:
        groups: Candidates, in whole components.
        signatures: Signatures of all texts of the groups, ascending by index, [texts, num_perm].
        dedup: Threshold, n-gram size and clustering.
        num_reference: Number of reference texts, those of other stages, which have the first indices. With `greedy`
            none of them is a duplicate.
        text_of: Returns the text of an index, to compare n-grams if the signatures are too close to the threshold; None
            to compare signatures alone.

    Returns:
        Indices of the duplicates, and of the texts that they duplicate, both [duplicates].
    """
    texts, nodes = np.unique(groups.members, return_inverse=True)
    groups_of_text: list[list[int]] = [[] for _ in texts]
    for group, node in zip(np.repeat(np.arange(len(groups.sizes)), groups.sizes).tolist(), nodes.tolist(), strict=True):
        groups_of_text[node].append(group)
    indices = texts.tolist()
    similarity = _Similarity(signatures, dedup, None if text_of is None else lambda node: text_of(indices[node]))
    members: dict[int, list[int]] = {}
    parents = np.arange(len(texts), dtype=np.int64)
    is_transitive = dedup.clustering == "connected_components"
    for node, own_groups in enumerate(groups_of_text):
        candidates = sorted({other for group in own_groups for other in members.get(group, ())})
        if indices[node] < num_reference and not is_transitive:
            candidates = []
        similar, has_equal = similarity.find_similar(node, candidates, find_all=is_transitive)
        for other in similar:
            _union(parents, node, other)
        # A text with the signature of another one is similar to the same texts as the other one.
        if not similar or (is_transitive and not has_equal):
            for group in own_groups:
                members.setdefault(group, []).append(node)
    roots = np.array([_find_root(parents, node) for node in range(len(texts))], dtype=np.int64)
    duplicates = np.flatnonzero(roots != np.arange(len(texts)))
    return texts[duplicates], texts[roots[duplicates]]


def find_near_duplicates(
    signatures: Signatures,
    dedup: Dedup,
    skip: Mask,
    text_of: Callable[[int], str] | None = None,
    num_reference: int = 0,
) -> Indices:
    """For each text, find the text of which it is a near duplicate.

    Args:
        signatures: MinHash signatures, [texts, num_perm].
        dedup: Threshold, number of permutations and clustering.
        skip: Which texts are not compared, [texts].
        text_of: As in `resolve_duplicates`.
        num_reference: As in `resolve_duplicates`.

    Returns:
        The index of that text, or -1 if there is none; [texts].
    """
    duplicate_of = np.full(len(signatures), -1, dtype=np.int64)
    for groups in split_into_components(find_candidates(compute_band_keys(signatures, dedup).T, ~skip)):
        own_signatures = signatures[np.unique(groups.members)]
        duplicates, originals = resolve_duplicates(groups, own_signatures, dedup, num_reference, text_of)
        duplicate_of[duplicates] = originals
    return duplicate_of


def _find_root(parents: Indices, node: int) -> int:
    """Find the root of a node in a union-find forest, halving the path to it."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = int(parents[node])
    return node


def _union(parents: Indices, node: int, other: int) -> None:
    """Unite the sets of two nodes; the lower root becomes the root of both."""
    node, other = _find_root(parents, node), _find_root(parents, other)
    parents[max(node, other)] = min(node, other)


class _Similarity:
    """Finds texts whose Jaccard similarity reaches the threshold: by signatures, and near the threshold by n-grams.

    Args:
        signatures: Of each node, [nodes, num_perm].
        dedup: Threshold and n-gram size.
        text_of: Returns the text of a node; None to compare signatures alone.
    """

    def __init__(self, signatures: Signatures, dedup: Dedup, text_of: Callable[[int], str] | None) -> None:
        self._signatures, self._threshold = signatures, dedup.threshold
        error = math.sqrt(dedup.threshold * (1 - dedup.threshold) / dedup.num_perm)
        self._margin = 3 * error if text_of is not None else 0.0

        @lru_cache(maxsize=4096)
        def ngrams_of(node: int) -> Hashes:
            assert text_of is not None
            return np.unique(hash_text_ngrams(text_of(node), dedup))

        self._ngrams_of = ngrams_of

    def find_similar(self, node: int, candidates: Sequence[int], find_all: bool) -> tuple[list[int], bool]:
        """Find those of `candidates` that are similar to a node.

        Args:
            node: The node.
            candidates: The nodes to compare it with.
            find_all: Find all similar ones; if false, the most similar one by its signature.

        Returns:
            The similar nodes, and whether any candidate has an equal signature.
        """
        if not candidates:
            return [], False
        estimates = (self._signatures[candidates] == self._signatures[node]).mean(axis=1)
        similar = []
        for rank in np.argsort(-estimates, kind="stable"):
            if estimates[rank] < self._threshold - self._margin:
                break
            other = candidates[int(rank)]
            is_certain = estimates[rank] >= self._threshold + self._margin
            if is_certain or jaccard_similarity(self._ngrams_of(node), self._ngrams_of(other)) >= self._threshold:
                similar.append(other)
                if not find_all:
                    break
        return similar, bool(estimates.max() == 1.0)
