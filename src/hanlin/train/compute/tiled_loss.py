"""A frozen output head on a CPU: log-probabilities of targets and their gradients, a tile of the vocabulary at a time.

With v all tokens but the target t, log p(t) = -log(1 + sum exp(z_v - z_t)), and the gradient of -log p(t) with respect
to the hidden state is (1 - p(t)) (sum q_v W_v - W_t), where q are the probabilities among the others: an answer that is
nearly certain keeps all digits of both. Sums over v are taken tile by tile, as FlashAttention sums over keys (Dao et
al. 2022, arXiv:2205.14135, section 3.1): the logits of many tokens are computed, exponentiated, summed and multiplied
with the same tile of the head before they leave the processor's cache, and the whole head is read once for all these
tokens.

Trained heads and GPUs are in `lm_head_loss`.
"""

from __future__ import annotations

import torch
from torch.nn import functional

MAX_TOKENS = 2048
"""Tokens at a time: the head is read once for them."""
TILE_LOGITS = 3 << 20
"""Logits of a tile. In bfloat16 with AMX and a vocabulary of 128,256, 1,408 tokens took 0.28 s with so many, 0.34 with
two thirds and 0.43 with half; in float32, 1,024 tokens took 0.93 s, and 1.13 s in chunks of 256 tokens by the whole
vocabulary."""
MIN_SUM, MAX_SUM = 1e-30, 1e30
"""A sum of exponentials is trusted between these. No maximum is subtracted first: it would cost as much as the rest."""


def tiled_logprobs(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Log p(target) of each position, and the gradient of -log p(target) with respect to `hidden`.

    Args:
        hidden: Hidden states [n, hidden_size] or longer; what it has beyond the targets gets a gradient of 0.
        head: The output head's weight [vocab_size, hidden_size], in the dtype of `hidden`.
        targets: Token ids, int64 [n].
        with_gradient: Whether the gradient is computed.

    Returns:
        float32 [n], and the gradient in the shape and dtype of `hidden`, or None; None instead of both if logits are
        too far from 0 for this way.
    """
    tokens, hidden_size = hidden.shape
    count = -(-len(head) * tokens // TILE_LOGITS)
    bounds = [len(head) * tile // count for tile in range(count + 1)]
    order = torch.argsort(targets)  # a tile's targets are neighbors
    target_bounds = torch.searchsorted(targets[order], torch.tensor(bounds)).tolist()
    buffer = hidden.new_empty(tokens * -(-len(head) // count))
    float32_buffer = buffer if buffer.dtype == torch.float32 else torch.empty(len(buffer))
    product = torch.empty_like(hidden)
    target_logits, sums = torch.empty(tokens), torch.zeros(tokens)
    weighted = torch.zeros((tokens, hidden_size))  # sum exp(z_v) W_v
    for start, end, first, last in zip(bounds, bounds[1:], target_bounds, target_bounds[1:], strict=False):
        logits = torch.mm(hidden, head[start:end].T, out=buffer[: tokens * (end - start)].view(tokens, -1))
        exps = float32_buffer[: logits.numel()].view_as(logits)
        if exps.dtype != logits.dtype:
            exps.copy_(logits)
        rows = order[first:last]
        columns = targets[rows] - start
        target_logits[rows] = exps[rows, columns]
        exps.exp_()[rows, columns] = 0.0
        sums += exps.sum(-1)
        if with_gradient:
            weights = exps if exps.dtype == logits.dtype else logits.copy_(exps)
            weighted += torch.mm(weights, head[start:end], out=product)
    if not (float(sums.min()) > MIN_SUM and float(sums.max()) < MAX_SUM):
        return None
    known = len(targets)
    log_odds = sums[:known].log() - target_logits[:known]  # of any other token against the target
    if not with_gradient:
        return -functional.softplus(log_odds), None
    weighted[:known] /= sums[:known, None]
    weighted[:known] -= head[targets]
    weighted[:known] *= torch.sigmoid(log_odds)[:, None]
    weighted[known:].zero_()
    return -functional.softplus(log_odds), weighted.to(hidden.dtype)
