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

from hanlin.train.compute import tiled_loss

CHUNK_NUMBERS = 1 << 27
"""Logits at a time on a GPU."""
TRAINED_TOKENS, LEAST_NUMBERS = 512, 1 << 22
"""Tokens at a time on a CPU with a trained head, whose gradient is read and written for each piece, and more where
these have fewer logits than that. In bfloat16 with AMX, of 128,256 entries and 2,048 tokens, 256 took 1.19 s and 512
took 1.08; of 3,600 entries 256 took 15 ms and 1,024 took 10."""
UNTILED_TOKENS = 256
"""And with a frozen head whose logits are too far from 0 for tiles."""
CACHED = 1 << 18
"""Logits at a time on a CPU that shares are made of: a megabyte in float32, which the caches of two cores hold."""
SMALLEST_SHARE = 1e-30
"""A share below it may have lost digits, and its logarithm is told otherwise."""


def cross_entropy_sum(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor | None = None
) -> torch.Tensor:
    """Minus the sum of log p(target) over all positions, as a float32 scalar with a gradient.

    `hidden` [n, width] or longer, `head` [entries, width], `targets` [n] int64; what `hidden` has beyond the targets
    fills up the last piece (`filled`) and does not count. `cast` is the head in the number format of `hidden` where
    that is not its own. Gradients are computed along with the value: logits are computed once.
    """
    if not torch.is_grad_enabled():
        head = head.detach()  # where nothing is learned, a trained head is a frozen one, which costs half
    return _SummedLoss.apply(hidden, head, targets, head.detach() if cast is None else cast)


def token_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor | None = None
) -> torch.Tensor:
    """log p(target) of each position, float32 [n], with a gradient; arguments as for `summed_loss`.

    What flows back to a position is known only later, but its gradient is in proportion to it. So of a frozen head
    logits are computed once here too; a trained head's gradient is a sum over positions, and they are computed twice.
    """
    return _TokenLogProbabilities.apply(hidden, head, targets, head.detach() if cast is None else cast)


