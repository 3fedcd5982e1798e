"""The two ends of a network: the table that reads tokens and the head that writes them, whole or some rows trained.

Owns how a trained row stands in for the frozen one, and gets its gradient. Does not own the head's loss (`losses`) or
which rows are trained (`trained_part`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional


class Head(Protocol):
    """The output head: `weight` [entries, width] carries the gradient, `cast` are its numbers as a step uses them."""

    cast: torch.Tensor

    @property
    def weight(self) -> torch.Tensor: ...

    def refresh(self, number_format: torch.dtype) -> None: ...


class Embeddings:
    """The table of embeddings [entries, width]; where `ids` are given, `rows` [ids, width] stand in for theirs."""

    def __init__(
        self,
        weight: torch.Tensor,
        padding: int | None,
        ids: Sequence[int] = (),
        rows: nn.Parameter | None = None,
    ) -> None:
        self.weight, self.padding, self.rows = weight, padding, rows
        self._places = torch.full((len(weight),), -1, device=weight.device)
        if rows is not None:
            self._places[list(ids)] = torch.arange(len(ids), device=weight.device)

    def read(self, ids: torch.Tensor) -> torch.Tensor:
        """The rows of `ids` [tokens], float32 [tokens, width]."""
        found = functional.embedding(ids, self.weight, self.padding).float()
        if self.rows is None:
            return found
        places = self._places[ids]
        return torch.where(places[:, None] >= 0, self.rows[places.clamp(min=0)].float(), found)


def noise(positions: torch.Tensor, width: int, alpha: float) -> torch.Tensor:
    """Uniform noise for embeddings [tokens, width], within alpha / sqrt(length · width) of a document of `length`
    (NEFTune, Jain et al. 2023, arXiv:2310.05914, algorithm 1). `positions` [tokens] are 0 where a document begins, so
    that what a document gets does not depend on those that it is packed with."""
    document = (positions == 0).cumsum(0) - 1
    lengths = torch.bincount(document)[document]
    drawn = torch.empty((len(positions), width), device=positions.device).uniform_(-1, 1)
    return drawn * (alpha / (lengths * width).sqrt())[:, None]


class PartialHead:
    """An output head of which only some rows are trained: they are written over the frozen ones at each step.

    The loss gives the gradient of the whole head (`losses`), of which the trained rows' part is taken.
    """

    def __init__(self, frozen: torch.Tensor, ids: Sequence[int], rows: nn.Parameter) -> None:
        self._frozen, self._rows = frozen, rows
        self._ids = torch.tensor(list(ids), device=frozen.device)
        self.cast = frozen.detach()

    @property
    def weight(self) -> torch.Tensor:
        found: torch.Tensor = _Rows.apply(self._rows, self._ids, self.cast)
        return found

    @torch.no_grad()
    def refresh(self, number_format: torch.dtype) -> None:
        self.cast = self._frozen.detach().to(number_format)
        self.cast.index_copy_(0, self._ids, self._rows.to(number_format))


class _Rows(torch.autograd.Function):
    """A whole matrix whose gradient is that of its trained rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, ids: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        ctx.ids, ctx.number_format = ids, rows.dtype
        return whole.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient.index_select(0, ctx.ids).to(ctx.number_format), None, None
