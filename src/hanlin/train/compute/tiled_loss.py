"""A frozen output head on a CPU: log-probabilities of targets and their gradients, a tile of the vocabulary at a time.

Owns the order of the work that keeps logits in a processor's cache. Does not own heads that are trained, GPUs, or what
is made of the numbers (`losses`).

With v all entries but the target t, log p(t) = -log(1 + sum exp(z_v - z_t)), and the gradient of -log p(t) by the
hidden state is (1 - p(t)) (sum q_v W_v - W_t), where q are the shares among the others: an answer that is nearly
certain keeps all digits of both. Sums over v are taken tile by tile, as FlashAttention sums over keys (Dao et al. 2022,
arXiv:2205.14135, section 3.1): the logits of many tokens are made, raised, summed and multiplied with the same tile of
the head before they leave the cache, and the whole head is read once for all these tokens.
"""

from __future__ import annotations

import torch
from torch.nn import functional

TOKENS = 2048
"""The most tokens at a time: the head is read once for them."""
NUMBERS = 3 << 20
"""Logits of a tile. In bfloat16 with AMX, of 128,256 entries, 1,408 tokens took 0.28 s with so many, 0.34 with two
thirds and 0.43 with half; in float32, 1,024 tokens took 0.93 s, and 1.13 s in pieces of 256 tokens and all entries."""
LEAST, MOST = 1e-30, 1e30
"""Between these a sum of exponentials is trusted. No maximum is subtracted first: it would cost as much as the rest."""


def through_tiles(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """log p(target), float32 [n], and with `gradient` that of -log p(target) by `hidden`; None where logits are too far
    from 0 for it.

    `hidden` [n, width] or longer and `head` [entries, width] of one number format, `targets` [n] int64. What `hidden`
    has beyond the targets gets a gradient of 0.
    """
    tokens, width = hidden.shape
    count = -(-len(head) * tokens // NUMBERS)
    edges = [len(head) * edge // count for edge in range(count + 1)]
    order = torch.argsort(targets)
    ends = torch.searchsorted(targets[order], torch.tensor(edges)).tolist()
    room = hidden.new_empty(tokens * -(-len(head) // count))
    exact = room if room.dtype == torch.float32 else torch.empty(len(room))
    part = torch.empty_like(hidden)
    own, sums, along = torch.empty(tokens), torch.zeros(tokens), torch.zeros((tokens, width))
    for start, end, first, last in zip(edges, edges[1:], ends, ends[1:], strict=False):
        logits = torch.mm(hidden, head[start:end].T, out=room[: tokens * (end - start)].view(tokens, -1))
        raised = exact[: logits.numel()].view_as(logits)
        if raised.dtype != logits.dtype:
            raised.copy_(logits)
        rows = order[first:last]
        columns = targets[rows] - start
        own[rows] = raised[rows, columns]
        raised.exp_()[rows, columns] = 0.0
        sums += raised.sum(-1)
        if gradient:
            shares = raised if raised.dtype == logits.dtype else logits.copy_(raised)
            along += torch.mm(shares, head[start:end], out=part)
    if not (float(sums.min()) > LEAST and float(sums.max()) < MOST):
        return None
    known = len(targets)
    behind = sums[:known].log() - own[:known]
    if not gradient:
        return -functional.softplus(behind), None
    along[:known] /= sums[:known, None]
    along[:known] -= head[targets]
    along[:known] *= torch.sigmoid(behind)[:, None]
    along[known:].zero_()
    return -functional.softplus(behind), along.to(hidden.dtype)