def piece_tokens(entries: int, trained: bool, gpu: bool) -> int:
    """Tokens whose logits are there at once; `trained`: the head itself."""
    if gpu:
        return max(16, CHUNK_NUMBERS // entries)
    return max(TRAINED_TOKENS, LEAST_NUMBERS // entries) if trained else tiled_loss.TOKENS


def filled(positions: int, entries: int, trained: bool, gpu: bool) -> int:
    """`positions` rounded up to pieces of one size (`_size_and_count`)."""
    size, count = _size_and_count(positions, entries, trained, gpu)
    return size * count


def _size_and_count(positions: int, entries: int, trained: bool, gpu: bool) -> tuple[int, int]:
    """Of pieces of one size, of which few occur: every new size costs new kernels (on a CPU in bfloat16 2 ms and 0.8 MB
    for each of some 25 products, and ten times the time for the head's)."""
    count = -(-positions // piece_tokens(entries, trained, gpu))
    size = -(-positions // count) if count else 1
    step = max(16, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step, count


def _pieces(hidden: torch.Tensor, head: torch.Tensor) -> Iterator[slice]:
    """Slices of one size but for the last, which is as large too where `hidden` is `filled`."""
    return _slices(len(hidden), _size_and_count(len(hidden), len(head), head.requires_grad, _on_gpu(hidden))[0])


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


def _of_frozen(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """log p(target), float32 [n], of a head that gets no gradient, in the number format of `hidden`; with `gradient`,
    that of -log p(target) by `hidden` too."""
    found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    to_hidden = torch.empty_like(hidden) if gradient else None
    logits = _Logits(head)
    for piece in _pieces(hidden, head):
        tiled = None if _on_gpu(hidden) else tiled_loss.through_tiles(hidden[piece], head, targets[piece], gradient)
        if tiled is not None:
            found[piece] = tiled[0]
            if to_hidden is not None and tiled[1] is not None:
                to_hidden[piece] = tiled[1]
            continue
        size = piece.stop - piece.start if _on_gpu(hidden) else UNTILED_TOKENS
        for place in _slices(piece.stop - piece.start, size):
            part = slice(piece.start + place.start, piece.start + place.stop)
            if to_hidden is None:
                found[part] = logits.log_probabilities(hidden[part], targets[part])[:, 0]
                continue
            known, slope = logits.slopes(hidden[part], targets[part])
            torch.mm(slope, head, out=to_hidden[part])
            found[part] = known[:, 0]
    return found, to_hidden


class _Logits:
    """The logits of one piece after another, in memory that is taken once: on a CPU, memory of such a size is given
    back to the system each time that it is freed, and clearing it anew takes a third as long as the products do."""

    def __init__(self, head: torch.Tensor) -> None:
        self.head = head
        self._room: torch.Tensor | None = None
        self._exact: torch.Tensor | None = None

    def _of(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits of a piece [piece, entries], in the number format of `hidden`."""
        if self._room is None or len(self._room) < len(hidden):
            self._room = hidden.new_empty((len(hidden), len(self.head)))
        return torch.mm(hidden, self.head.T, out=self._room[: len(hidden)])

    def log_probabilities(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """log p(target) of a piece, float32 [piece, 1]; `slopes` finds the same, to the bit."""
        return self._shares_of(hidden, targets)[0]

    def slopes(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, and the gradient of -log p(target) by the logits, p - onehot [piece, entries], in the number format
        of `hidden`, until the next piece is asked for; 0 beyond the targets. At the target p - 1 is formed as
        expm1(log p): rounded afterwards, an answer that is nearly certain still has a gradient."""
        found, shares = self._shares_of(hidden, targets)
        shares[len(targets) :].zero_()
        rows = torch.arange(len(targets), device=targets.device)
        shares[rows, targets] = torch.expm1(found[:, 0]).to(shares.dtype)  # `scatter_` would copy all shares twice
        return found, shares

    def _shares_of(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(target), and p in the place of the logits: one exponential for each logit."""
        logits = self._of(hidden)
        known = logits[: len(targets)]
        if _on_gpu(logits):
            return self._by_greatest(known, targets[:, None]), logits
        size = max(torch.get_num_threads(), CACHED // logits.shape[1])
        pieces = zip(known.split(size), targets[:, None].split(size), strict=True)
        at_target = torch.cat([self._shared(rows).gather(1, own) for rows, own in pieces])
        found = at_target.log()
        lost = (at_target < SMALLEST_SHARE)[:, 0].nonzero()[:, 0]
        if len(lost):
            again = (hidden[lost] @ self.head.T).float()
            found[lost] = again.gather(1, targets[lost, None]) - again.logsumexp(-1, keepdim=True)
        return found, logits

    def _shared(self, logits: torch.Tensor) -> torch.Tensor:
        """Put p into the place of a few rows of logits; return it in float32, until the next rows are asked for. So few
        rows stay in a processor's cache from one operation to the next."""
        if logits.dtype == torch.float32:
            return torch.softmax(logits, -1, out=logits)
        if self._exact is None or len(self._exact) < len(logits):
            self._exact = torch.empty(logits.shape, dtype=torch.float32)
        exact = self._exact[: len(logits)].copy_(logits)
        logits.copy_(torch.softmax(exact, -1, out=exact))
        return exact

    def _by_greatest(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The same without waiting for what the GPU has found: the logarithm is told from the greatest logit and the
        share that it has, which is never small. Not in place: kernels do not say in which order they read and write."""
        at_target, top = logits.gather(1, targets).float(), logits.amax(-1, keepdim=True).float()
        exact = torch.softmax(logits, -1, dtype=torch.float32)
        logits.copy_(exact)
        return at_target - top + exact.amax(-1, keepdim=True).log_()


class _SummedLoss(torch.autograd.Function):
    """The gradients of hidden states and head are filled piece by piece; the head's is summed in float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor
    ) -> torch.Tensor:
        ctx.to_head, ctx.number_format = None, head.dtype
        if not head.requires_grad:
            found, ctx.to_hidden = _of_frozen(hidden, cast, targets, ctx.needs_input_grad[0])
            return -found.sum()
        ctx.to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        ctx.to_head = _zeros(head)
        logits = _Logits(cast)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for piece in _pieces(hidden, head):
            found, slope = logits.slopes(hidden[piece], targets[piece])
            total -= found.sum()
            if ctx.to_hidden is not None:
                torch.mm(slope, cast, out=ctx.to_hidden[piece])
            _add_product(ctx.to_head, slope, hidden[piece])
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_hidden, to_head = ctx.to_hidden, ctx.to_head
        ctx.to_hidden = ctx.to_head = None
        if gradient != 1:
            to_hidden = None if to_hidden is None else to_hidden * gradient.to(to_hidden.dtype)
            to_head = None if to_head is None else to_head * gradient
        return to_hidden, None if to_head is None else to_head.to(ctx.number_format), None, None


class _TokenLogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, cast: torch.Tensor
    ) -> torch.Tensor:
        ctx.cast, ctx.to_hidden = cast, None
        if not head.requires_grad:
            found, ctx.to_hidden = _of_frozen(hidden, cast, targets, ctx.needs_input_grad[0])
            return found
        ctx.save_for_backward(hidden, head, targets)
        return _of_frozen(hidden, cast, targets, False)[0]  # to the bit what it would be if it were frozen

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.to_hidden is not None:
            to_hidden, ctx.to_hidden = ctx.to_hidden, None
            to_hidden[: len(gradient)] *= -gradient[:, None].to(to_hidden.dtype)
            return to_hidden, None, None, None
        hidden, head, targets = ctx.saved_tensors
        logits = _Logits(ctx.cast)
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_head = _zeros(head)
        for piece in _pieces(hidden, head):
            slope = logits.slopes(hidden[piece], targets[piece])[1]
            slope[: len(targets[piece])] *= -gradient[piece, None].to(slope.dtype)
            if to_hidden is not None:
                torch.mm(slope, ctx.cast, out=to_hidden[piece])
            _add_product(to_head, slope, hidden[piece])
        return to_hidden, to_head.to(head.dtype), None, None


def _zeros(head: torch.Tensor) -> torch.Tensor:
    return torch.zeros(head.shape, dtype=torch.float32, device=head.device)


def _add_product(to_head: torch.Tensor, slope: torch.Tensor, hidden: torch.Tensor) -> None:
    """Add a piece's part to the head's gradient: `slope` [piece, entries] is that of its logits."""
    if slope.dtype == torch.float32:
        to_head.addmm_(slope.T, hidden)
    else:
        to_head += slope.T @ hidden
