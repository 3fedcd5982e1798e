"""Find duplicates over all shards, and select the validation split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanlin.core.context import StageContext
from hanlin.data.dedup.cluster import (
    CandidateGroups,
    Indices,
    Mask,
    find_candidates,
    find_exact_duplicates,
    resolve_duplicates,
    split_into_components,
)
from hanlin.data.dedup.containment import contained_fraction, find_containers
from hanlin.data.dedup.keys import Hashes
from hanlin.data.ingest.executor import Executor, ProgressCounter
from hanlin.data.ingest.shard_index import ShardIndex

_BANDS_FILE = "bands"
_BATCH_PAIRS = 500
_FEW_BATCHES = 8
"""Batches of components that this process has resolved before workers would have started."""


@dataclass(frozen=True, slots=True)
class DedupResult:
    """What becomes of each record; all arrays are [records].

    Attributes:
        duplicate_of: Index of the record that it duplicates, or -1.
        is_near: It is a near duplicate, not an exact one.
        is_contained: It is no duplicate, but most of it is in that record.
        is_validation: It is in the validation split.
        row_numbers: Number of its row in its file.
    """

    duplicate_of: Indices
    is_near: Mask
    is_contained: Mask
    is_validation: Mask
    row_numbers: Indices


def deduplicate(index: ShardIndex, context: StageContext, in_process: bool) -> DedupResult:
    """Find duplicates among all records, and select the validation split from the rest.

    Args:
        index: All shards.
        context: Cores or cluster.
        in_process: Compare near duplicates in this process.
    """
    spec, num_records = index.worker.spec, index.num_records
    row_numbers = np.empty(num_records, dtype=np.int64)
    dedup_keys = np.empty((num_records, 2), dtype=np.uint64)
    split_keys = np.empty(num_records, dtype=np.uint64)
    with (index.worker.shard_folder / _BANDS_FILE).open("wb") as file:
        for offset in index.offsets:
            arrays = offset.shard.load_arrays()
            row_numbers[offset.records] = arrays["row"] + offset.rows_before
            dedup_keys[offset.records], split_keys[offset.records] = arrays["dedup_key"], arrays["split_key"]
            for band_index, band in enumerate(arrays["bands"].T if "bands" in arrays else ()):
                file.seek(8 * (band_index * num_records + offset.first_record))
                file.write(np.ascontiguousarray(band).tobytes())
    is_near = np.zeros(num_records, dtype=np.bool_)
    if spec.dedup.method == "none":
        duplicate_of = np.full(num_records, -1, dtype=np.int64)
    else:
        duplicate_of = find_exact_duplicates(dedup_keys)
    del dedup_keys
    if spec.dedup.method == "minhash" and num_records:
        similar_to = _find_near_duplicates(index, context, in_process, duplicate_of < 0)
        is_near = similar_to >= 0
        duplicate_of = np.where(is_near, similar_to, duplicate_of)
        # The first of several equal texts may be a near duplicate: then all of them duplicate the same kept text.
        of_dropped = (duplicate_of >= 0) & (duplicate_of[duplicate_of] >= 0)
        duplicate_of[of_dropped] = duplicate_of[duplicate_of[of_dropped]]
        is_near |= of_dropped
    is_contained = np.zeros(num_records, dtype=np.bool_)
    if spec.dedup.containment is not None and num_records:
        container = _find_containers(index, context, in_process, duplicate_of)
        is_contained = container >= 0
        duplicate_of = np.where(is_contained, container, duplicate_of)
        for _ in range(num_records):  # what duplicates a contained record points to what contains it; chains are short
            of_dropped = (duplicate_of >= 0) & (duplicate_of[duplicate_of] >= 0)
            if not of_dropped.any():
                break
            duplicate_of[of_dropped] = duplicate_of[duplicate_of[of_dropped]]
    is_kept = duplicate_of < 0
    is_kept[: index.num_reference] = False
    is_validation = select_validation(split_keys, is_kept, spec.validation_fraction)
    return DedupResult(duplicate_of, is_near, is_contained, is_validation, row_numbers)


def _find_near_duplicates(index: ShardIndex, context: StageContext, in_process: bool, active: Mask) -> Indices:
    """For each record, find the record of which it is a near duplicate, or -1."""
    num_records, path = index.num_records, index.worker.shard_folder / _BANDS_FILE
    num_bands = path.stat().st_size // (8 * num_records)
    bands = (
        np.fromfile(path, dtype=np.uint64, count=num_records, offset=8 * num_records * band)
        for band in range(num_bands)
    )
    batches = list(split_into_components(find_candidates(bands, active)))
    duplicate_of = np.full(num_records, -1, dtype=np.int64)
    executor = Executor(context, index.worker.shard_folder, in_process or len(batches) <= _FEW_BATCHES)
    for duplicates, originals in executor.map(_resolve_batch, index, batches):
        duplicate_of[duplicates] = originals
    return duplicate_of


def _resolve_batch(index: ShardIndex, groups: CandidateGroups, progress: ProgressCounter) -> tuple[Indices, Indices]:
    signatures = index.load_signatures(np.unique(groups.members))
    return resolve_duplicates(groups, signatures, index.worker.spec.dedup, index.num_reference, index.read_near_text)


def _find_containers(index: ShardIndex, context: StageContext, in_process: bool, duplicate_of: Indices) -> Indices:
    """For each record that duplicates none, find the longer one that contains it, or -1."""
    fraction = index.worker.spec.dedup.containment
    assert fraction is not None
    sizes, lengths = np.zeros((2, index.num_records), dtype=np.int64)
    for offset in index.offsets:
        arrays = offset.shard.load_arrays()
        sizes[offset.records], lengths[offset.records] = arrays["num_ngrams"], arrays["characters"]
    lengths[duplicate_of >= 0] = 0

    def read(bits: int, value: int) -> tuple[Hashes, Indices]:
        hashes, documents = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
        for offset in index.offsets:
            ngrams = offset.shard.load_array(".ngrams.npy")
            owners = np.repeat(np.arange(offset.records.start, offset.records.stop), sizes[offset.records])
            selected = (ngrams & np.uint64((1 << bits) - 1)) == np.uint64(value)
            selected &= duplicate_of[owners] < 0
            hashes.append(ngrams[selected])
            documents.append(owners[selected])
        return np.concatenate(hashes), np.concatenate(documents)

    records, containers = find_containers(read, int(sizes.sum()), sizes, lengths, fraction)
    is_own = records >= index.num_reference
    pairs = np.stack([records[is_own], containers[is_own]], axis=1)
    batches = np.split(pairs, range(_BATCH_PAIRS, len(pairs), _BATCH_PAIRS))
    executor = Executor(context, index.worker.shard_folder, in_process or len(batches) <= _FEW_BATCHES)
    container_of = np.full(index.num_records, -1, dtype=np.int64)
    for checked in executor.map(_check_containers, index, batches):
        container_of[checked[:, 0]] = checked[:, 1]
    return container_of


def _check_containers(index: ShardIndex, pairs: Indices, progress: ProgressCounter) -> Indices:
    """Return those of some pairs (record, container), [pairs, 2], of which the first is really in the second."""
    dedup = index.worker.spec.dedup
    assert dedup.containment is not None
    is_contained = [
        contained_fraction(index.read_near_text(record), index.read_near_text(container), dedup.across_scripts)
        >= dedup.containment
        for record, container in pairs.tolist()
    ]
    return pairs[np.array(is_contained, dtype=np.bool_)]


def select_validation(split_keys: npt.NDArray[np.uint64], is_kept: Mask, fraction: float) -> Mask:
    """Select the records of the validation split: those whose key is in the lowest `fraction` of all 64-bit keys.

    The split depends on the content alone, so that a record stays in it if files are added or reordered. If there are
    two or more kept records with different keys, at least one is in each split.

    Args:
        split_keys: A hash of each record, [records].
        is_kept: Which records can be selected, [records].
        fraction: Share of the validation split; 0: none is selected.
    """
    selected = np.zeros(len(split_keys), dtype=np.bool_)
    indices = np.flatnonzero(is_kept)
    keys = split_keys[indices]
    if fraction <= 0 or not len(keys) or keys.min() == keys.max():
        return selected
    limit = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    if not (keys < limit).any():
        limit = keys.min() + np.uint64(1)
    elif (keys < limit).all():
        limit = keys.max()
    selected[indices[keys < limit]] = True
    return selected
