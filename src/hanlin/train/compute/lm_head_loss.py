"""The output head and its loss, chunk by chunk: the logits of a whole micro-batch never exist at once.

With Llama 3's vocabulary of 128,256 the logits of 4,096 tokens take 2.1 GB in float32, and their gradient as much
again. Here the logits of a few tokens at a time are computed, turned into log-probabilities and, at once, into the
gradients of the hidden states and of the head (the arithmetic is that of Wijmans et al. 2024, arXiv:2411.09009; the
order of the work is another).

Which tokens count, and what an objective makes of their log-probabilities, is in `train.objectives`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from hanlin.train.compute import tiled_loss

GPU_CHUNK_LOGITS = 1 << 27
"""Logits of a chunk on a GPU."""
TRAINED_CHUNK_TOKENS, MIN_CHUNK_LOGITS = 512, 1 << 22
"""Tokens of a chunk on a CPU with a trained head, whose gradient is read and written for each chunk; more if these have
fewer logits than the second number. In bfloat16 with AMX, vocabulary of 128,256 and 2,048 tokens, 256 took 1.19 s and
512 took 1.08; with a vocabulary of 3,600, 256 took 15 ms and 1,024 took 10."""
UNTILED_TOKENS = 256
"""The same with a frozen head whose logits are too far from 0 for tiles."""
CACHED_LOGITS = 1 << 18
"""Logits on a CPU whose softmax is taken at a time: a megabyte in float32, which the caches of two cores hold."""
MIN_PROB = 1e-30
"""A probability below it may have lost digits; its logarithm is computed from the logits again."""


def cross_entropy_sum(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, compute_head: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum of -log p(target) over all positions. Gradients are computed along with it: logits are computed once.

    Args:
        hidden: Hidden states [n, hidden_size] or longer; what it has beyond the targets pads the last chunk
            (`padded_length`) and does not count.
        head: The output head's weight [vocab_size, hidden_size].
        targets: Token ids, int64 [n].
        compute_head: The head in the dtype of `hidden`, if `head` has another.

    Returns:
        A float32 scalar with gradients for `hidden` and, if it is trained, `head`.
    """
    if not torch.is_grad_enabled():
        head = head.detach()  # if nothing is learned, a trained head is a frozen one, which costs half
    return _CrossEntropySum.apply(hidden, head, targets, head.detach() if compute_head is None else compute_head)


def token_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, compute_head: torch.Tensor | None = None
) -> torch.Tensor:
    """Log p(target) of each position, float32 [n], with a gradient; arguments as for `cross_entropy_sum`.

    The gradient that arrives at a position is known only in the backward pass, but the result is proportional to it. So
    with a frozen head the logits are computed once here too; the gradient of a trained head is a sum over positions,
    and they are computed twice.
    """
    return _TokenLogprobs.apply(hidden, head, targets, head.detach() if compute_head is None else compute_head)


