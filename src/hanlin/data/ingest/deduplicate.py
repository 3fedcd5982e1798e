"""Duplicates over all shards, and the validation split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanlin.core.context import StageContext
from hanlin.data.dedup.cluster import Groups, Places, candidate_groups, components, decided, exact_copies
from hanlin.data.ingest.executor import Meter, Tasks
from hanlin.data.ingest.shard_index import Shelf

_BANDS = "bands"


_FEW_BUNCHES = 8


@dataclass(frozen=True, slots=True)
class Verdicts:
    """For each record the place of the one that it copies, or -1; whether it is only a near copy; whether it is held
    out; and the number of its row."""

    copies: Places
    near: npt.NDArray[np.bool_]
    validation: npt.NDArray[np.bool_]
    numbers: Places


def judged_together(shelf: Shelf, context: StageContext, small: bool) -> Verdicts:
    """Find copies among all records, and hold some of the rest out."""
    dedup, count = shelf.course.sieve.dedup, shelf.count
    numbers = np.empty(count, dtype=np.int64)
    keys = np.empty((count, 2), dtype=np.uint64)
    sides = np.empty(count, dtype=np.uint64)
    with (shelf.course.parts / _BANDS).open("wb") as bands:
        for one in shelf.joined:
            arrays = one.part.arrays()
            mine = slice(one.first, one.first + one.count)
            numbers[mine] = arrays["number"] + one.rows_before
            keys[mine], sides[mine] = arrays["key"], arrays["side"]
            for number, column in enumerate(arrays["bands"].T if "bands" in arrays else ()):
                bands.seek(8 * (number * count + one.first))
                bands.write(np.ascontiguousarray(column).tobytes())
    near = np.zeros(count, dtype=np.bool_)
    if dedup.method == "none":
        copies = np.full(count, -1, dtype=np.int64)
    else:
        copies = exact_copies(keys)
    del keys
    if dedup.method == "minhash" and count:
        similar = _near_copies(shelf, context, small, copies < 0)
        near = similar >= 0
        copies = np.where(near, similar, copies)
        # The first of a group of equal texts may itself be a near copy: then all of them copy the same kept text.
        of_dropped = (copies >= 0) & (copies[copies] >= 0)
        copies[of_dropped] = copies[copies[of_dropped]]
        near |= of_dropped
    stays = copies < 0
    stays[: shelf.fixed] = False
    return Verdicts(copies, near, validation(sides, stays, shelf.course.sieve.validation_fraction), numbers)


def _near_copies(shelf: Shelf, context: StageContext, small: bool, taking: npt.NDArray[np.bool_]) -> Places:
    count, bands = shelf.count, shelf.course.parts / _BANDS
    columns = bands.stat().st_size // (8 * count)
    groups = candidate_groups(
        (np.fromfile(bands, dtype=np.uint64, count=count, offset=8 * count * band) for band in range(columns)), taking
    )
    copies = np.full(count, -1, dtype=np.int64)
    bunches = list(components(groups))
    tasks = Tasks(context, shelf.course.parts, small or len(bunches) <= _FEW_BUNCHES)
    for mine, firsts in tasks.each(_decide, shelf, bunches):
        copies[mine] = firsts
    return copies


def _decide(shelf: Shelf, groups: Groups, meter: Meter) -> tuple[Places, Places]:
    marks = shelf.signatures(np.unique(groups.members))
    return decided(groups, marks, shelf.course.sieve.dedup, shelf.fixed, shelf.text)


def validation(sides: npt.NDArray[np.uint64], stays: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.bool_]:
    """Which of the staying records are held out: those whose content's hash lies in the lowest share of all hashes.

    It depends on the content alone, so that it stays the same when files are added or come in another order. Where
    there are two or more records, at least one is held out and at least one is not.
    """
    held = np.zeros(len(sides), dtype=np.bool_)
    places = np.flatnonzero(stays)
    values = sides[places]
    if share <= 0 or not len(values) or values.min() == values.max():
        return held
    limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
    if not (values < limit).any():
        limit = values.min() + np.uint64(1)
    elif (values < limit).all():
        limit = values.max()
    held[places[values < limit]] = True
    return held
