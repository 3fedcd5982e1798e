"""The input embeddings and the output head, trained whole or in some rows only.

How a trained row replaces the frozen one and gets its gradient. Which rows are trained is decided in `optim.trainable`;
the head's loss is in `lm_head_loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional


class Head(Protocol):
    """The output head.

    Attributes:
        weight: [vocab_size, hidden_size]; carries the gradient.
        compute_weight: The same in the dtype that a step computes in, as of the last `refresh`.
    """

    compute_weight: torch.Tensor

    @property
    def weight(self) -> torch.Tensor: ...

    def refresh(self, dtype: torch.dtype) -> None: ...


class Embeddings:
    """The embedding table [vocab_size, hidden_size]; trained rows, if any, replace those of the table.

    No row is left out as that of padding, as in torch: padding here is a document of its own that nothing is learned
    from, and in many folders `pad_token_id` is the token that ends a turn, whose row would never be trained.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        token_ids: Sequence[int] = (),
        trained_rows: nn.Parameter | None = None,
    ) -> None:
        """Make the table.

        Args:
            weight: [vocab_size, hidden_size].
            token_ids: The ids whose rows are trained on their own.
            trained_rows: These rows, [len(token_ids), hidden_size].
        """
        self.weight, self.trained_rows = weight, trained_rows
        self._row_of_id = torch.full((len(weight),), -1, device=weight.device)
        if trained_rows is not None:
            self._row_of_id[list(token_ids)] = torch.arange(len(token_ids), device=weight.device)

    def lookup(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The embeddings of `token_ids` [tokens], float32 [tokens, hidden_size]."""
        embedded = functional.embedding(token_ids, self.weight).float()
        if self.trained_rows is None:
            return embedded
        rows = self._row_of_id[token_ids]
        return torch.where(rows[:, None] >= 0, self.trained_rows[rows.clamp(min=0)].float(), embedded)


def neftune_noise(position_ids: torch.Tensor, hidden_size: int, alpha: float) -> torch.Tensor:
    """Uniform noise for embeddings (NEFTune, Jain et al. 2023, arXiv:2310.05914, algorithm 1).

    Args:
        position_ids: [tokens]; 0 where a document begins, so that the noise of a document does not depend on those that
            it is packed with.
        hidden_size: Width of the embeddings.
        alpha: The strength.

    Returns:
        [tokens, hidden_size], within ± alpha / sqrt(length · hidden_size) for a document of `length` tokens.
    """
    document = (position_ids == 0).cumsum(0) - 1
    lengths = torch.bincount(document)[document]
    uniform = torch.empty((len(position_ids), hidden_size), device=position_ids.device).uniform_(-1, 1)
    return uniform * (alpha / (lengths * hidden_size).sqrt())[:, None]


class PartialHead:
    """An output head of which only some rows are trained: they are written over the frozen ones at each step.

    The loss gives the gradient of the whole head, from which that of the trained rows is taken.
    """

    def __init__(self, frozen: torch.Tensor, token_ids: Sequence[int], trained_rows: nn.Parameter) -> None:
        """`frozen` [vocab_size, hidden_size]; `trained_rows` [len(token_ids), hidden_size]."""
        self._frozen, self._trained_rows = frozen, trained_rows
        self._token_ids = torch.tensor(list(token_ids), device=frozen.device)
        self.compute_weight = frozen.detach()

    @property
    def weight(self) -> torch.Tensor:
        full: torch.Tensor = _FullHead.apply(self._trained_rows, self._token_ids, self.compute_weight)
        return full

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype) -> None:
        self.compute_weight = self._frozen.detach().to(dtype)
        self.compute_weight.index_copy_(0, self._token_ids, self._trained_rows.to(dtype))


class _FullHead(torch.autograd.Function):
    """The full weight, whose gradient goes to its trained rows."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, token_ids: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
        ctx.token_ids, ctx.rows_dtype = token_ids, rows.dtype
        return full.detach()

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad_output.index_select(0, ctx.token_ids).to(ctx.rows_dtype), None, None
