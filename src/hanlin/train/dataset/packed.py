"""The packed dataset, and its collation into the micro-batches that the model is run on."""

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
"""The tokens of a micro-batch are padded to a multiple of this, or of a quarter of it if there are no more than this:
every new shape costs new kernels (2 ms for each matrix product in bfloat16 on a CPU)."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The tensors of one forward and backward pass: documents end to end, then padding as one more document.

    Two documents, the first a question 5 6 with the answer 7 8, the second a plain text 3 4, and two tokens of padding:

        input_ids           5 6 7 3 0 0     the last token of a document is a target only
        position_ids        0 1 2 0 0 1     they restart at 0 with every document, padding included
        target_positions    1 2 3           positions whose next token is a target
        targets             7 8 4
        target_counts       (2, 1)

    Attributes:
        input_ids: Token ids, int64 [1, padded tokens].
        position_ids: Positions within the documents, int64 [1, padded tokens].
        target_positions: Indices into `input_ids`, int64 [n], in the order of the segments; a position occurs twice if
            two answers follow one shared prompt.
        targets: The token id to predict at each target position, int64 [n].
        target_counts: Number of targets of each segment, [segments].
        documents: The boundaries of the documents, for attention.
        sample_indices: Indices of the samples in the dataset, in the order of the micro-batch.
        tokens: Number of tokens without padding.
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
        """Return a copy with its tensors on `device`; the micro-batch itself if the device is a CPU."""
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
    """Encoded records grouped into samples: packed rows, or single records such as preference pairs.

    Attributes:
        encoded: Token ids and loss masks of all examples.
        samples: The segments of each sample, [samples][segments].
        shared_lengths: For each example, how many positions at its start equal those of the example before it in its
            sample, int64 [examples]; the model computes these once. Empty if no prompt is shared.
    """

    encoded: EncodedRecords
    samples: Sequence[Sequence[Segment]]
    shared_lengths: Sequence[int] | np.ndarray = ()

    @classmethod
    def pack_examples(cls, encoded: EncodedRecords, max_seq_length: int) -> PackedDataset:
        """Pack whole examples into rows of at most `max_seq_length` positions, by best fit decreasing (see `pack`).

        Raises:
            UserError: An example is longer than a row.
        """
        lengths = encoded.lengths.tolist()
        rows = pack(lengths, max_seq_length)
        return cls(encoded, [[Segment(index, 0, lengths[index]) for index in row] for row in rows])

    @classmethod
    def pack_documents(cls, encoded: EncodedRecords, max_seq_length: int) -> PackedDataset:
        """Pack documents of any length into rows of `max_seq_length` positions, cutting a document if a row is full."""
        rows = pack_documents(encoded.lengths.tolist(), max_seq_length)
        return cls(encoded, [[Segment(*bounds) for bounds in row] for row in rows])

    @classmethod
    def from_records(cls, encoded: EncodedRecords, share_prompt: bool = True) -> PackedDataset:
        """Make each record a sample of its own, with all its examples.

        Args:
            encoded: Records of one example each, or of two (preference pairs).
            share_prompt: Compute the common prompt of a pair once, for both answers; if false, each answer has its own
                copy of it.

        Returns:
            A dataset with one sample for each record, in their order.
        """
        lengths = encoded.lengths.tolist()
        width = encoded.width
        firsts = range(0, len(lengths), width)
        samples = [[Segment(index, 0, lengths[index]) for index in range(first, first + width)] for first in firsts]
        return cls(encoded, samples, _shared_prefix_lengths(encoded) if share_prompt and width == 2 else ())

    def _shared_length(self, segment: Segment) -> int:
        return int(self.shared_lengths[segment.example]) if len(self.shared_lengths) else 0

    @cached_property
    def sample_lengths(self) -> np.ndarray:
        """Tokens that the model reads for each sample, a shared prompt once, int64 [samples]."""
        return np.asarray(
            [
                sum(segment.end - segment.start - self._shared_length(segment) for segment in sample)
                for sample in self.samples
            ],
            dtype=np.int64,
        )

    @cached_property
    def target_tokens(self) -> int:
        """Number of targets of one epoch."""
        first = self.encoded.starts[:-1]  # the first token of an example is never a target
        mask = self.encoded.loss_mask
        return int(mask[: int(self.encoded.starts[-1])].sum() - mask[first].sum())

    def micro_batches(self, indices: Sequence[int] | np.ndarray, micro_batch_tokens: int) -> Iterator[MicroBatch]:
        """Collate samples into micro-batches, in the order of `indices`.

        Args:
            indices: Indices of the samples, [n].
            micro_batch_tokens: Most tokens of a micro-batch, without padding; a longer sample is a micro-batch alone.

        Yields:
            Micro-batches of consecutive samples.
        """
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
        """Concatenate the documents of samples and pad them.

        Args:
            indices: Indices of the samples, at least one.

        Returns:
            Their micro-batch, with tensors on the CPU.
        """
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
        """Return the ids of the records of these samples, one for each segment, to name them in messages."""
        width = self.encoded.width
        return self.encoded.record_ids(segment.example // width for index in indices for segment in self.samples[index])


def _shared_prefix_lengths(encoded: EncodedRecords) -> np.ndarray:
    """Compute how many positions at its start each second example of a pair has in common with the first.

    A position is a token that the model reads, so the last token of an example has none:

        ids of a pair    5 6 7 8 and 5 6 9    ->  0 2
        ids of a pair    5 6 7 and 5 6 7      ->  0 2

    Args:
        encoded: Records of two examples each.

    Returns:
        int64 [examples]; 0 for the first example of each pair.
    """
    shared = np.zeros(len(encoded.starts) - 1, dtype=np.int64)
    bounds = encoded.starts.tolist()
    for second in range(1, len(shared), 2):
        start, middle, end = bounds[second - 1 : second + 2]
        length = min(middle - start, end - middle) - 1
        differs = encoded.ids[start : start + length] != encoded.ids[middle : middle + length]
        shared[second] = int(differs.argmax()) if differs.any() else length
    return shared
