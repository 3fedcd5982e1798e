"""The two halves of a decoder block with their gradients written out: fewer passes over memory than autograd makes.

Hidden states are [tokens, hidden_size] in float32 between blocks; matrix products run in the dtype of the layers'
`compute_weight`. Attention is in `attention` and `kernels`; which module a weight comes from, in `model`.

On a CPU half the time of a small model goes into what is no matrix product: casts, norms, sums of gradients. Each half
here normalizes once, casts once, and adds up the gradients of its linear layers in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hanlin.train.compute.linear import Linear


class RMSNorm:
    """y = w · x / sqrt(mean x² + ε) (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        self.weight, self.epsilon = weight, epsilon

    def forward(self, hidden_states: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalize `hidden_states` [tokens, hidden_size].

        Returns:
            The result in `dtype`, and 1 / sqrt(mean x² + ε) [tokens, 1], which `recompute` and `backward` need.
        """
        length = torch.linalg.vector_norm(hidden_states, dim=-1, keepdim=True)
        inverse_rms = (length * length / hidden_states.shape[-1]).add_(self.epsilon).rsqrt_()
        return self.recompute(hidden_states, inverse_rms, dtype), inverse_rms

    def recompute(self, hidden_states: torch.Tensor, inverse_rms: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The normalized hidden states once more: two elementwise products, cheaper than the memory to keep them."""
        return (hidden_states * inverse_rms).mul_(self.weight.detach().float()).to(dtype)

    def backward(
        self, grad_output: torch.Tensor, hidden_states: torch.Tensor, inverse_rms: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradients of the hidden states (float32) and of the weight (None if it is frozen)."""
        weight = self.weight.detach().float()
        product = hidden_states * grad_output
        along = (product @ weight)[:, None] * inverse_rms.pow(3).div_(hidden_states.shape[-1])
        grad_weight = None
        if self.weight.requires_grad:
            grad_weight = (inverse_rms[:, 0] @ product).to(self.weight.dtype)
        grad_hidden = (grad_output * weight).mul_(inverse_rms)
        return grad_hidden.addcmul_(hidden_states, along, value=-1), grad_weight


class _RMSNorm(torch.autograd.Function):
    """The norm alone."""

    @staticmethod
    def forward(
        ctx: Any, norm: RMSNorm, dtype: torch.dtype, hidden_states: torch.Tensor, _: torch.Tensor
    ) -> torch.Tensor:
        out, inverse_rms = norm.forward(hidden_states, dtype)
        ctx.norm = norm
        ctx.save_for_backward(hidden_states, inverse_rms)
        return out

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, None, *ctx.norm.backward(grad_output, *ctx.saved_tensors)


class _NormedLinears(torch.autograd.Function):
    """The norm, and several linear layers over it."""

    @staticmethod
    def forward(
        ctx: Any,
        norm: RMSNorm,
        linears: Sequence[Linear],
        training: bool,
        hidden_states: torch.Tensor,
        *_: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        inputs, inverse_rms = norm.forward(hidden_states, linears[0].dtype)
        masks = [linear.dropout_mask(inputs, training) for linear in linears]
        outs, lora_hiddens = zip(
            *(linear.forward(inputs, mask) for linear, mask in zip(linears, masks, strict=True)), strict=True
        )
        ctx.norm, ctx.linears = norm, linears
        ctx.save_for_backward(hidden_states, inverse_rms, *lora_hiddens, *masks)
        return outs

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_states, inverse_rms, *rest = ctx.saved_tensors
        lora_hiddens, masks = rest[: len(grad_outputs)], rest[len(grad_outputs) :]
        inputs = ctx.norm.recompute(hidden_states, inverse_rms, ctx.linears[0].dtype)
        grad_inputs: torch.Tensor | None = None
        grads: list[torch.Tensor | None] = []
        for linear, grad_output, lora_hidden, mask in zip(ctx.linears, grad_outputs, lora_hiddens, masks, strict=True):
            grad_inputs, own = linear.backward(grad_output, inputs, lora_hidden, mask, grad_inputs)
            grads += own
        assert grad_inputs is not None
        grad_hidden, grad_norm = ctx.norm.backward(grad_inputs, hidden_states, inverse_rms)
        return None, None, None, grad_hidden, grad_norm, *grads


class _ResidualLinear(torch.autograd.Function):
    """A linear layer added to the hidden states."""

    @staticmethod
    def forward(
        ctx: Any, linear: Linear, training: bool, hidden_states: torch.Tensor, inputs: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        mask = linear.dropout_mask(inputs, training)
        out, lora_hidden = linear.forward(inputs, mask)
        ctx.linear = linear
        ctx.save_for_backward(inputs, lora_hidden, mask)
        return hidden_states + out

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, lora_hidden, mask = ctx.saved_tensors
        grad_inputs, grads = ctx.linear.backward(grad_output.to(inputs.dtype), inputs, lora_hidden, mask, None)
        return None, None, grad_output, grad_inputs, *grads


class _FeedForward(torch.autograd.Function):
    """x + W₃ (silu(W₁ n) · W₂ n) with n the normalized x: SwiGLU (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    @staticmethod
    def forward(
        ctx: Any,
        norm: RMSNorm,
        linears: Sequence[Linear],
        training: bool,
        hidden_states: torch.Tensor,
        *_: torch.Tensor,
    ) -> torch.Tensor:
        gate_proj, up_proj, down_proj = linears
        inputs, inverse_rms = norm.forward(hidden_states, gate_proj.dtype)
        masks = [gate_proj.dropout_mask(inputs, training), up_proj.dropout_mask(inputs, training)]
        gate, gate_inner = gate_proj.forward(inputs, masks[0])
        up, up_inner = up_proj.forward(inputs, masks[1])
        product = functional.silu(gate).mul_(up)
        masks.append(down_proj.dropout_mask(product, training))
        out, down_inner = down_proj.forward(product, masks[2])
        ctx.norm, ctx.linears = norm, linears
        ctx.save_for_backward(hidden_states, inverse_rms, gate, up, gate_inner, up_inner, down_inner, *masks)
        return hidden_states + out

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_states, inverse_rms, gate, up, *rest = ctx.saved_tensors
        (gate_inner, up_inner, down_inner), masks = rest[:3], rest[3:]
        gate_proj, up_proj, down_proj = ctx.linears
        activated = functional.silu(gate)
        product = activated * up
        grad_product, of_down = down_proj.backward(grad_output.to(gate.dtype), product, down_inner, masks[2], None)
        grad_up = activated.mul_(grad_product)
        grad_gate = torch.ops.aten.silu_backward(grad_product.mul_(up), gate)
        inputs = ctx.norm.recompute(hidden_states, inverse_rms, gate_proj.dtype)
        grad_inputs, of_gate = gate_proj.backward(grad_gate, inputs, gate_inner, masks[0], None)
        grad_inputs, of_up = up_proj.backward(grad_up, inputs, up_inner, masks[1], grad_inputs)
        grad_hidden, grad_norm = ctx.norm.backward(grad_inputs, hidden_states, inverse_rms)
        return None, None, None, grad_hidden.add_(grad_output), grad_norm, *of_gate, *of_up, *of_down


class _RotaryEmbedding(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864, eq. 34) in the half-split layout of Llama's weights."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(values, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad_output, cos, sin, -1), None, None


def _rotate(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, direction: int) -> torch.Tensor:
    """Rotate `values` [tokens, heads, head_dim] by the angles of `cos` and `sin` [tokens, 1, head_dim / 2], in
    float32; `direction` is 1 or, for the gradient, -1.
    """
    exact = values.float()
    half = exact.shape[-1] // 2
    first, second = exact[..., :half], exact[..., half:]
    out = torch.empty_like(exact)
    torch.mul(first, cos, out=out[..., :half])
    torch.mul(second, cos, out=out[..., half:])
    out[..., :half].addcmul_(second, sin, value=-direction)
    out[..., half:].addcmul_(first, sin, value=direction)
    return out.to(values.dtype)


def rms_norm(hidden_states: torch.Tensor, norm: RMSNorm, dtype: torch.dtype) -> torch.Tensor:
    """Normalize hidden states [tokens, hidden_size], in `dtype`."""
    return _RMSNorm.apply(norm, dtype, hidden_states, norm.weight)


def norm_and_project(
    hidden_states: torch.Tensor, norm: RMSNorm, linears: Sequence[Linear], training: bool
) -> tuple[torch.Tensor, ...]:
    """Normalize the hidden states and apply several linear layers to the result: query, key and value.

    Args:
        hidden_states: [tokens, hidden_size].
        norm: The norm before the layers.
        linears: The layers.
        training: Whether adapters drop inputs.

    Returns:
        The output [tokens, out_features] of each layer.
    """
    weights = [weight for linear in linears for weight in linear.autograd_inputs()]
    return _NormedLinears.apply(norm, linears, training, hidden_states, norm.weight, *weights)


def apply_rotary(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys [tokens, heads, head_dim] by their positions; `cos` and `sin` are [tokens, 1, head_dim /
    2].
    """
    return _RotaryEmbedding.apply(values, cos, sin)


def add_projection(hidden_states: torch.Tensor, inputs: torch.Tensor, linear: Linear, training: bool) -> torch.Tensor:
    """The hidden states [tokens, hidden_size] plus `linear` of `inputs` [tokens, in_features]: the end of attention.
    `training` says whether the adapter drops inputs.
    """
    return _ResidualLinear.apply(linear, training, hidden_states, inputs, *linear.autograd_inputs())


def feed_forward(hidden_states: torch.Tensor, norm: RMSNorm, linears: Sequence[Linear], training: bool) -> torch.Tensor:
    """The second half of a block: the hidden states plus their feed-forward layer.

    Args:
        hidden_states: [tokens, hidden_size].
        norm: The norm before the layer.
        linears: gate_proj, up_proj and down_proj.
        training: Whether adapters drop inputs.

    Returns:
        The new hidden states [tokens, hidden_size].
    """
    weights = [weight for linear in linears for weight in linear.autograd_inputs()]
    return _FeedForward.apply(norm, linears, training, hidden_states, norm.weight, *weights)
