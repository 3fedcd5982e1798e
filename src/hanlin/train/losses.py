"""The output head and its loss, in pieces: the logits of a whole pass never exist at once.

Owns the numbers: log-probabilities of given tokens and their gradients. Does not own which tokens count or what an
objective makes of them (`objectives`).

With Llama 3's 128,256 entries the logits of 4,096 tokens take 2.1 GB in float32, and as much again for their gradient.
Here the logits of a few tokens at a time are computed, turned into log-probabilities and, at once, into the gradient of
the hidden states and of the head (Wijmans et al. 2024, arXiv:2411.09009, have the arithmetic; the order of the work is
another).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

CHUNK_NUMBERS = 1 << 27
"""Logits at a time on a GPU."""
CHUNK_TOKENS = (128, 512)
"""Tokens at a time on a CPU: the least, and the most when the head is trained. Of 3,600 entries, 128 took 68 ms for
4,096 tokens in bfloat16, 1,024 took 94 and 32 took 165; of 32,000 entries a frozen head was fastest at 128, and a
trained one, whose gradient is read and written for each piece, at 512."""


def summed_loss(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor | None = None
) -> torch.Tensor:
    """Minus the sum of log p(target) over all positions, as a float32 scalar with a gradient.

    `hidden` [n, width], `head` [entries, width], `targets` [n] int64. `cast` is the head in the number format of
    `hidden` where that is not its own. Gradients are computed along with the value, so this costs one product with the
    head less than `token_log_probabilities`.
    """
    return _SummedLoss.apply(hidden, head, targets, head.detach() if cast is None else cast)


def token_log_probabilities(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor | None = None
) -> torch.Tensor:
    """log p(target) of each position, float32 [n], with a gradient; arguments as for `summed_loss`.

    Each position's gradient is scaled by what flows back to it, which is known only later: logits are computed twice.
    """
    return _TokenLogProbabilities.apply(hidden, head, targets, head.detach() if cast is None else cast)


def _chunks(hidden: torch.Tensor, head: torch.Tensor) -> Iterator[slice]:
    """Slices of equal size; equal, so that few shapes occur."""
    positions, entries = len(hidden), len(head)
    if hidden.device.type == "cpu":
        least, most = CHUNK_TOKENS
        size = min(max(least, entries // 64), most) if head.requires_grad else least
    else:
        size = max(16, CHUNK_NUMBERS // entries)
    pieces = -(-positions // size)
    if pieces > 1:
        size = -(-positions // (16 * pieces)) * 16
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))


def _log_shares(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """log softmax of a piece's logits, float32 [piece, entries]."""
    return torch.log_softmax((hidden @ head.T).float(), -1)


def _slope(shares: torch.Tensor, found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The gradient of -log p(target) by the logits, p - onehot, in the place of log p. At the target p - 1 is formed
    as expm1(log p): rounded afterwards, an answer that is nearly certain still has a gradient."""
    return shares.exp_().scatter_(1, targets[:, None], torch.expm1(found))


class _Gradients:
    """The gradients of hidden states and head, filled piece by piece; the head's is summed in float32."""

    def __init__(self, hidden: torch.Tensor, head: torch.Tensor, wanted: tuple[bool, ...]) -> None:
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.head = torch.zeros(head.shape, dtype=torch.float32, device=head.device) if wanted[1] else None

    def add(self, piece: slice, slope: torch.Tensor, hidden: torch.Tensor, head: torch.Tensor) -> None:
        """`slope` [piece, entries] is the gradient of the piece's logits."""
        if self.hidden is not None:
            torch.mm(slope, head, out=self.hidden[piece])
        if self.head is not None and slope.dtype == torch.float32:
            self.head.addmm_(slope.T, hidden)
        elif self.head is not None:
            self.head += slope.T @ hidden


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor
    ) -> torch.Tensor:
        gradients = _Gradients(hidden, head, ctx.needs_input_grad)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for piece in _chunks(hidden, head):
            shares = _log_shares(hidden[piece], cast)
            found = shares.gather(1, targets[piece, None])
            total -= found.sum()
            if any(ctx.needs_input_grad):
                slope = _slope(shares, found, targets[piece]).to(hidden.dtype)
                gradients.add(piece, slope, hidden[piece], cast)
        ctx.gradients, ctx.number_format = gradients, head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_hidden, to_head = ctx.gradients.hidden, ctx.gradients.head
        ctx.gradients = None
        if gradient != 1:
            to_hidden = None if to_hidden is None else to_hidden * gradient.to(to_hidden.dtype)
            to_head = None if to_head is None else to_head * gradient
        return to_hidden, None if to_head is None else to_head.to(ctx.number_format), None, None


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor
    ) -> torch.Tensor:
        found = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for piece in _chunks(hidden, head):
            found[piece] = _log_shares(hidden[piece], cast).gather(1, targets[piece, None])[:, 0]
        ctx.save_for_backward(hidden, head, targets)
        ctx.cast = cast
        return found

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, head, targets = ctx.saved_tensors
        gradients = _Gradients(hidden, head, ctx.needs_input_grad)
        for piece in _chunks(hidden, head):
            shares = _log_shares(hidden[piece], ctx.cast)
            found = shares.gather(1, targets[piece, None])
            slope = _slope(shares, found, targets[piece]).mul_(-gradient[piece, None]).to(hidden.dtype)
            gradients.add(piece, slope, hidden[piece], ctx.cast)
        to_head = None if gradients.head is None else gradients.head.to(head.dtype)
        return gradients.hidden, to_head, None, None
