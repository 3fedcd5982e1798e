"""An index over all shards of a stage: where each record is, by its index among all records."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hanlin.data.dedup.cluster import Indices
from hanlin.data.ingest.shards import Shard
from hanlin.data.ingest.spec import WorkerContext

LOCATION = re.compile(rb'("location": "(?:[^"\\]|\\.)*:)(\d+)"')
"""The location in a line of `dropped.jsonl`: what is before the line number, and the line number."""


@dataclass(frozen=True, slots=True)
class ShardOffset:
    """A shard and what comes before it.

    Attributes:
        shard: The shard.
        rows_before: Rows of its file before its split.
        lines_before: Lines of its file before its split.
        first_record: Index of its first record among all.
        num_records: Number of its records.
    """

    shard: Shard
    rows_before: int
    lines_before: int
    first_record: int
    num_records: int

    @property
    def records(self) -> slice:
        """Its records among all."""
        return slice(self.first_record, self.first_record + self.num_records)


@dataclass(frozen=True)
class ShardIndex:
    """All shards of a stage; the records of other stages come first.

    Attributes:
        worker: The stage.
        offsets: Every shard in order.
        num_reference: Number of records of other stages.
        first_records: `first_record` of each shard.
    """

    worker: WorkerContext
    offsets: tuple[ShardOffset, ...]
    num_reference: int
    first_records: Indices

    @classmethod
    def build(cls, worker: WorkerContext, shards: Sequence[Sequence[Shard]], num_reference_splits: int) -> ShardIndex:
        """Build the index.

        Args:
            worker: The stage.
            shards: The shards of each split, in order.
            num_reference_splits: How many splits, from the first, are those of other stages.
        """
        offsets: list[ShardOffset] = []
        rows: Counter[str] = Counter()
        lines: Counter[str] = Counter()
        next_record = num_reference = 0
        for split_index, shards_of_split in enumerate(shards):
            is_own = split_index >= num_reference_splits
            for shard in shards_of_split:
                num_records = shard.stats.rows_in - sum(shard.stats.dropped.values())
                name = shard.stats.file
                offsets.append(ShardOffset(shard, rows[name] * is_own, lines[name] * is_own, next_record, num_records))
                next_record += num_records
            if is_own:
                name = shards_of_split[0].stats.file
                rows[name] += sum(shard.stats.rows_in for shard in shards_of_split)
                lines[name] += shards_of_split[-1].num_lines
            else:
                num_reference = next_record
        first_records = np.array([offset.first_record for offset in offsets], dtype=np.int64)
        return cls(worker, tuple(offsets), num_reference, first_records)

    @property
    def num_records(self) -> int:
        """Number of all records."""
        return self.offsets[-1].records.stop

    @property
    def own(self) -> list[ShardOffset]:
        """The shards of this stage."""
        return [offset for offset in self.offsets if offset.shard.reference_path is None]

    def locate(self, index: int) -> ShardOffset:
        """Return the shard that has a record."""
        return self.offsets[int(np.searchsorted(self.first_records, index, side="right")) - 1]

    def read_line(self, index: int) -> bytes:
        """Read the line of a record from its shard."""
        offset = self.locate(index)
        with offset.shard.records_path.open("rb") as file:
            file.seek(int(_load_line_offsets(offset.shard)[index - offset.first_record]))
            return file.readline()

    def read_near_text(self, index: int) -> str:
        """Read what near duplicates of a record are compared by."""
        spec = self.worker.spec
        return spec.get_near_text(spec.record_type.from_json(json.loads(self.read_line(index))))

    def load_signatures(self, indices: Indices) -> npt.NDArray[np.uint32]:
        """Load the signatures of records whose indices ascend, [records, num_perm]."""
        shard_of_record = np.searchsorted(self.first_records, indices, side="right") - 1
        cuts = np.flatnonzero(np.diff(shard_of_record)) + 1
        parts = []
        for rows in np.split(np.arange(len(indices)), cuts):
            offset = self.offsets[int(shard_of_record[rows[0]])]
            parts.append(offset.shard.load_signatures()[indices[rows] - offset.first_record])
        return np.concatenate(parts)


@lru_cache(maxsize=512)
def _load_line_offsets_of(path: Path, mtime_ns: int) -> npt.NDArray[np.int64]:
    with np.load(path, allow_pickle=False) as data:
        offsets: npt.NDArray[np.int64] = data["offset"]
        return offsets


def _load_line_offsets(shard: Shard) -> npt.NDArray[np.int64]:
    path = shard.path(".npz")
    return _load_line_offsets_of(path, path.stat().st_mtime_ns)
