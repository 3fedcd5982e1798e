"""Where the documents of a packed row begin and end, as attention needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

LENGTH_STEP = 16


SPREAD = 1.5


LONGEST_PRODUCT = {torch.float32: 96, torch.bfloat16: 1024}


Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class Group:
    """Documents laid side by side: `tokens` [count, length] are the places in the pass that fill them. Padding repeats
    a document's last token, and documents that only fill up the count repeat the first token of the pass."""

    tokens: torch.Tensor
    count: int
    length: int


class Laid(NamedTuple):
    """Where numbers go when a pass is regrouped: `taken`, for each group, the rows [count · heads · length] that fill
    it, in the order document, head, token; `back` [tokens · heads], where each row then lies in the groups end to end;
    `copies`, where shared rows lie in the groups once more, and the rows of the pass that they are."""

    taken: tuple[torch.Tensor, ...]
    back: torch.Tensor
    copies: tuple[torch.Tensor, torch.Tensor] | None


class InLine(NamedTuple):
    """Documents laid end to end, shared tokens before each that shares them: `edges` [documents + 1] int32 are where
    each begins, and the end; `longest` is the longest's length; `laid` says which tokens fill the line, None where they
    are those of the pass in their order."""

    edges: torch.Tensor
    longest: int
    laid: Laid | None


class Documents:
    """Which documents lie in a pass, and how its tokens are regrouped for attention.

    `lengths` are the documents' tokens; the first `shared[i]` tokens of document i are not its own: they are those of
    the nearest document before it that shares nothing. Own tokens lie end to end in the pass. So two answers can stand
    behind one prompt: neither sees the other, and the prompt lies in the pass once.

    A token's vector [heads, d] counts as rows of d numbers, so that a group comes out as batched products take it.
    """

    def __init__(self, lengths: Sequence[int], shared: Sequence[int] | None = None) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.shared = np.zeros_like(self.lengths) if shared is None else np.asarray(shared, dtype=np.int64)
        own = self.lengths - self.shared
        self.starts = np.cumsum(own) - own
        """Of each document, where its own tokens begin in the pass."""
        self.tokens = int(own.sum())
        whole = np.where(self.shared == 0, np.arange(len(own)), -1)
        self.bases = self.starts[np.maximum.accumulate(whole)] if len(own) else self.starts
        """Of each document, where the tokens that it shares begin."""
        self._kept: dict[Any, Any] = {}

    def kept(self, name: Any, make: Callable[[], Kept]) -> Kept:
        """What `make` gives, made once in a pass, for all layers."""
        if name not in self._kept:
            self._kept[name] = make()
        found: Kept = self._kept[name]
        return found

    def places(self, document: int) -> np.ndarray:
        """Where each of a document's tokens lies in the pass, [length]."""
        return self._places(np.asarray([document]), np.arange(self.lengths[document]))[0]

    def _places(self, documents: np.ndarray, within: np.ndarray) -> np.ndarray:
        """Places in the pass [documents, n] of the tokens `within` ([n], or [documents, n]) each of the documents."""
        shared = self.shared[documents, None]
        own = self.starts[documents, None] - shared
        return np.where(within < shared, self.bases[documents, None], own) + within

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        return self._grouped[0]

    @cached_property
    def _grouped(self) -> tuple[tuple[Group, ...], np.ndarray, np.ndarray]:
        """The groups; of each document, where it begins in them laid end to end, and its group's length."""
        begins, padded = np.empty_like(self.lengths), np.empty_like(self.lengths)
        groups = []
        offset = 0
        order = np.argsort(-self.lengths, kind="stable")
        while len(order):
            shortest = self.lengths[order[0]] / SPREAD
            members = order[: int(np.searchsorted(-self.lengths[order], -shortest, side="right"))]
            order = order[len(members) :]
            length = -(-int(self.lengths[members[0]]) // LENGTH_STEP) * LENGTH_STEP
            count = _round_count(len(members))
            tokens = np.zeros((count, length), dtype=np.int64)
            within = np.minimum(np.arange(length)[None, :], self.lengths[members][:, None] - 1)
            tokens[: len(members)] = self._places(members, within)
            begins[members] = offset + np.arange(len(members)) * length
            padded[members] = length
            groups.append(Group(torch.from_numpy(tokens), count, length))
            offset += count * length
        return tuple(groups), begins, padded

    def laid(self, heads: int, device: torch.device) -> Laid:
        """The rows of the groups for vectors of so many heads."""
        return self.kept(heads, lambda: self._laid(heads, device))

    def _laid(self, heads: int, device: torch.device) -> Laid:
        groups, begins, padded = self._grouped
        head = torch.arange(heads)
        taken = [(g.tokens[:, None, :] * heads + head[None, :, None]).reshape(-1).to(device) for g in groups]
        return self._rows(taken, begins, padded, heads, device)

    def _rows(
        self, taken: Sequence[torch.Tensor], begins: np.ndarray, padded: np.ndarray, heads: int, device: torch.device
    ) -> Laid:
        """`taken`, and the way back from it; each document begins at `begins`, laid out to `padded` tokens a head."""
        head = torch.arange(heads)

        def rows(counts: np.ndarray, firsts: np.ndarray) -> torch.Tensor:
            """Where `counts` tokens of each document lie, from its token `firsts` on."""
            within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts - firsts, counts)
            row = torch.from_numpy(np.repeat(begins, counts) * heads + within)
            step = torch.from_numpy(np.repeat(padded, counts))
            return (row[:, None] + step[:, None] * head).reshape(-1).to(device)

        copies = None
        if self.shared.any():
            of = [base + np.arange(shared) for base, shared in zip(self.bases, self.shared, strict=True)]
            tokens = torch.from_numpy(np.concatenate(of))
            copies = (
                rows(self.shared, np.zeros_like(self.shared)),
                (tokens[:, None] * heads + head).reshape(-1).to(device),
            )
        return Laid(tuple(taken), rows(self.lengths - self.shared, self.shared), copies)

    def in_line(self, device: torch.device) -> InLine:
        """The documents one after the other."""
        return self.kept("line", lambda: self._in_line(device))

    def _in_line(self, device: torch.device) -> InLine:
        edges = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])
        laid = None
        if self.shared.any():
            order = torch.from_numpy(np.concatenate([self.places(number) for number in range(len(self.lengths))]))
            laid = self._rows([order.to(device)], edges[:-1], np.zeros_like(self.lengths), 1, device)
        return InLine(torch.from_numpy(edges.astype(np.int32)).to(device), int(self.lengths.max()), laid)

    def owners(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each token of the pass [tokens]: its document, and where the tokens that this shares begin and end."""
        own = self.lengths - self.shared
        found = (np.arange(len(own)), self.bases, self.bases + self.shared)
        owner, base, end = (torch.from_numpy(np.repeat(numbers, own)) for numbers in found)
        return owner, base, end


def _round_count(count: int) -> int:
    """`count` with three significant binary digits, rounded up: few shapes, at most a fifth more documents."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step
