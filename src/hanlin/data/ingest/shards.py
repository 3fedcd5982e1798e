"""Shards: the files that a processed input split leaves on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.core.files import open_atomic, write_bytes
from hanlin.data.dedup.containment import sample_ngrams
from hanlin.data.dedup.keys import compute_dedup_key, compute_exact_key
from hanlin.data.dedup.lines import unique_line_hashes
from hanlin.data.dedup.minhash import compute_band_keys, compute_signatures, hash_key
from hanlin.data.ingest.spec import DatasetSpec, WorkerContext
from hanlin.data.ingest.splits import InputSplit
from hanlin.data.ledger import FileStats

SHARD_ROWS = 20_000
SHARD_BYTES = 1 << 24
_SIGNATURE_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """A finished shard on disk: `<stem>.kept.jsonl`, `.dropped.jsonl`, `.npz`, `.signature.npy` and `.json`.

    Attributes:
        stem: Path without ending.
        stats: Row counts.
        questions: For each contaminated evaluation question the number of records that contain it.
        corrections: For each entry of the overlay that was applied the number of records, by the entry's hash.
        is_last: The split is read to its end.
        num_lines: Lines of the split up to the end of the shard.
        reference_path: The file of the records, if they are those of another stage.
    """

    stem: Path
    stats: FileStats
    questions: Mapping[str, int] = field(default_factory=dict)
    is_last: bool = True
    num_lines: int = 0
    reference_path: Path | None = None
    corrections: Mapping[str, int] = field(default_factory=dict)

    def path(self, ending: str) -> Path:
        """Return the path of one of its files."""
        return self.stem.with_name(self.stem.name + ending)

    @property
    def records_path(self) -> Path:
        """The file that has the lines of its records."""
        return self.reference_path or self.path(".kept.jsonl")

    def load_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Load the arrays, which have a row for each kept record.

        `row` and `line` count from the beginning of the split; `offset` and `num_bytes` say where the line of the
        record is in `records_path`, and `tail_bytes` how many bytes follow its line number there; `characters` is its
        size; `dedup_key`, `split_key` and `bands` are used to deduplicate and split.
        """
        with np.load(self.path(".npz"), allow_pickle=False) as data:
            return {name: data[name] for name in data.files}

    def load_signatures(self) -> npt.NDArray[np.uint32]:
        """Map the MinHash signatures of its records, [records, num_perm]."""
        signatures: npt.NDArray[np.uint32] = np.load(self.path(".signature.npy"), mmap_mode="r", allow_pickle=False)
        return signatures

    def load_array(self, ending: str) -> npt.NDArray[Any]:
        """Map one of the arrays that have a file of their own (`.lines.npy`, `.ngrams.npy`)."""
        array: npt.NDArray[Any] = np.load(self.path(ending), mmap_mode="r", allow_pickle=False)
        return array

    def write_summary(self) -> None:
        """Write the `.json` file; the shard is finished when it is there."""
        stats = self.stats
        summary = {
            "stats": {name: getattr(stats, name) for name in type(stats).__dataclass_fields__},
            "questions": self.questions,
            "is_last": self.is_last,
            "num_lines": self.num_lines,
            "corrections": self.corrections,
        }
        write_bytes(self.path(".json"), json.dumps(summary, ensure_ascii=False).encode("utf-8"), shared=True)


def load_finished_shards(worker: WorkerContext, split: InputSplit) -> list[Shard]:
    """Load the shards of a split that an earlier run finished, in order."""
    shards: list[Shard] = []
    while not (shards and shards[-1].is_last):
        stem = worker.shard_folder / f"{split.name}-{len(shards):05d}"
        shard = load_shard(stem, split.file.path if split.is_reference else None)
        if shard is None:
            break
        shards.append(shard)
    return shards


def load_shard(stem: Path, reference_path: Path | None = None) -> Shard | None:
    """Load a finished shard; None if there is none."""
    try:
        summary = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    counts = summary["stats"]
    names = ("dropped", "changed", "unread_fields", "read_languages", "cut_lines")
    counters = {name: Counter(counts[name]) for name in names}
    stats = FileStats(**{**counts, **counters})
    return Shard(
        stem,
        stats,
        summary["questions"],
        summary["is_last"],
        summary["num_lines"],
        reference_path,
        summary.get("corrections", {}),
    )


