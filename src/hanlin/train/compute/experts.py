"""The feed-forward half of a block of experts (Mixtral), and the loss that keeps its experts evenly busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hanlin.train.compute.block import RMSNorm, rms_norm


@dataclass(frozen=True, slots=True)
class Experts:
    """The weights of a block's experts, as transformers holds them.

    Attributes:
        router: [experts, hidden_size].
        gate_up_proj: [experts, 2 · intermediate_size, hidden_size]; the rows of the gate come first.
        down_proj: [experts, hidden_size, intermediate_size].
        top_k: Experts that compute a token.
    """

    router: nn.Parameter
    gate_up_proj: nn.Parameter
    down_proj: nn.Parameter
    top_k: int

    @classmethod
    def of(cls, mlp: Any) -> Experts:
        """Those of transformers' sparse feed-forward module."""
        return cls(mlp.gate.weight, mlp.experts.gate_up_proj, mlp.experts.down_proj, int(mlp.gate.top_k))


def expert_feed_forward(
    hidden_states: torch.Tensor, norm: RMSNorm, experts: Experts, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The hidden states plus the weighted sum of the chosen experts (Jiang et al. 2024, arXiv:2401.04088, section 2.1).

    The weights of the chosen ones are their probabilities, divided by the sum of these.

    Args:
        hidden_states: [tokens, hidden_size].
        norm: The norm before the layer.
        experts: The experts and their router.
        dtype: What matrix products are computed in.

    Returns:
        The new hidden states [tokens, hidden_size], and the router's logits in float32 [tokens, experts].
    """
    normed = rms_norm(hidden_states, norm, dtype)
    router_logits = functional.linear(normed, experts.router.to(dtype)).float()
    weights, chosen = router_logits.softmax(-1).topk(experts.top_k, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    output = hidden_states
    # unbound once, so that the gradients of all experts are put into one tensor, not into one for each expert
    pairs = zip(experts.gate_up_proj.unbind(0), experts.down_proj.unbind(0), strict=True)
    for index, (gate_up_proj, down_proj) in enumerate(pairs):
        tokens, slots = torch.where(chosen == index)
        if len(tokens) == 0:
            continue
        gate, up = functional.linear(normed[tokens], gate_up_proj.to(dtype)).chunk(2, dim=-1)
        computed = functional.linear(functional.silu(gate) * up, down_proj.to(dtype))
        output = output.index_add(0, tokens, computed.float() * weights[tokens, slots, None])
    return output, router_logits


def balance_loss(
    router_logits: torch.Tensor, target_counts: Sequence[int], top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss that keeps experts evenly busy, summed over targets (Fedus et al. 2022, arXiv:2101.03961, section 2.2).

    For each segment of targets it is E · Σ f_e · P_e: f_e is the fraction of its positions that expert e computes, P_e
    the mean of the router's probability. It is `top_k` if all experts are equally busy. It is taken over a segment (the
    targets of one document), not over a micro-batch, and counts once for each target: so it does not depend on how a
    step is divided.

    Args:
        router_logits: The router's logits at the target positions [n, E], in the order of the segments.
        target_counts: Targets of each segment; their sum is n.
        top_k: Experts that compute a token.

    Returns:
        The sum, a float32 scalar; and how busy the busiest expert is, 1 if all are equally so, without gradient.
    """
    num_experts = router_logits.shape[1]
    probs = router_logits.softmax(-1)
    chosen = torch.zeros_like(probs).scatter_(1, probs.detach().topk(top_k, dim=-1).indices, 1.0)
    counts = torch.tensor(target_counts, device=probs.device)
    segments = torch.repeat_interleave(torch.arange(len(counts), device=probs.device), counts)
    zeros = probs.new_zeros(len(counts), num_experts)
    loads, prob_sums = zeros.index_add(0, segments, chosen), zeros.index_add(0, segments, probs)
    of_segments = num_experts * (loads * prob_sums).sum(1) / counts.clamp(min=1)
    busiest = loads.sum(0).max() * num_experts / (max(1, len(probs)) * top_k)
    return of_segments.sum(), busiest.detach()
