"""Records become token ids once, in files; files become rows; rows become what one pass through the model reads.

Owns encoding to disk, packing, the order of the data, and the tensors of a pass. Does not own what is learnt of a
record (`objectives`) or how documents of a pass are kept apart (`attention`).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from hanlin.core.context import Progress
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.compute.attention import Documents
from hanlin.train.dataset.packing import pack, pack_documents
from hanlin.train.dataset.shard_writers import ShardWriters

SHARD, LARGEST_SHARD = 4096, 16384
"""Records that are encoded and written together, and the most of them, where each process has some such shards: what a
killed run may have to encode again, for each process. A process is forked for each, which costs as much as some hundred
records."""
MANY = 2 * SHARD
"""From so many records on, several processes encode."""
VERY_MANY = 8 * SHARD
"""From so many records on, getting ready to encode faster takes less time than it saves."""
WHOLE = "whole.json"
PAD_STEP = 256
"""A pass is padded to a multiple: every new shape costs new kernels (2 ms a matrix product in bfloat16 on a CPU)."""

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
        """The tokens that a segment reads or is asked for, one more than its positions, and which are learnt."""
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
                progress.at(done, total, say("records", "条"))
        _join(folder, shards, width)
    return open_encoded(folder)


def open_encoded(folder: Path) -> EncodedRecords:
    """What `encode_records` wrote. Raises UserError when no record can be learnt from."""
    counts = json.loads((folder / WHOLE).read_text(encoding="utf-8"))
    if not counts["records"]:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts["refused"].items()) or "-"
        raise UserError(
            say(f"no record is left to learn from (refused: {reasons})", f"没有可学习的记录（拒收：{reasons}）"),
            "data",
            say("a longer row_length takes longer records", "增大 row_length 可容纳更长的记录"),
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
    `ids[start + 1:end + 1]`, so pieces of a cut document share one token and none goes unlearnt."""

    example: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Pass:
    """What goes through the model at once: documents end to end, padded by one more.

    `ids` and `positions` [1, tokens]; `learnt` [n] are the positions whose next token, `targets` [n], is learnt, in
    the order of the segments (a position stands there twice where two answers follow one prompt); `counts` says how
    many of them each segment has; `units` are the rows or pairs the pass is made of.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    learnt: torch.Tensor
    targets: torch.Tensor
    counts: tuple[int, ...]
    documents: Documents
    units: tuple[int, ...]
    tokens: int

    def to(self, device: torch.device) -> Pass:
        if device.type == "cpu":
            return self
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            learnt=self.learnt.to(device),
            targets=self.targets.to(device),
        )


@dataclass(frozen=True)
class Rows:
    """Units that the data's order is made of: packed rows, or pairs that stay together. Each is a list of segments.

    `shared` [examples] is how many positions at its beginning an example has in common with the one before it in its
    unit: these go through the model once. Empty: none has any.
    """

    encoded: EncodedRecords
    units: Sequence[Sequence[Segment]]
    shared: Sequence[int] | np.ndarray = ()

    @classmethod
    def packed(cls, encoded: EncodedRecords, row_length: int) -> Rows:
        """Whole examples, each in one row."""
        lengths = encoded.lengths.tolist()
        rows = pack(lengths, row_length)
        return cls(encoded, [[Segment(place, 0, lengths[place]) for place in row] for row in rows])

    @classmethod
    def cut(cls, encoded: EncodedRecords, row_length: int) -> Rows:
        """Documents of any length, cut where a row is full."""
        rows = pack_documents(encoded.lengths.tolist(), row_length)
        return cls(encoded, [[Segment(*piece) for piece in row] for row in rows])

    @classmethod
    def paired(cls, encoded: EncodedRecords, share: bool = True) -> Rows:
        """Each record a unit of its own, with all its examples. The second answer of a pair stands behind the prompt of
        the first, unless `share` says that it brings its own."""
        lengths = encoded.lengths.tolist()
        width = encoded.width
        firsts = range(0, len(lengths), width)
        units = [[Segment(i, 0, lengths[i]) for i in range(first, first + width)] for first in firsts]
        return cls(encoded, units, _shared_positions(encoded) if share and width == 2 else ())

    def _shared(self, segment: Segment) -> int:
        return int(self.shared[segment.example]) if len(self.shared) else 0

    @cached_property
    def sizes(self) -> np.ndarray:
        """Tokens of each unit."""
        return np.asarray(
            [sum(piece.end - piece.start - self._shared(piece) for piece in unit) for unit in self.units],
            dtype=np.int64,
        )

    @cached_property
    def learnt_tokens(self) -> int:
        """Tokens that are learnt when every unit is seen once."""
        first = self.encoded.starts[:-1]  # the first token of an example is never asked for
        return int(self.encoded.learn[: int(self.encoded.starts[-1])].sum() - self.encoded.learn[first].sum())

    def passes(self, units: Sequence[int] | np.ndarray, pass_tokens: int) -> Iterator[Pass]:
        """The units in passes of at most `pass_tokens`, or of one unit where that is longer."""
        taken: list[int] = []
        size = 0
        for unit in units:
            if taken and size + self.sizes[unit] > pass_tokens:
                yield self.collate(taken)
                taken, size = [], 0
            taken.append(int(unit))
            size += int(self.sizes[unit])
        if taken:
            yield self.collate(taken)

    def collate(self, units: Sequence[int]) -> Pass:
        segments = [segment for unit in units for segment in self.units[unit]]
        lengths = [segment.end - segment.start for segment in segments]
        shared = [self._shared(segment) for segment in segments]
        tokens = sum(lengths) - sum(shared)
        padding = -tokens % (PAD_STEP if tokens > PAD_STEP else PAD_STEP // 4)
        documents = Documents(lengths + [padding] * (padding > 0), shared + [0] * (padding > 0))
        ids = np.zeros(tokens + padding, dtype=np.int64)
        positions = np.zeros(tokens + padding, dtype=np.int64)
        learnt, targets = [], []
        for document, segment in enumerate(segments):
            tokens_read, learnt_of_them = self.encoded.read(segment)
            places = documents.places(document)
            ids[places] = tokens_read[:-1]
            positions[places] = np.arange(len(places))
            learnt.append(places[learnt_of_them[1:]])
            targets.append(tokens_read[1:][learnt_of_them[1:]])
        positions[tokens:] = np.arange(padding)
        return Pass(
            ids=torch.from_numpy(ids)[None],
            positions=torch.from_numpy(positions)[None],
            learnt=torch.from_numpy(np.concatenate(learnt)),
            targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
            counts=tuple(len(found) for found in learnt),
            documents=documents,
            units=tuple(units),
            tokens=tokens,
        )

    def record_ids(self, units: Sequence[int]) -> list[str]:
        """Ids of the records that lie in these units."""
        return self.encoded.record_ids(s.example // self.encoded.width for unit in units for s in self.units[unit])


def _shared_positions(encoded: EncodedRecords) -> np.ndarray:
    """Of each example of pairs [examples], the positions at its beginning that read what the other answer's do: 0 for
    the first of a pair, and for the second as many tokens as both begin with, but no more than either has positions."""
    shared = np.zeros(len(encoded.starts) - 1, dtype=np.int64)
    bounds = encoded.starts.tolist()
    for second in range(1, len(shared), 2):
        begin, middle, end = bounds[second - 1 : second + 2]
        length = min(middle - begin, end - middle) - 1
        differs = encoded.ids[begin : begin + length] != encoded.ids[middle : middle + length]
        shared[second] = int(differs.argmax()) if differs.any() else length
    return shared


@dataclass(frozen=True, slots=True)
class Order:
    """Which units each step learns from: another seeded permutation of all of them in every epoch, divided evenly over
    the epoch's steps. The place in the data is the step, so there is nothing else to save."""

    units: int
    steps_per_epoch: int
    seed: int

    @classmethod
    def of(cls, units: int, per_step: int, seed: int) -> Order:
        return cls(units, max(1, round(units / per_step)), seed)

    def steps(self, epochs: float, steps: int | None) -> int:
        return steps if steps is not None else max(1, round(epochs * self.steps_per_epoch))

    def units_of(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self.steps_per_epoch)
        bounds = [self.units * edge // self.steps_per_epoch for edge in (place, place + 1)]
        return _permutation(self.units, self.seed, epoch)[bounds[0] : bounds[1]]


@lru_cache(maxsize=2)
def _permutation(units: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(units)
