"""Linear layers: plain, quantized, and with adapters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


class Linear:
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

    def trainable_parameters(self) -> list[torch.Tensor]:
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


class QuantizedLinear(Linear):
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


class DoraLinear(Linear):
    """A projection by DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5): the rows of W + scale · B A, brought to lengths
    that are trained of their own. Gradients treat the present lengths as constants (section 4.3 there).

    The weight is put together for each pass and its whole gradient taken apart by autograd: right, but about as dear as
    training all weights.
    """

    def __init__(self, whole: Linear, lengths: nn.Parameter) -> None:
        super().__init__(whole.weight, whole.bias)
        self._parts = (whole.weight, whole.down, whole.up, lengths)
        self._scale = whole.scale

    def trainable_parameters(self) -> list[torch.Tensor]:
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