class ShardArrayBuilder:
    """Collects the arrays of a shard record by record; signatures are computed for many texts at a time."""

    def __init__(self, spec: DatasetSpec[Any, Any], seed: int) -> None:
        self._spec, self._seed = spec, seed
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._dedup_keys: list[bytes] = []
        self._split_keys: list[int] = []
        self._texts: list[str] = []
        self._num_characters = 0
        self._signatures: list[npt.NDArray[np.uint32]] = []
        self._lines: list[npt.NDArray[np.uint64]] = []
        self._ngrams: list[npt.NDArray[np.uint64]] = []

    def append(self, record: Any, row: int, line: int, num_bytes: int, tail_bytes: int) -> None:
        """Add a record.

        Args:
            record: The record.
            row: Number of its row in the split, from 1.
            line: Number of its line in the split, from 1.
            num_bytes: Length of its line in the shard.
            tail_bytes: Bytes that follow its line number in that line.
        """
        spec = self._spec
        self._rows.append((row, line, num_bytes, tail_bytes, spec.count_characters(record)))
        self._dedup_keys.append(compute_dedup_key(spec.exact_text(record), spec.dedup.across_scripts))
        if spec.validation_fraction > 0:  # without a validation split nothing asks for its keys
            self._split_keys.append(hash_key(compute_exact_key(spec.split_text(record)), self._seed))
        if spec.dedup.lines is not None:
            self._lines.append(unique_line_hashes(spec.full_text(record)))
        if spec.dedup.containment is not None:
            self._ngrams.append(sample_ngrams(spec.get_near_text(record), spec.dedup.across_scripts))
        if spec.dedup.method == "minhash":
            self._texts.append(spec.get_near_text(record))
            self._num_characters += len(self._texts[-1])
            if self._num_characters >= _SIGNATURE_BATCH_CHARACTERS:
                self._flush_texts()

    def _flush_texts(self) -> None:
        self._signatures.append(compute_signatures(self._texts, self._spec.dedup, self._seed))
        self._texts.clear()
        self._num_characters = 0

    def write(self, shard: Shard, offsets: Sequence[int] | None = None) -> None:
        """Write the arrays of a shard.

        Args:
            shard: The shard.
            offsets: Where the lines of the records begin; None: one follows another.
        """
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 5)
        arrays: dict[str, npt.NDArray[Any]] = dict(
            zip(("row", "line", "num_bytes", "tail_bytes", "characters"), rows.T, strict=True)
        )
        arrays["offset"] = np.cumsum(rows[:, 2]) - rows[:, 2] if offsets is None else np.array(offsets, dtype=np.int64)
        arrays["dedup_key"] = np.frombuffer(b"".join(self._dedup_keys), dtype="<u8").reshape(-1, 2)
        arrays["split_key"] = np.array(self._split_keys or [0] * len(rows), dtype=np.uint64)
        dedup = self._spec.dedup
        for ending, hashes, is_wanted in (
            (".lines.npy", self._lines, dedup.lines is not None),
            (".ngrams.npy", self._ngrams, dedup.containment is not None),
        ):
            if not is_wanted:
                continue
            with open_atomic(shard.path(ending), "wb", shared=True) as file:
                np.save(file, np.concatenate([*hashes, np.empty(0, dtype=np.uint64)]), allow_pickle=False)
        if self._spec.dedup.containment is not None:
            arrays["num_ngrams"] = np.array(list(map(len, self._ngrams)), dtype=np.int64)
        if self._spec.dedup.method == "minhash":
            self._flush_texts()
            signatures = np.concatenate(self._signatures)
            arrays["bands"] = compute_band_keys(signatures, self._spec.dedup)
            with open_atomic(shard.path(".signature.npy"), "wb", shared=True) as file:
                np.save(file, signatures, allow_pickle=False)
        with open_atomic(shard.path(".npz"), "wb", shared=True) as file:
            np.savez(file, allow_pickle=False, **arrays)
