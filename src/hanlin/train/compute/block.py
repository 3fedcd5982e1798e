"""The two halves of a decoder block with their gradients written out: fewer passes over memory than their pieces make.

Owns arithmetic on tokens [tokens, width]. Does not own attention (`attention`) or which module a weight comes from
(`network`). The stream between blocks is float32; products run in the number format of their matrices' `cast`.

On a CPU half the time of a small model goes into what is no matrix product: casts, norms, sums of gradients. Each half
here normalizes once, casts once, and adds up the gradients of its matrices in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from hanlin.train.compute.linear import Linear


class Norm:
    """y = w · x / sqrt(mean x² + ε) (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        self.weight, self.epsilon = weight, epsilon

    def apply(self, stream: torch.Tensor, number_format: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalized stream [tokens, width] in the number format, and 1 / length [tokens, 1]."""
        length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        inverse = (length * length / stream.shape[-1]).add_(self.epsilon).rsqrt_()
        return self.again(stream, inverse, number_format), inverse

    def again(self, stream: torch.Tensor, inverse: torch.Tensor, number_format: torch.dtype) -> torch.Tensor:
        """The normalized stream once more: two products of numbers, which cost less than the memory to keep it."""
        return (stream * inverse).mul_(self.weight.detach().float()).to(number_format)

    def gradients(
        self, gradient: torch.Tensor, stream: torch.Tensor, inverse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradients of the stream (float32) and of the weight."""
        weight = self.weight.detach().float()
        product = stream * gradient
        along = (product @ weight)[:, None] * inverse.pow(3).div_(stream.shape[-1])
        to_weight = None
        if self.weight.requires_grad:
            to_weight = (inverse[:, 0] @ product).to(self.weight.dtype)
        to_stream = (gradient * weight).mul_(inverse)
        return to_stream.addcmul_(stream, along, value=-1), to_weight


class _Normalized(torch.autograd.Function):
    """The norm alone."""

    @staticmethod
    def forward(
        ctx: Any, norm: Norm, number_format: torch.dtype, stream: torch.Tensor, _: torch.Tensor
    ) -> torch.Tensor:
        out, inverse = norm.apply(stream, number_format)
        ctx.norm = norm
        ctx.save_for_backward(stream, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, None, *ctx.norm.gradients(gradient, *ctx.saved_tensors)


class _Projected(torch.autograd.Function):
    """The norm, and several projections of what it gives."""

    @staticmethod
    def forward(
        ctx: Any, norm: Norm, matrices: Sequence[Linear], training: bool, stream: torch.Tensor, *_: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        inputs, inverse = norm.apply(stream, matrices[0].number_format)
        kept = [matrix.dropped(inputs, training) for matrix in matrices]
        outs, inners = zip(
            *(matrix.apply(inputs, left) for matrix, left in zip(matrices, kept, strict=True)), strict=True
        )
        ctx.norm, ctx.matrices = norm, matrices
        ctx.save_for_backward(stream, inverse, *inners, *kept)
        return outs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        stream, inverse, *rest = ctx.saved_tensors
        inners, kept = rest[: len(gradients)], rest[len(gradients) :]
        inputs = ctx.norm.again(stream, inverse, ctx.matrices[0].number_format)
        to_inputs: torch.Tensor | None = None
        found: list[torch.Tensor | None] = []
        for matrix, gradient, inner, left in zip(ctx.matrices, gradients, inners, kept, strict=True):
            to_inputs, own = matrix.gradients(gradient, inputs, inner, left, to_inputs)
            found += own
        assert to_inputs is not None
        to_stream, to_norm = ctx.norm.gradients(to_inputs, stream, inverse)
        return None, None, None, to_stream, to_norm, *found


class _Added(torch.autograd.Function):
    """A projection added to the stream."""

    @staticmethod
    def forward(
        ctx: Any, matrix: Linear, training: bool, stream: torch.Tensor, inputs: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        kept = matrix.dropped(inputs, training)
        out, inner = matrix.apply(inputs, kept)
        ctx.matrix = matrix
        ctx.save_for_backward(inputs, inner, kept)
        return stream + out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, inner, kept = ctx.saved_tensors
        to_inputs, found = ctx.matrix.gradients(gradient.to(inputs.dtype), inputs, inner, kept, None)
        return None, None, gradient, to_inputs, *found


class _FeedForward(torch.autograd.Function):
    """x + W₃ (silu(W₁ n) · W₂ n) with n the normalized x (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    @staticmethod
    def forward(
        ctx: Any, norm: Norm, matrices: Sequence[Linear], training: bool, stream: torch.Tensor, *_: torch.Tensor
    ) -> torch.Tensor:
        gate, up, down = matrices
        inputs, inverse = norm.apply(stream, gate.number_format)
        kept = [gate.dropped(inputs, training), up.dropped(inputs, training)]
        opened, gate_inner = gate.apply(inputs, kept[0])
        lifted, up_inner = up.apply(inputs, kept[1])
        product = functional.silu(opened).mul_(lifted)
        kept.append(down.dropped(product, training))
        out, down_inner = down.apply(product, kept[2])
        ctx.norm, ctx.matrices = norm, matrices
        ctx.save_for_backward(stream, inverse, opened, lifted, gate_inner, up_inner, down_inner, *kept)
        return stream + out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        stream, inverse, opened, lifted, *inners = ctx.saved_tensors
        (gate_inner, up_inner, down_inner), kept = inners[:3], inners[3:]
        gate, up, down = ctx.matrices
        let_through = functional.silu(opened)
        product = let_through * lifted
        to_product, of_down = down.gradients(gradient.to(opened.dtype), product, down_inner, kept[2], None)
        to_lifted = let_through.mul_(to_product)
        to_opened = torch.ops.aten.silu_backward(to_product.mul_(lifted), opened)
        inputs = ctx.norm.again(stream, inverse, gate.number_format)
        to_inputs, of_gate = gate.gradients(to_opened, inputs, gate_inner, kept[0], None)
        to_inputs, of_up = up.gradients(to_lifted, inputs, up_inner, kept[1], to_inputs)
        to_stream, to_norm = ctx.norm.gradients(to_inputs, stream, inverse)
        return None, None, None, to_stream.add_(gradient), to_norm, *of_gate, *of_up, *of_down


class _Rotated(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864, eq. 34) in the half-split layout of Llama's weights."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cosine, sine)
        return _turn(values, cosine, sine, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cosine, sine = ctx.saved_tensors
        return _turn(gradient, cosine, sine, -1), None, None


def _turn(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, direction: int) -> torch.Tensor:
    """`values` [tokens, heads, d] turned by the angles of `cosine` and `sine` [tokens, 1, d / 2], in float32."""
    exact = values.float()
    half = exact.shape[-1] // 2
    first, second = exact[..., :half], exact[..., half:]
    out = torch.empty_like(exact)
    torch.mul(first, cosine, out=out[..., :half])
    torch.mul(second, cosine, out=out[..., half:])
    out[..., :half].addcmul_(second, sine, value=-direction)
    out[..., half:].addcmul_(first, sine, value=direction)
    return out.to(values.dtype)


def normalized(stream: torch.Tensor, norm: Norm, number_format: torch.dtype) -> torch.Tensor:
    """The norm of a stream [tokens, width], in a number format."""
    return _Normalized.apply(norm, number_format, stream, norm.weight)


def projected(stream: torch.Tensor, norm: Norm, matrices: Sequence[Linear], training: bool) -> tuple[torch.Tensor, ...]:
    """Several projections [tokens, out] of the normalized stream."""
    weights = [weight for matrix in matrices for weight in matrix.trainable_parameters()]
    return _Projected.apply(norm, matrices, training, stream, norm.weight, *weights)


def rotated(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Queries or keys [tokens, heads, d] at their positions; `cosine` and `sine` are [tokens, 1, d / 2]."""
    return _Rotated.apply(values, cosine, sine)


def added(stream: torch.Tensor, inputs: torch.Tensor, matrix: Linear, training: bool) -> torch.Tensor:
    """The stream plus a projection of `inputs`."""
    return _Added.apply(matrix, training, stream, inputs, *matrix.trainable_parameters())


def feed_forward(stream: torch.Tensor, norm: Norm, matrices: Sequence[Linear], training: bool) -> torch.Tensor:
    """The second half of a block; `matrices` are gate, up and down."""
    weights = [weight for matrix in matrices for weight in matrix.trainable_parameters()]
    return _FeedForward.apply(norm, matrices, training, stream, norm.weight, *weights)
