"""Encoded records on disk: token ids and loss masks, written in shards and then joined."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, parse_json, write_text
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.train.dataset.shard_writers import ShardWriters

SHARD_RECORDS, MAX_SHARD_RECORDS = 4096, 16384
"""Records that are encoded and written together, and the most of them if every process has several such shards: what a
killed run may have to encode again, for each process. A process is forked for each, which costs as much as some hundred
records."""
MIN_RECORDS_FOR_PROCESSES = 2 * SHARD_RECORDS
"""From this many records on, several processes encode."""
MIN_RECORDS_FOR_WARM_UP = 8 * SHARD_RECORDS
"""From this many records on, preparing the tokenizer to encode faster takes less time than it saves."""
INDEX_FILE = "index.json"
"""Counts of an encoded data set; written last, so that it is complete if this file exists."""

Item = TypeVar("Item")


class Example(NamedTuple):
    """One text to learn from.

    Attributes:
        ids: Token ids.
        loss_mask: A byte for each id, 1 if it is a target: of an answer, or of a document.
        desirable: Whether the answer is one to give: False for the rejected answer of a pair and for an answer that was
            labeled bad.
    """

    ids: list[int]
    loss_mask: bytes
    desirable: bool = True


class EncodedRecord(NamedTuple):
    """What became of a record.

    Attributes:
        examples: Its examples (a pair has two, a conversation one or more); none if it was refused.
        reason: Why it was refused, or, if it has examples, how it was changed.
        notes: Short names of what a user should know of it before training.
        detail: A sentence on the refusal; of each reason the first is kept.
    """

    examples: tuple[Example, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()
    detail: str = ""


Encode = Callable[[Sequence[Any]], Iterable[EncodedRecord]]
"""Encodes records; the result has one item for each."""


class Segment(NamedTuple):
    """Positions `start` to `end` (exclusive) of an example.

    The model reads `ids[start:end]` and predicts `ids[start + 1:end + 1]`, so the parts of a cut document share one
    token and each of its tokens is a target once: a document of 6 tokens cut after 3 positions is read as 0 1 2 and
    3 4, and predicts 1 2 3 and 4 5.
    """

    example: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class EncodedRecords:
    """The examples of all records end to end; the arrays are read from disk as they are needed.

    Two pairs, of examples of 3, 4, 2 and 2 tokens:

        ids          11 tokens
        loss_mask    11 booleans
        starts       0 3 7 9 11
        width        2                example 2 * i is the chosen, 2 * i + 1 the rejected answer of pair i

    Attributes:
        ids: Token ids, int32 [tokens].
        loss_mask: Which of them are targets, bool [tokens].
        starts: Where each example begins, and the end of the last, int64 [examples + 1].
        desirable: Which examples are answers to give, bool [examples].
        width: Examples of each record.
        folder: Where the files are.
        refused: How many records were refused, by reason.
        changed: How many were changed, by reason.
        notes: How many have something to be known of, by its short name.
        details: A sentence on the first refusal of some of the reasons.
        record_count: Records that are learned from; a conversation may have several examples.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    starts: np.ndarray
    desirable: np.ndarray
    width: int
    folder: Path
    refused: dict[str, int]
    changed: dict[str, int]
    notes: dict[str, int]
    details: dict[str, str]
    record_count: int

    @property
    def lengths(self) -> np.ndarray:
        """Positions of each example [examples]: one fewer than its tokens, since the last is only predicted."""
        return np.diff(self.starts) - 1

    def __len__(self) -> int:
        return (len(self.starts) - 1) // self.width

    def read(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """The ids that a segment reads or predicts, one more than its positions, and their loss mask."""
        first = int(self.starts[segment.example])
        span = slice(first + segment.start, first + segment.end + 1)
        return self.ids[span], self.loss_mask[span]

    def record_ids(self, indices: Iterable[int]) -> list[str]:
        """Ids of some of the records, in the order of the data: of those that `width` examples in a row belong to."""
        wanted = set(indices)
        with (self.folder / "records.txt").open(encoding="utf-8") as file:
            return [parse_json(line) for index, line in enumerate(file) if index in wanted]


def encode_records(
    records: Iterable[Any],
    encode: Encode,
    *,
    width: int,
    folder: Path,
    progress: Progress,
    total: int,
    warm_up: Callable[[], None] | None = None,
    processes: int = 1,
) -> EncodedRecords:
    """Encode all records into `folder` and open the result; shards of an earlier, killed try are taken over.

    Args:
        records: The records, in order.
        encode: Makes token ids of some records.
        width: Examples of each record.
        folder: Where the files are written; nothing is encoded if it is complete.
        progress: Shows how far it is.
        total: How many records there are.
        warm_up: Called first if there are very many records (`MIN_RECORDS_FOR_WARM_UP`).
        processes: How many processes encode at a time if there are many (`MIN_RECORDS_FOR_PROCESSES`); what is written
            is the same for any number.

    Raises:
        UserError: No record is left to learn from; the message has the reasons.
    """
    if not (folder / INDEX_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if warm_up is not None and total >= MIN_RECORDS_FOR_WARM_UP:
            warm_up()
        shards = []
        done = 0
        with ShardWriters(processes if total >= MIN_RECORDS_FOR_PROCESSES else 1) as writers:
            size = min(MAX_SHARD_RECORDS, max(SHARD_RECORDS, total // (4 * processes)))
            for shard, batch in enumerate(_batches(records, size)):
                shards.append(folder / f"shard-{shard:06d}-of-{size}.npz")
                if not shards[-1].is_file():
                    writers.submit(partial(_write_shard, shards[-1], batch, encode, width))
                done += len(batch)
                progress.update(done, total, tr("records"))
        _join_shards(folder, shards, width)
    return open_encoded(folder)


def open_encoded(folder: Path) -> EncodedRecords:
    """Open what `encode_records` wrote. Raises UserError if no record can be learned from."""
    index = parse_json((folder / INDEX_FILE).read_text(encoding="utf-8"))
    if not index["records"]:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in index["refused"].items()) or "-"
        detail = next(iter(index["details"].values()), "")
        raise UserError(
            tr("no record is left to learn from (refused: {reasons})", reasons=reasons),
            "data",
            tr("the first: {detail}", detail=detail) if detail else tr("a greater max_seq_length takes longer records"),
        )
    names = ("ids", "loss_mask", "starts", "desirable")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    return EncodedRecords(
        **arrays,
        width=index["width"],
        folder=folder,
        **{name: index[name] for name in ("refused", "changed", "notes", "details")},
        record_count=index["records"],
    )


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _write_shard(path: Path, batch: Sequence[Any], encode: Encode, width: int) -> None:
    ids: list[np.ndarray] = []
    loss_mask: list[np.ndarray] = []
    desirable: list[bool] = []
    record_ids: list[str] = []
    refused: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    details: dict[str, str] = {}
    records = 0
    for record, encoded in zip(batch, encode(batch), strict=True):
        if not encoded.examples:
            refused[encoded.reason] += 1
            if encoded.detail:
                details.setdefault(encoded.reason, encoded.detail)
            continue
        if encoded.reason:
            changed[encoded.reason] += 1
        notes.update(encoded.notes)
        records += 1
        record_ids += [json.dumps(record.id, ensure_ascii=False) + "\n"] * (len(encoded.examples) // width)
        for example in encoded.examples:
            ids.append(np.asarray(example.ids, dtype=np.int32))
            loss_mask.append(np.frombuffer(example.loss_mask, dtype=bool))
            desirable.append(example.desirable)
    counts = json.dumps(
        {"records": records, "refused": refused, "changed": changed, "notes": notes, "details": details}
    )
    with open_atomic(path, "wb") as file:
        np.savez(
            file,
            ids=np.concatenate([*ids, np.empty(0, np.int32)]),
            loss_mask=np.concatenate([*loss_mask, np.empty(0, bool)]),
            lengths=np.asarray([len(example) for example in ids], dtype=np.int64),
            desirable=np.asarray(desirable, dtype=bool),
            counts=np.frombuffer(counts.encode("utf-8"), dtype=np.uint8),
            record_ids=np.frombuffer("".join(record_ids).encode("utf-8"), dtype=np.uint8),
        )


def _join_shards(folder: Path, shards: Sequence[Path], width: int) -> None:
    """Write one array of each name from the shards, then the index, and remove the shards."""
    lengths = np.concatenate([*(np.load(path)["lengths"] for path in shards), np.empty(0, np.int64)])
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    np.save(folder / "starts.npy", starts)
    desirable = [np.load(path)["desirable"] for path in shards]
    np.save(folder / "desirable.npy", np.concatenate([*desirable, np.empty(0, bool)]))
    size = max(1, int(starts[-1]))
    ids = np.lib.format.open_memmap(folder / "ids.npy", mode="w+", dtype=np.int32, shape=(size,))
    loss_mask = np.lib.format.open_memmap(folder / "loss_mask.npy", mode="w+", dtype=bool, shape=(size,))
    refused: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    details: dict[str, str] = {}
    records = start = 0
    with (folder / "records.txt").open("wb") as file:
        for path in shards:
            shard = np.load(path)
            counts = json.loads(shard["counts"].tobytes())
            end = start + len(shard["ids"])
            ids[start:end], loss_mask[start:end] = shard["ids"], shard["loss_mask"]
            start = end
            records += counts["records"]
            refused.update(counts["refused"])
            changed.update(counts["changed"])
            notes.update(counts["notes"])
            details = {**counts["details"], **details}
            file.write(shard["record_ids"].tobytes())
    ids.flush()
    loss_mask.flush()
    index = {
        "records": records,
        "width": width,
        "refused": dict(refused),
        "changed": dict(changed),
        "notes": dict(notes),
        "details": details,
    }
    write_text(folder / INDEX_FILE, json.dumps(index, sort_keys=True))
    for path in folder.glob("shard-*.npz"):  # an earlier try with other processes may have left some of another size
        path.unlink()
