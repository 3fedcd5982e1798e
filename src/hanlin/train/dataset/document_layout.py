"""Where the documents of a micro-batch begin and end, as attention needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

LENGTH_MULTIPLE = 16
"""The length of a group is rounded up to a multiple: a new shape costs a new kernel (0.6 ms in bfloat16 on a CPU)."""
MAX_LENGTH_RATIO = 1.5
"""Documents share a group while the longest is at most this many times the shortest."""
MAX_MATMUL_LENGTH = {torch.float32: 96, torch.bfloat16: 1024}
"""On a CPU, up to this length plain matrix products are faster than the fused kernel, forward and backward together:
of 1,024 tokens with 8 heads of 64, documents of 64 took 6.3 ms against 9.6 in float32 and 4.9 against 24.5 in bfloat16,
documents of 512 took 53 against 37 and 17 against 29."""

Cached = TypeVar("Cached")


@dataclass(frozen=True, slots=True)
class DocumentGroup:
    """Documents of similar length side by side.

    Attributes:
        token_index: The tokens of the micro-batch that fill the group, int64 [count, length]. Padding repeats the last
            token of a document; documents that only fill up the count repeat the first token of the micro-batch.
        count: Documents.
        length: Tokens of each, padded.
    """

    token_index: torch.Tensor
    count: int
    length: int


class RegroupIndex(NamedTuple):
    """How vectors move from the order of a micro-batch to that of the groups, and back.

    Attributes:
        gather_index: For each group the rows [count · heads · length] that fill it, in the order document, head, token.
        scatter_index: Where each row of the micro-batch is in the groups end to end [tokens · heads].
        shared: If a prompt is shared: where its further copies are in the groups, and the rows that they are copies of.
    """

    gather_index: tuple[torch.Tensor, ...]
    scatter_index: torch.Tensor
    shared: tuple[torch.Tensor, torch.Tensor] | None


class VarlenLayout(NamedTuple):
    """Documents end to end as FlashAttention's varlen kernels take them; shared tokens before each that shares them.

    Attributes:
        cu_seqlens: Where each document begins, and the end of the last, int32 [documents + 1].
        max_seqlen: Tokens of the longest document.
        regroup: How tokens move there; None if they are there in the order of the micro-batch.
    """

    cu_seqlens: torch.Tensor
    max_seqlen: int
    regroup: RegroupIndex | None


class DocumentLayout:
    """Which documents a micro-batch holds, and how its tokens are regrouped for attention.

    A pair whose answers A and B follow one prompt P of 4 tokens is two documents; the prompt is there once:

        lengths           6 7             P and A, P and B
        shared_lengths    0 4             the second reads P from the first
        micro-batch       P P P P A A B B B
        token_index(1)    0 1 2 3 6 7 8

    Neither answer sees the other. The vector of a token [heads, d] counts as `heads` rows of d numbers, so that a group
    comes out as batched matrix products take it.

    Attributes:
        lengths: Tokens of each document, shared ones included, int64 [documents].
        shared_lengths: How many tokens at its start each shares with the nearest document before it that shares none.
        starts: Where the own tokens of each document begin in the micro-batch.
        prefix_starts: Where the tokens that it shares begin.
        tokens: Tokens of the micro-batch.
    """

    def __init__(self, lengths: Sequence[int], shared_lengths: Sequence[int] | None = None) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        no_shared = shared_lengths is None
        self.shared_lengths = np.zeros_like(self.lengths) if no_shared else np.asarray(shared_lengths, dtype=np.int64)
        own = self.lengths - self.shared_lengths
        self.starts = np.cumsum(own) - own
        self.tokens = int(own.sum())
        unshared = np.where(self.shared_lengths == 0, np.arange(len(own)), -1)
        self.prefix_starts = self.starts[np.maximum.accumulate(unshared)] if len(own) else self.starts
        self._cache: dict[Any, Any] = {}

    def cached(self, key: Any, compute: Callable[[], Cached]) -> Cached:
        """Compute a value once for all layers of the model."""
        if key not in self._cache:
            self._cache[key] = compute()
        value: Cached = self._cache[key]
        return value

    def token_index(self, document: int) -> np.ndarray:
        """Where each token of a document is in the micro-batch [length]."""
        return self._token_index(np.asarray([document]), np.arange(self.lengths[document]))[0]

    def _token_index(self, documents: np.ndarray, within: np.ndarray) -> np.ndarray:
        """Where the tokens `within` ([n], or [documents, n]) each of the documents are, [documents, n]."""
        shared = self.shared_lengths[documents, None]
        own = self.starts[documents, None] - shared
        return np.where(within < shared, self.prefix_starts[documents, None], own) + within

    @cached_property
    def groups(self) -> tuple[DocumentGroup, ...]:
        """The documents in groups of similar length, the longest first."""
        return self._grouped[0]

    @cached_property
    def _grouped(self) -> tuple[tuple[DocumentGroup, ...], np.ndarray, np.ndarray]:
        """The groups; for each document, where it begins in the groups end to end, and the length of its group."""
        starts, padded_lengths = np.empty_like(self.lengths), np.empty_like(self.lengths)
        groups = []
        offset = 0
        order = np.argsort(-self.lengths, kind="stable")
        while len(order):
            shortest = self.lengths[order[0]] / MAX_LENGTH_RATIO
            members = order[: int(np.searchsorted(-self.lengths[order], -shortest, side="right"))]
            order = order[len(members) :]
            length = -(-int(self.lengths[members[0]]) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
            count = _round_count(len(members))
            token_index = np.zeros((count, length), dtype=np.int64)
            within = np.minimum(np.arange(length)[None, :], self.lengths[members][:, None] - 1)
            token_index[: len(members)] = self._token_index(members, within)
            starts[members] = offset + np.arange(len(members)) * length
            padded_lengths[members] = length
            groups.append(DocumentGroup(torch.from_numpy(token_index), count, length))
            offset += count * length
        return tuple(groups), starts, padded_lengths

    def regroup_index(self, heads: int, device: torch.device) -> RegroupIndex:
        """How vectors of so many heads move into the groups and back."""
        return self.cached(heads, lambda: self._group_rows(heads, device))

    def _group_rows(self, heads: int, device: torch.device) -> RegroupIndex:
        groups, starts, padded_lengths = self._grouped
        head = torch.arange(heads)
        gather_index = [
            (group.token_index[:, None, :] * heads + head[None, :, None]).reshape(-1).to(device) for group in groups
        ]
        return self._with_way_back(gather_index, starts, padded_lengths, heads, device)

    def _with_way_back(
        self,
        gather_index: Sequence[torch.Tensor],
        starts: np.ndarray,
        padded_lengths: np.ndarray,
        heads: int,
        device: torch.device,
    ) -> RegroupIndex:
        """Add the way back to `gather_index`; each document begins at `starts` and takes `padded_lengths` tokens a
        head.
        """
        head = torch.arange(heads)

        def rows_of(counts: np.ndarray, firsts: np.ndarray) -> torch.Tensor:
            """Where `counts` tokens of each document are, from its token `firsts` on."""
            within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts - firsts, counts)
            row = torch.from_numpy(np.repeat(starts, counts) * heads + within)
            step = torch.from_numpy(np.repeat(padded_lengths, counts))
            return (row[:, None] + step[:, None] * head).reshape(-1).to(device)

        shared = None
        if self.shared_lengths.any():
            prefixes = [
                start + np.arange(length) for start, length in zip(self.prefix_starts, self.shared_lengths, strict=True)
            ]
            tokens = torch.from_numpy(np.concatenate(prefixes))
            shared = (
                rows_of(self.shared_lengths, np.zeros_like(self.shared_lengths)),
                (tokens[:, None] * heads + head).reshape(-1).to(device),
            )
        scatter_index = rows_of(self.lengths - self.shared_lengths, self.shared_lengths)
        return RegroupIndex(tuple(gather_index), scatter_index, shared)

    def varlen_layout(self, device: torch.device) -> VarlenLayout:
        """The documents end to end."""
        return self.cached("varlen", lambda: self._varlen_layout(device))

    def _varlen_layout(self, device: torch.device) -> VarlenLayout:
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        regroup = None
        if self.shared_lengths.any():
            order = np.concatenate([self.token_index(document) for document in range(len(self.lengths))])
            gather_index = [torch.from_numpy(order).to(device)]
            regroup = self._with_way_back(gather_index, bounds[:-1], np.zeros_like(self.lengths), 1, device)
        cu_seqlens = torch.from_numpy(bounds.astype(np.int32)).to(device)
        return VarlenLayout(cu_seqlens, int(self.lengths.max()), regroup)

    def token_owners(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For each token of the micro-batch [tokens]: its document, and where the tokens that this shares begin and
        end.
        """
        own = self.lengths - self.shared_lengths
        columns = (np.arange(len(own)), self.prefix_starts, self.prefix_starts + self.shared_lengths)
        document, start, end = (torch.from_numpy(np.repeat(column, own)) for column in columns)
        return document, start, end


def _round_count(count: int) -> int:
    """`count` with three significant binary digits, rounded up: few shapes, at most a fifth more documents."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step
