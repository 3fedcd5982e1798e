"""Encoded records on disk: token ids and loss masks in shards."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.progress import Progress
from hanlin.train.dataset.shard_writers import ShardWriters

SHARD, LARGEST_SHARD = 4096, 16384


MANY = 2 * SHARD


VERY_MANY = 8 * SHARD


WHOLE = "whole.json"


PAD_STEP = 256


Item = TypeVar("Item")


class Example(NamedTuple):
    """Token ids in order; `learn[i]` is 1 where `ids[i]` is an answer's, `good` whether that answer is one to give:
    of a pair the rejected one is not, and a judged answer as it was judged."""

    ids: list[int]
    learn: bytes
    good: bool = True


class Encoded(NamedTuple):
    """What became of a record: its examples (a pair has two), or none and why; with examples, `reason` says what was
    changed."""

    examples: tuple[Example, ...] = ()
    reason: str = ""


Encode = Callable[[Sequence[Any]], Iterable[Encoded]]


@dataclass(frozen=True, slots=True)
class EncodedRecords:
    """Every record's examples end to end. `starts` [examples + 1] are offsets into `ids` and `learn`; `good`
    [examples] says which are to be followed; each record has `width` examples, in the order of the data. The arrays are
    read from disk as they are needed."""

    ids: np.ndarray
    learn: np.ndarray
    starts: np.ndarray
    good: np.ndarray
    width: int
    folder: Path
    refused: dict[str, int]
    changed: dict[str, int]

    @property
    def lengths(self) -> np.ndarray:
        """Positions that each example takes: one fewer than its tokens, since the last is only predicted."""
        return np.diff(self.starts) - 1

    def __len__(self) -> int:
        return (len(self.starts) - 1) // self.width

    def read(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that a segment reads or is asked for, one more than its positions, and which are learned."""
        first = int(self.starts[segment.example])
        place = slice(first + segment.start, first + segment.end + 1)
        return self.ids[place], self.learn[place]

    def record_ids(self, records: Iterable[int]) -> list[str]:
        wanted = set(records)
        with (self.folder / "records.txt").open(encoding="utf-8") as file:
            return [json.loads(line) for number, line in enumerate(file) if number in wanted]


def encode_records(
    records: Iterable[Any],
    encode: Encode,
    *,
    width: int,
    folder: Path,
    progress: Progress,
    total: int,
    quicken: Callable[[], None] | None = None,
    processes: int = 1,
) -> EncodedRecords:
    """Encode all records into `folder` and open what lies there; what an earlier try wrote is taken over by shard.

    Of many records, `processes` encode at a time; for very many, `quicken` is called first. What is written is the same
    for any number of processes. Raises UserError when nothing is left to learn from, with the reasons.
    """
    if not (folder / WHOLE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if quicken is not None and total >= VERY_MANY:
            quicken()
        shards = []
        done = 0
        with ShardWriters(processes if total >= MANY else 1) as writers:
            size = min(LARGEST_SHARD, max(SHARD, total // (4 * processes)))
            for number, batch in enumerate(_batches(records, size)):
                shards.append(folder / f"shard-{number:06d}-of-{size}.npz")
                if not shards[-1].is_file():
                    writers.do(partial(_write_shard, shards[-1], batch, encode))
                done += len(batch)
                progress.update(done, total, say("records", "条"))
        _join(folder, shards, width)
    return open_encoded(folder)


def open_encoded(folder: Path) -> EncodedRecords:
    """What `encode_records` wrote. Raises UserError when no record can be learned from."""
    counts = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
    if not counts["records"]:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts["refused"].items()) or "-"
        raise UserError(
            say(f"no record is left to learn from (refused: {reasons})", f"没有可学习的记录（拒收：{reasons}）"),
            "data",
            say("a longer max_seq_length takes longer records", "增大 max_seq_length 可容纳更长的记录"),
        )
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "learn", "starts", "good")}
    return EncodedRecords(
        **arrays, width=counts["width"], folder=folder, refused=counts["refused"], changed=counts["changed"]
    )


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _write_shard(path: Path, batch: Sequence[Any], encode: Encode) -> None:
    ids: list[np.ndarray] = []
    learn: list[np.ndarray] = []
    good: list[bool] = []
    names: list[str] = []
    refused: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    for record, encoded in zip(batch, encode(batch), strict=True):
        if not encoded.examples:
            refused[encoded.reason] += 1
            continue
        if encoded.reason:
            changed[encoded.reason] += 1
        names.append(json.dumps(record.id, ensure_ascii=False) + "\n")
        for example in encoded.examples:
            ids.append(np.asarray(example.ids, dtype=np.int32))
            learn.append(np.frombuffer(example.learn, dtype=bool))
            good.append(example.good)
    notes = json.dumps({"kept": len(names), "refused": refused, "changed": changed})
    aside = path.with_name(path.name + ".writing")
    with aside.open("wb") as file:
        np.savez(
            file,
            ids=np.concatenate([*ids, np.empty(0, np.int32)]),
            learn=np.concatenate([*learn, np.empty(0, bool)]),
            lengths=np.asarray([len(row) for row in ids], dtype=np.int64),
            good=np.asarray(good, dtype=bool),
            notes=np.frombuffer(notes.encode("utf-8"), dtype=np.uint8),
            names=np.frombuffer("".join(names).encode("utf-8"), dtype=np.uint8),
        )
    os.replace(aside, path)


def _join(folder: Path, shards: Sequence[Path], width: int) -> None:
    """One array of each kind from the shards, which are then removed. The marker is written last."""
    lengths = np.concatenate([*(np.load(path)["lengths"] for path in shards), np.empty(0, np.int64)])
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    np.save(folder / "starts.npy", starts)
    np.save(folder / "good.npy", np.concatenate([*(np.load(path)["good"] for path in shards), np.empty(0, bool)]))
    size = max(1, int(starts[-1]))
    ids = np.lib.format.open_memmap(folder / "ids.npy", mode="w+", dtype=np.int32, shape=(size,))
    learn = np.lib.format.open_memmap(folder / "learn.npy", mode="w+", dtype=bool, shape=(size,))
    refused: Counter[str] = Counter()
    changed: Counter[str] = Counter()
    records = place = 0
    with (folder / "records.txt").open("wb") as file:
        for path in shards:
            shard = np.load(path)
            notes = json.loads(shard["notes"].tobytes())
            end = place + len(shard["ids"])
            ids[place:end], learn[place:end] = shard["ids"], shard["learn"]
            place = end
            records += notes["kept"]
            refused.update(notes["refused"])
            changed.update(notes["changed"])
            file.write(shard["names"].tobytes())
    ids.flush()
    learn.flush()
    counts = {"records": records, "width": width, "refused": dict(refused), "changed": dict(changed)}
    aside = folder / (WHOLE + ".writing")
    aside.write_text(json.dumps(counts, sort_keys=True), encoding="utf-8")
    os.replace(aside, folder / WHOLE)
    for path in folder.glob("shard-*.npz"):  # an earlier try with other processes may have left some of another size
        path.unlink()


class Segment(NamedTuple):
    """Positions `start` to `end` (exclusive) of an example: the model reads `ids[start:end]` and is asked for
    `ids[start + 1:end + 1]`, so pieces of a cut document share one token and none goes unlearned."""

    example: int
    start: int
    end: int
