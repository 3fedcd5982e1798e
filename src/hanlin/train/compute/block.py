"""The two halves of a decoder block with their gradients written out: fewer passes over memory than their pieces make.

Owns arithmetic on tokens [tokens, width]. Does not own attention (`attention`) or which module a weight comes from
(`network`). The stream between blocks is float32; products run in the number format of their matrices' `cast`.

On a CPU half the time of a small model goes into what is no matrix product: casts, norms, sums of gradients. Each half
here normalises once, casts once, and adds up the gradients of its matrices in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Matrix:
    """A projection y = W x + b + scale · B A x: its weights as they are kept, and as a step's arithmetic uses them.

    A and B (`down`, `up`) are an adapter's (Hu et al. 2021, arXiv:2106.09685, eq. 3), or None; `dropout` is the share
    of the adapter's inputs that is dropped.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        down: torch.Tensor | None = None,
        up: torch.Tensor | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        self.weight, self.bias, self.down, self.up = weight, bias, down, up
        self.scale, self.dropout = scale, dropout
        self.cast: torch.Tensor = weight.detach()

    def trained(self) -> list[torch.Tensor]:
        """What gradients are given for, in the order in which `gradients` gives them."""
        return [part for part in (self.weight, self.bias, self.down, self.up) if part is not None]

    def refresh(self, number_format: torch.dtype) -> None:
        """Take over the weights as the last step left them."""
        if self.weight.requires_grad or self.cast.dtype != number_format or self.cast.device != self.weight.device:
            self.cast = self.weight.detach().to(number_format)
        self.number_format = number_format
        self._refresh_adapter(number_format)

    def _refresh_adapter(self, number_format: torch.dtype) -> None:
        self._bias = None if self.bias is None else self.bias.detach().to(number_format)
        self._down = None if self.down is None else self.down.detach().to(number_format)
        self._up = None if self.up is None else self.up.detach().to(number_format)

    def apply(self, inputs: torch.Tensor, kept: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The projection of `inputs` [tokens, in], and the adapter's inner values, which the gradient needs. `kept` is
        what dropout leaves of each input (scaled), or None."""
        out = functional.linear(inputs, self.cast, self._bias)
        if self._down is None or self._up is None:
            return out, None
        inner = (inputs if kept is None else inputs * kept) @ self._down.T
        return out.addmm_(inner, self._up.T, alpha=self.scale), inner

    def gradients(
        self,
        gradient: torch.Tensor,
        inputs: torch.Tensor,
        inner: torch.Tensor | None,
        kept: torch.Tensor | None,
        to_inputs: torch.Tensor | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """The gradient of the inputs, added into `to_inputs` where that is given, and those of `trained()`."""
        to_inputs = gradient @ self.cast if to_inputs is None else to_inputs.addmm_(gradient, self.cast)
        found: list[torch.Tensor | None] = [None]
        if self.weight.requires_grad:
            found = [(gradient.T @ inputs).to(self.weight.dtype)]
        if self.bias is not None:
            found.append(gradient.sum(0, dtype=torch.float32) if self.bias.requires_grad else None)
        if self._down is None or self._up is None or inner is None:
            return to_inputs, found
        through = (gradient @ self._up).mul_(self.scale)
        seen = inputs if kept is None else inputs * kept
        found += [(through.T @ seen).float(), (gradient.T @ inner).float().mul_(self.scale)]
        if kept is None:
            to_inputs.addmm_(through, self._down)
        else:
            to_inputs += (through @ self._down).mul_(kept)
        return to_inputs, found

    def dropped(self, inputs: torch.Tensor, training: bool) -> torch.Tensor | None:
        """What dropout leaves of the adapter's inputs: 0 or 1 / (1 - share) each; None where nothing is dropped."""
        if not training or not self.dropout or self.down is None:
            return None
        return functional.dropout(torch.ones_like(inputs), self.dropout)


class PackedMatrix(Matrix):
    """A projection whose frozen weight is kept in few bits: `unpack` gives it in a number format, each time that it is
    used, so that no more than one is there at once."""

    def __init__(
        self,
        packed: torch.Tensor,
        unpack: Callable[[torch.dtype], torch.Tensor],
        bias: torch.Tensor | None = None,
        *,
        down: torch.Tensor | None = None,
        up: torch.Tensor | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        self._unpack = unpack
        super().__init__(packed, bias, down=down, up=up, scale=scale, dropout=dropout)

    @property
    def cast(self) -> torch.Tensor:  # type: ignore[override]
        return self._unpack(self.number_format)

    @cast.setter
    def cast(self, weight: torch.Tensor) -> None:
        """What is kept of a weight as it is used: nothing."""

    def refresh(self, number_format: torch.dtype) -> None:
        self.number_format = number_format
        self._refresh_adapter(number_format)


class TurnedMatrix(Matrix):
    """A projection by DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5): the rows of W + scale · B A, brought to lengths
    that are trained of their own. Gradients treat the present lengths as constants (section 4.3 there).

    The weight is put together for each pass and its whole gradient taken apart by autograd: right, but about as dear as
    training all weights.
    """

    def __init__(self, whole: Matrix, lengths: nn.Parameter) -> None:
        super().__init__(whole.weight, whole.bias)
        self._parts = (whole.weight, whole.down, whole.up, lengths)
        self._scale = whole.scale

    def trained(self) -> list[torch.Tensor]:
        weight, down, up, lengths = self._parts
        assert down is not None and up is not None
        sum_of_both = weight.detach().float() + self._scale * (up @ down)
        rows = lengths / sum_of_both.detach().norm(dim=1)
        self.weight = rows[:, None] * sum_of_both
        self.cast = self.weight.detach().to(self.number_format)
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def refresh(self, number_format: torch.dtype) -> None:
        self.number_format = number_format
        self._bias = None if self.bias is None else self.bias.detach().to(number_format)
        self._down = self._up = None


class Norm:
    """y = w · x / sqrt(mean x² + ε) (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        self.weight, self.epsilon = weight, epsilon

    def apply(self, stream: torch.Tensor, number_format: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised stream [tokens, width] in the number format, and 1 / length [tokens, 1]."""
        length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        inverse = (length * length / stream.shape[-1]).add_(self.epsilon).rsqrt_()
        return self.again(stream, inverse, number_format), inverse

    def again(self, stream: torch.Tensor, inverse: torch.Tensor, number_format: torch.dtype) -> torch.Tensor:
        """The normalised stream once more: two products of numbers, which cost less than the memory to keep it."""
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


class _Normalised(torch.autograd.Function):
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
        ctx: Any, norm: Norm, matrices: Sequence[Matrix], training: bool, stream: torch.Tensor, *_: torch.Tensor
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
        ctx: Any, matrix: Matrix, training: bool, stream: torch.Tensor, inputs: torch.Tensor, *_: torch.Tensor
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
    """x + W₃ (silu(W₁ n) · W₂ n) with n the normalised x (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    @staticmethod
    def forward(
        ctx: Any, norm: Norm, matrices: Sequence[Matrix], training: bool, stream: torch.Tensor, *_: torch.Tensor
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


def normalised(stream: torch.Tensor, norm: Norm, number_format: torch.dtype) -> torch.Tensor:
    """The norm of a stream [tokens, width], in a number format."""
    return _Normalised.apply(norm, number_format, stream, norm.weight)


def projected(stream: torch.Tensor, norm: Norm, matrices: Sequence[Matrix], training: bool) -> tuple[torch.Tensor, ...]:
    """Several projections [tokens, out] of the normalised stream."""
    weights = [weight for matrix in matrices for weight in matrix.trained()]
    return _Projected.apply(norm, matrices, training, stream, norm.weight, *weights)


def rotated(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Queries or keys [tokens, heads, d] at their positions; `cosine` and `sine` are [tokens, 1, d / 2]."""
    return _Rotated.apply(values, cosine, sine)


def added(stream: torch.Tensor, inputs: torch.Tensor, matrix: Matrix, training: bool) -> torch.Tensor:
    """The stream plus a projection of `inputs`."""
    return _Added.apply(matrix, training, stream, inputs, *matrix.trained())


def feed_forward(stream: torch.Tensor, norm: Norm, matrices: Sequence[Matrix], training: bool) -> torch.Tensor:
    """The second half of a block; `matrices` are gate, up and down."""
    weights = [weight for matrix in matrices for weight in matrix.trained()]
    return _FeedForward.apply(norm, matrices, training, stream, norm.weight, *weights)
