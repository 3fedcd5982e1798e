"""Records become token ids once, in files; files become rows; rows become what one pass through the model reads.

Owns encoding to disk, packing, the order of the data, and the tensors of a pass. Does not own what is learned of a
record (`objectives`) or how documents of a pass are kept apart (`attention`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from hanlin.train.dataset.document_layout import Documents
from hanlin.train.dataset.encoded import PAD_STEP, EncodedRecords, Segment
from hanlin.train.dataset.packing import pack, pack_documents

"""Records that are encoded and written together, and the most of them, where each process has some such shards: what a
killed run may have to encode again, for each process. A process is forked for each, which costs as much as some hundred
records."""
"""From so many records on, several processes encode."""
"""From so many records on, getting ready to encode faster takes less time than it saves."""
"""A pass is padded to a multiple: every new shape costs new kernels (2 ms a matrix product in bfloat16 on a CPU)."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What goes through the model at once: documents end to end, padded by one more.

    `ids` and `positions` [1, tokens]; `learned` [n] are the positions whose next token, `targets` [n], is learned, in
    the order of the segments (a position stands there twice where two answers follow one prompt); `counts` says how
    many of them each segment has; `units` are the rows or pairs the pass is made of.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    learned: torch.Tensor
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
            learned=self.learned.to(device),
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
    def packed(cls, encoded: EncodedRecords, max_seq_length: int) -> Rows:
        """Whole examples, each in one row."""
        lengths = encoded.lengths.tolist()
        rows = pack(lengths, max_seq_length)
        return cls(encoded, [[Segment(place, 0, lengths[place]) for place in row] for row in rows])

    @classmethod
    def cut(cls, encoded: EncodedRecords, max_seq_length: int) -> Rows:
        """Documents of any length, cut where a row is full."""
        rows = pack_documents(encoded.lengths.tolist(), max_seq_length)
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
    def target_tokens(self) -> int:
        """Tokens that are learned when every unit is seen once."""
        first = self.encoded.starts[:-1]  # the first token of an example is never asked for
        return int(self.encoded.learn[: int(self.encoded.starts[-1])].sum() - self.encoded.learn[first].sum())

    def passes(self, units: Sequence[int] | np.ndarray, micro_batch_tokens: int) -> Iterator[Pass]:
        """The units in passes of at most `micro_batch_tokens`, or of one unit where that is longer."""
        taken: list[int] = []
        size = 0
        for unit in units:
            if taken and size + self.sizes[unit] > micro_batch_tokens:
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
        learned, targets = [], []
        for document, segment in enumerate(segments):
            tokens_read, learnt_of_them = self.encoded.read(segment)
            places = documents.places(document)
            ids[places] = tokens_read[:-1]
            positions[places] = np.arange(len(places))
            learned.append(places[learnt_of_them[1:]])
            targets.append(tokens_read[1:][learnt_of_them[1:]])
        positions[tokens:] = np.arange(padding)
        return Pass(
            ids=torch.from_numpy(ids)[None],
            positions=torch.from_numpy(positions)[None],
            learned=torch.from_numpy(np.concatenate(learned)),
            targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
            counts=tuple(len(found) for found in learned),
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