def chunk_tokens(vocab_size: int, head_is_trained: bool, on_gpu: bool) -> int:
    """The greatest number of tokens of a chunk."""
    if on_gpu:
        return max(16, GPU_CHUNK_LOGITS // vocab_size)
    if head_is_trained:
        return max(TRAINED_CHUNK_TOKENS, MIN_CHUNK_LOGITS // vocab_size)
    return tiled_loss.MAX_TOKENS


def padded_length(positions: int, vocab_size: int, head_is_trained: bool, on_gpu: bool) -> int:
    """`positions` rounded up to chunks of one size (`_chunk_size_and_count`)."""
    size, count = _chunk_size_and_count(positions, vocab_size, head_is_trained, on_gpu)
    return size * count


def _chunk_size_and_count(positions: int, vocab_size: int, head_is_trained: bool, on_gpu: bool) -> tuple[int, int]:
    """The size of all chunks and their number. Few sizes occur, since every new one costs new kernels (on a CPU in
    bfloat16 2 ms and 0.8 MB for each of some 25 products, and ten times the time for the head's).
    """
    count = -(-positions // chunk_tokens(vocab_size, head_is_trained, on_gpu))
    size = -(-positions // count) if count else 1
    step = max(16, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step, count


def _chunks(hidden: torch.Tensor, head: torch.Tensor) -> Iterator[slice]:
    """Slices of one size; the last is shorter unless `hidden` has a `padded_length`."""
    size, _ = _chunk_size_and_count(len(hidden), len(head), head.requires_grad, _on_gpu(hidden))
    return _slices(len(hidden), size)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


def _frozen_head_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log p(target), float32 [n], with a head that gets no gradient and has the dtype of `hidden`; if asked for, also
    the gradient of -log p(target) with respect to `hidden`.
    """
    logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    grad_hidden = torch.empty_like(hidden) if with_gradient else None
    logits = _ChunkLogits(head)
    for chunk in _chunks(hidden, head):
        tiled = None
        if not _on_gpu(hidden):
            tiled = tiled_loss.tiled_logprobs(hidden[chunk], head, targets[chunk], with_gradient)
        if tiled is not None:
            logprobs[chunk] = tiled[0]
            if grad_hidden is not None and tiled[1] is not None:
                grad_hidden[chunk] = tiled[1]
            continue
        size = chunk.stop - chunk.start if _on_gpu(hidden) else UNTILED_TOKENS
        for offset in _slices(chunk.stop - chunk.start, size):
            part = slice(chunk.start + offset.start, chunk.start + offset.stop)
            if grad_hidden is None:
                logprobs[part] = logits.target_logprobs(hidden[part], targets[part])[:, 0]
                continue
            part_logprobs, grad_logits = logits.logprobs_and_grad(hidden[part], targets[part])
            torch.mm(grad_logits, head, out=grad_hidden[part])
            logprobs[part] = part_logprobs[:, 0]
    return logprobs, grad_hidden


class _ChunkLogits:
    """The logits of one chunk after another, in a buffer that is allocated once: on a CPU, memory of such a size is
    given back to the system each time that it is freed, and clearing it anew takes a third as long as the products.
    """

    def __init__(self, head: torch.Tensor) -> None:
        self.head = head
        self._buffer: torch.Tensor | None = None
        self._float32_buffer: torch.Tensor | None = None

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The logits of a chunk [tokens, vocab_size], in the dtype of `hidden`."""
        if self._buffer is None or len(self._buffer) < len(hidden):
            self._buffer = hidden.new_empty((len(hidden), len(self.head)))
        return torch.mm(hidden, self.head.T, out=self._buffer[: len(hidden)])

    def target_logprobs(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log p(target) of a chunk, float32 [tokens, 1]; to the bit what `logprobs_and_grad` gives."""
        return self._logprobs_and_probs(hidden, targets)[0]

    def logprobs_and_grad(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log p(target) of a chunk, and the gradient of -log p(target) with respect to its logits.

        Returns:
            float32 [tokens, 1]; and p - onehot [tokens, vocab_size] in the dtype of `hidden`, 0 beyond the targets, in
            a buffer that the next chunk overwrites. At the target p - 1 is computed as expm1(log p): if it were rounded
            afterwards, an answer that is nearly certain would have no gradient.
        """
        logprobs, probs = self._logprobs_and_probs(hidden, targets)
        probs[len(targets) :].zero_()
        rows = torch.arange(len(targets), device=targets.device)
        probs[rows, targets] = torch.expm1(logprobs[:, 0]).to(probs.dtype)  # `scatter_` would copy all twice
        return logprobs, probs

    def _logprobs_and_probs(self, hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Log p(target) [tokens, 1], and p [tokens, vocab_size] in place of the logits: one exponential per logit."""
        logits = self._logits(hidden)
        known = logits[: len(targets)]
        if _on_gpu(logits):
            return self._softmax_on_gpu(known, targets[:, None]), logits
        size = max(torch.get_num_threads(), CACHED_LOGITS // logits.shape[1])
        parts = zip(known.split(size), targets[:, None].split(size), strict=True)
        target_probs = torch.cat([self._softmax_in_place(rows).gather(1, own) for rows, own in parts])
        logprobs = target_probs.log()
        imprecise = (target_probs < MIN_PROB)[:, 0].nonzero()[:, 0]
        if len(imprecise):
            again = (hidden[imprecise] @ self.head.T).float()
            logprobs[imprecise] = again.gather(1, targets[imprecise, None]) - again.logsumexp(-1, keepdim=True)
        return logprobs, logits

    def _softmax_in_place(self, logits: torch.Tensor) -> torch.Tensor:
        """Replace a few rows of logits by p; return p in float32, valid until the next call. So few rows stay in a
        processor's cache from one operation to the next.
        """
        if logits.dtype == torch.float32:
            return torch.softmax(logits, -1, out=logits)
        if self._float32_buffer is None or len(self._float32_buffer) < len(logits):
            self._float32_buffer = torch.empty(logits.shape, dtype=torch.float32)
        exact = self._float32_buffer[: len(logits)].copy_(logits)
        logits.copy_(torch.softmax(exact, -1, out=exact))
        return exact

    def _softmax_on_gpu(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Replace logits by p and return log p(target) without synchronizing with the GPU: the logarithm comes from the
        greatest logit and its probability, which is never small. Softmax is not in place: kernels do not say in which
        order they read and write.
        """
        at_target, top = logits.gather(1, targets).float(), logits.amax(-1, keepdim=True).float()
        exact = torch.softmax(logits, -1, dtype=torch.float32)
        logits.copy_(exact)
        return at_target - top + exact.amax(-1, keepdim=True).log_()


class _CrossEntropySum(torch.autograd.Function):
    """The gradients of hidden states and head are filled chunk by chunk; the head's is summed in float32."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, compute_head: torch.Tensor
    ) -> torch.Tensor:
        ctx.grad_head, ctx.head_dtype = None, head.dtype
        if not head.requires_grad:
            logprobs, ctx.grad_hidden = _frozen_head_logprobs(hidden, compute_head, targets, ctx.needs_input_grad[0])
            return -logprobs.sum()
        ctx.grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        ctx.grad_head = _float32_zeros(head)
        logits = _ChunkLogits(compute_head)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for chunk in _chunks(hidden, head):
            logprobs, grad_logits = logits.logprobs_and_grad(hidden[chunk], targets[chunk])
            total -= logprobs.sum()
            if ctx.grad_hidden is not None:
                torch.mm(grad_logits, compute_head, out=ctx.grad_hidden[chunk])
            _add_head_gradient(ctx.grad_head, grad_logits, hidden[chunk])
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden, grad_head = ctx.grad_hidden, ctx.grad_head
        ctx.grad_hidden = ctx.grad_head = None
        if grad_output != 1:
            grad_hidden = None if grad_hidden is None else grad_hidden * grad_output.to(grad_hidden.dtype)
            grad_head = None if grad_head is None else grad_head * grad_output
        return grad_hidden, None if grad_head is None else grad_head.to(ctx.head_dtype), None, None


class _TokenLogprobs(torch.autograd.Function):
    """With a frozen head the gradient is computed in the forward pass and scaled later; else logits are recomputed."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, compute_head: torch.Tensor
    ) -> torch.Tensor:
        ctx.compute_head, ctx.grad_hidden = compute_head, None
        if not head.requires_grad:
            logprobs, ctx.grad_hidden = _frozen_head_logprobs(hidden, compute_head, targets, ctx.needs_input_grad[0])
            return logprobs
        ctx.save_for_backward(hidden, head, targets)
        return _frozen_head_logprobs(hidden, compute_head, targets, False)[0]  # to the bit as if it were frozen

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.grad_hidden is not None:
            grad_hidden, ctx.grad_hidden = ctx.grad_hidden, None
            grad_hidden[: len(grad_output)] *= -grad_output[:, None].to(grad_hidden.dtype)
            return grad_hidden, None, None, None
        hidden, head, targets = ctx.saved_tensors
        logits = _ChunkLogits(ctx.compute_head)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_head = _float32_zeros(head)
        for chunk in _chunks(hidden, head):
            grad_logits = logits.logprobs_and_grad(hidden[chunk], targets[chunk])[1]
            grad_logits[: len(targets[chunk])] *= -grad_output[chunk, None].to(grad_logits.dtype)
            if grad_hidden is not None:
                torch.mm(grad_logits, ctx.compute_head, out=grad_hidden[chunk])
            _add_head_gradient(grad_head, grad_logits, hidden[chunk])
        return grad_hidden, grad_head.to(head.dtype), None, None


def _float32_zeros(head: torch.Tensor) -> torch.Tensor:
    return torch.zeros(head.shape, dtype=torch.float32, device=head.device)


def _add_head_gradient(grad_head: torch.Tensor, grad_logits: torch.Tensor, hidden: torch.Tensor) -> None:
    """Add a chunk's part to the head's gradient; `grad_logits` is [tokens, vocab_size]."""
    if grad_logits.dtype == torch.float32:
        grad_head.addmm_(grad_logits.T, hidden)
    else:
        grad_head += grad_logits.T @ hidden
