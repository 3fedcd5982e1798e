"""The feed-forward half of a block of experts (Mixtral), and the loss that keeps its experts evenly busy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from torch.nn import functional

from hanlin.train.compute.block import RMSNorm, rms_norm


class _Part(NamedTuple):
    """W x + scaling · B A x of one matrix; without an adapter W x."""

    weight: torch.Tensor
    lora_A: torch.Tensor | None = None
    lora_B: torch.Tensor | None = None
    scaling: float = 1.0

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """[tokens, in_features] to [tokens, out_features], in the dtype of the inputs."""
        dtype = inputs.dtype
        output = functional.linear(inputs, self.weight.to(dtype))
        if self.lora_A is None or self.lora_B is None:
            return output
        hidden = functional.linear(inputs, self.lora_A.to(dtype))
        return output + functional.linear(hidden, self.lora_B.to(dtype)) * self.scaling


@dataclass(frozen=True, slots=True)
class StackedLinear:
    """The matrices of all experts in one tensor, with PEFT's adapter for each of them.

    Attributes:
        weight: [experts, out_features, in_features], or [out_features, in_features] of a single matrix.
        lora_A: [experts · rank, in_features], the rows of an expert one after the other; None without an adapter.
        lora_B: [out_features, rank · experts]: column i of expert e is column `i · experts + e`.
        scaling: Factor of B A.
    """

    weight: torch.Tensor
    lora_A: torch.Tensor | None = None
    lora_B: torch.Tensor | None = None
    scaling: float = 1.0

    def unbind(self) -> list[_Part]:
        """The matrix of each expert.

        The tensors are taken apart once, so that the gradients of all experts are put into one tensor, not into one for
        each expert.
        """
        weight = self.weight if self.weight.ndim == 3 else self.weight[None]
        if self.lora_A is None or self.lora_B is None:
            return [_Part(matrix) for matrix in weight.unbind(0)]
        experts, out_features, in_features = weight.shape
        parts_A = self.lora_A.view(experts, -1, in_features).unbind(0)
        parts_B = self.lora_B.view(out_features, -1, experts).unbind(2)
        parts = zip(weight.unbind(0), parts_A, parts_B, strict=True)
        return [_Part(matrix, lora_A, lora_B, self.scaling) for matrix, lora_A, lora_B in parts]


@dataclass(frozen=True, slots=True)
class Experts:
    """The weights of a block's experts, as transformers holds them.

    Attributes:
        router: [experts, hidden_size].
        gate_up_proj: [experts, 2 · intermediate_size, hidden_size]; the rows of the gate come first.
        down_proj: [experts, hidden_size, intermediate_size].
        top_k: Experts that compute a token.
    """

    router: StackedLinear
    gate_up_proj: StackedLinear
    down_proj: StackedLinear
    top_k: int

    @classmethod
    def of(cls, mlp: Any) -> Experts:
        """Those of transformers' sparse feed-forward module, with the adapters that PEFT put around its parameters."""
        (router,) = _read_adapted(mlp.gate, ("weight",))
        gate_up_proj, down_proj = _read_adapted(mlp.experts, ("gate_up_proj", "down_proj"))
        gate: Any = mlp.gate.get_base_layer() if isinstance(mlp.gate, ParamWrapper) else mlp.gate
        return cls(router, gate_up_proj, down_proj, int(gate.top_k))


def _read_adapted(module: nn.Module, names: Sequence[str]) -> list[StackedLinear]:
    """Parameters of a module and their adapters; PEFT puts one wrapper around the other, each for one parameter."""
    wrappers: dict[str, ParamWrapper] = {}
    while isinstance(module, ParamWrapper):
        wrappers[module.parameter_name] = module
        module = module.base_layer
    matrices = []
    for name in names:
        weight, wrapper = cast(torch.Tensor, getattr(module, name)), wrappers.get(name)
        if wrapper is None:
            matrices.append(StackedLinear(weight))
            continue
        (adapter,) = wrapper.active_adapters
        lora_A, lora_B = (cast(nn.Linear, part[adapter]).weight for part in (wrapper.lora_A, wrapper.lora_B))
        matrices.append(StackedLinear(weight, lora_A, lora_B, float(wrapper.scaling[adapter])))
    return matrices


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
    (router,) = experts.router.unbind()
    router_logits = router.compute(normed).float()
    weights, chosen = router_logits.softmax(-1).topk(experts.top_k, dim=-1)
    weights = weights / weights.sum(-1, keepdim=True)
    output = hidden_states
    pairs = zip(experts.gate_up_proj.unbind(), experts.down_proj.unbind(), strict=True)
    for index, (gate_up_proj, down_proj) in enumerate(pairs):
        tokens, slots = torch.where(chosen == index)
        if len(tokens) == 0:
            continue
        gate, up = gate_up_proj.compute(normed[tokens]).chunk(2, dim=-1)
        computed = down_proj.compute(functional.silu(gate) * up)
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
