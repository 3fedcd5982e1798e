"""Packed samples, and the tensors that go through the model at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from hanlin.train.dataset.document_layout import DocumentLayout
from hanlin.train.dataset.encoded import EncodedRecords, Segment
from hanlin.train.dataset.packing import pack, pack_documents

PAD_MULTIPLE = 256
"""A micro-batch is padded to a multiple of this: every new shape costs new kernels (2 ms for each matrix product in
bfloat16 on a CPU)."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What goes through the model at once: documents end to end, then padding as one more document.

    Two documents, the first a question 5 6 with the answer 7 8, the second a plain text 3 4:

        input_ids           5 6 7 3 0 0     the last token of each document is only predicted
        position_ids        0 1 2 0 0 1     they begin anew with every document; the last two are padding
        target_positions    1 2 3           hidden states whose next token is learned
        targets             7 8 4
        target_counts       (2, 1)

    Attributes:
        input_ids: Token ids, int64 [1, padded tokens].
        position_ids: Positions within the documents, int64 [1, padded tokens].
        target_positions: Indices into `input_ids`, int64 [n], in the order of the segments; a position occurs twice if
            two answers follow one prompt.
        targets: The token id to predict at each of these, int64 [n].
        target_counts: Targets of each segment.
        documents: The documents, as attention needs them.
        sample_indices: The samples of the dataset that the micro-batch holds.
        tokens: Tokens without padding.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    target_positions: torch.Tensor
    targets: torch.Tensor
    target_counts: tuple[int, ...]
    documents: DocumentLayout
    sample_indices: tuple[int, ...]
    tokens: int

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device; itself on a CPU."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            target_positions=self.target_positions.to(device),
            targets=self.targets.to(device),
        )


@dataclass(frozen=True)
class PackedDataset:
    """Samples over encoded records: packed rows, or preference pairs that stay together.

    Attributes:
        encoded: The token ids.
        samples: Each a list of segments.
        shared_lengths: For each example, how many positions at its start it has in common with the one before it in its
            sample [examples]: these go through the model once. Empty if none has any.
    """

    encoded: EncodedRecords
    samples: Sequence[Sequence[Segment]]
    shared_lengths: Sequence[int] | np.ndarray = ()

    @classmethod
    def pack_examples(cls, encoded: EncodedRecords, max_seq_length: int) -> PackedDataset:
        """Pack whole examples into rows; none is cut."""
        lengths = encoded.lengths.tolist()
        rows = pack(lengths, max_seq_length)
        return cls(encoded, [[Segment(index, 0, lengths[index]) for index in row] for row in rows])

    @classmethod
    def pack_documents(cls, encoded: EncodedRecords, max_seq_length: int) -> PackedDataset:
        """Pack documents of any length into rows; one is cut where a row is full."""
        rows = pack_documents(encoded.lengths.tolist(), max_seq_length)
        return cls(encoded, [[Segment(*part) for part in row] for row in rows])

    @classmethod
    def from_records(cls, encoded: EncodedRecords, share_prompt: bool = True) -> PackedDataset:
        """Make each record a sample of its own, with all its examples.

        Args:
            encoded: Records of one example, or of two (pairs).
            share_prompt: The second answer of a pair follows the prompt of the first, which goes through the model
                once; otherwise it brings its own.
        """
        lengths = encoded.lengths.tolist()
        width = encoded.width
        firsts = range(0, len(lengths), width)
        samples = [[Segment(i, 0, lengths[i]) for i in range(first, first + width)] for first in firsts]
        return cls(encoded, samples, _shared_prefix_lengths(encoded) if share_prompt and width == 2 else ())

    def _shared_length(self, segment: Segment) -> int:
        return int(self.shared_lengths[segment.example]) if len(self.shared_lengths) else 0

    @cached_property
    def sample_lengths(self) -> np.ndarray:
        """Tokens of each sample, int64 [samples]."""
        return np.asarray(
            [sum(part.end - part.start - self._shared_length(part) for part in sample) for sample in self.samples],
            dtype=np.int64,
        )

    @cached_property
    def target_tokens(self) -> int:
        """Tokens that are learned when every sample is seen once."""
        first = self.encoded.starts[:-1]  # the first token of an example is never a target
        mask = self.encoded.loss_mask
        return int(mask[: int(self.encoded.starts[-1])].sum() - mask[first].sum())

    def micro_batches(self, indices: Sequence[int] | np.ndarray, micro_batch_tokens: int) -> Iterator[MicroBatch]:
        """Collate samples into micro-batches of at most `micro_batch_tokens`, or of one sample that is longer."""
        batch: list[int] = []
        tokens = 0
        for index in indices:
            if batch and tokens + self.sample_lengths[index] > micro_batch_tokens:
                yield self.collate(batch)
                batch, tokens = [], 0
            batch.append(int(index))
            tokens += int(self.sample_lengths[index])
        if batch:
            yield self.collate(batch)

    def collate(self, indices: Sequence[int]) -> MicroBatch:
        """Lay the documents of samples end to end and pad them."""
        segments = [segment for index in indices for segment in self.samples[index]]
        lengths = [segment.end - segment.start for segment in segments]
        shared = [self._shared_length(segment) for segment in segments]
        tokens = sum(lengths) - sum(shared)
        padding = -tokens % (PAD_MULTIPLE if tokens > PAD_MULTIPLE else PAD_MULTIPLE // 4)
        documents = DocumentLayout(lengths + [padding] * (padding > 0), shared + [0] * (padding > 0))
        input_ids = np.zeros(tokens + padding, dtype=np.int64)
        position_ids = np.zeros(tokens + padding, dtype=np.int64)
        target_positions, targets = [], []
        for document, segment in enumerate(segments):
            ids, loss_mask = self.encoded.read(segment)
            token_index = documents.token_index(document)
            input_ids[token_index] = ids[:-1]
            position_ids[token_index] = np.arange(len(token_index))
            target_positions.append(token_index[loss_mask[1:]])
            targets.append(ids[1:][loss_mask[1:]])
        position_ids[tokens:] = np.arange(padding)
        return MicroBatch(
            input_ids=torch.from_numpy(input_ids)[None],
            position_ids=torch.from_numpy(position_ids)[None],
            target_positions=torch.from_numpy(np.concatenate(target_positions)),
            targets=torch.from_numpy(np.concatenate(targets).astype(np.int64)),
            target_counts=tuple(len(positions) for positions in target_positions),
            documents=documents,
            sample_indices=tuple(indices),
            tokens=tokens,
        )

    def record_ids(self, indices: Sequence[int]) -> list[str]:
        """Ids of the records that these samples hold."""
        width = self.encoded.width
        return self.encoded.record_ids(part.example // width for index in indices for part in self.samples[index])


def _shared_prefix_lengths(encoded: EncodedRecords) -> np.ndarray:
    """For each example of pairs, the positions at its start that read what those of the other answer read.

    It is 0 for the first of a pair; for the second as many tokens as both begin with, but no more than either has
    positions: of the tokens 5 6 7 8 and 5 6 9, the second example shares 2.
    """
    shared = np.zeros(len(encoded.starts) - 1, dtype=np.int64)
    bounds = encoded.starts.tolist()
    for second in range(1, len(shared), 2):
        start, middle, end = bounds[second - 1 : second + 2]
        length = min(middle - start, end - middle) - 1
        differs = encoded.ids[start : start + length] != encoded.ids[middle : middle + length]
        shared[second] = int(differs.argmax()) if differs.any() else length
    return shared
