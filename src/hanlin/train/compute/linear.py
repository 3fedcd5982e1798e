"""Linear layers with their gradients written out: plain, quantized, and with LoRA or DoRA adapters.

Shapes: inputs [tokens, in_features], outputs [tokens, out_features], lora_A [rank, in_features], lora_B [out_features,
rank].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


class Linear:
    """y = W x + b + scaling · B A x, with A and B those of a LoRA adapter (Hu et al. 2021, arXiv:2106.09685, eq. 3).

    Attributes:
        weight, bias, lora_A, lora_B: The tensors as they are kept; all but `weight` may be None.
        scaling: What B A x is multiplied with.
        dropout: The probability with which an input of the adapter is dropped.
        compute_weight: `weight` in the dtype that a step computes in, as of the last `refresh`.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        lora_A: torch.Tensor | None = None,
        lora_B: torch.Tensor | None = None,
        scaling: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        self.weight, self.bias, self.lora_A, self.lora_B = weight, bias, lora_A, lora_B
        self.scaling, self.dropout = scaling, dropout
        self.compute_weight: torch.Tensor = weight.detach()

    def trainable_parameters(self) -> list[torch.Tensor]:
        """The tensors that `backward` returns gradients of, in its order."""
        return [part for part in (self.weight, self.bias, self.lora_A, self.lora_B) if part is not None]

    def refresh(self, dtype: torch.dtype) -> None:
        """Cast the weights, as the last step left them, to the dtype that the next step computes in."""
        stale = self.compute_weight.dtype != dtype or self.compute_weight.device != self.weight.device
        if self.weight.requires_grad or stale:
            self.compute_weight = self.weight.detach().to(dtype)
        self.dtype = dtype
        self._refresh_adapter(dtype)

    def _refresh_adapter(self, dtype: torch.dtype) -> None:
        self._bias = None if self.bias is None else self.bias.detach().to(dtype)
        self._lora_A = None if self.lora_A is None else self.lora_A.detach().to(dtype)
        self._lora_B = None if self.lora_B is None else self.lora_B.detach().to(dtype)

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Project `inputs`.

        Args:
            inputs: [tokens, in_features].
            mask: `dropout_mask` of the inputs.

        Returns:
            The outputs [tokens, out_features], and A x [tokens, rank], which `backward` needs; None without adapter.
        """
        out = functional.linear(inputs, self.compute_weight, self._bias)
        if self._lora_A is None or self._lora_B is None:
            return out, None
        inner = (inputs if mask is None else inputs * mask) @ self._lora_A.T
        return out.addmm_(inner, self._lora_B.T, alpha=self.scaling), inner

    def backward(
        self,
        grad_output: torch.Tensor,
        inputs: torch.Tensor,
        inner: torch.Tensor | None,
        mask: torch.Tensor | None,
        grad_inputs: torch.Tensor | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Backpropagate through `forward`.

        Args:
            grad_output: [tokens, out_features].
            inputs: What `forward` read.
            inner: The second value that `forward` returned.
            mask: The mask that `forward` got.
            grad_inputs: A gradient of the inputs to add to, in place; None to begin one.

        Returns:
            The gradient of the inputs [tokens, in_features], and those of `trainable_parameters()`.
        """
        grad_inputs = (
            grad_output @ self.compute_weight
            if grad_inputs is None
            else grad_inputs.addmm_(grad_output, self.compute_weight)
        )
        grads: list[torch.Tensor | None] = [None]
        if self.weight.requires_grad:
            grads = [(grad_output.T @ inputs).to(self.weight.dtype)]
        if self.bias is not None:
            grads.append(grad_output.sum(0, dtype=torch.float32) if self.bias.requires_grad else None)
        if self._lora_A is None or self._lora_B is None or inner is None:
            return grad_inputs, grads
        grad_inner = (grad_output @ self._lora_B).mul_(self.scaling)
        masked = inputs if mask is None else inputs * mask
        grads += [(grad_inner.T @ masked).float(), (grad_output.T @ inner).float().mul_(self.scaling)]
        if mask is None:
            grad_inputs.addmm_(grad_inner, self._lora_A)
        else:
            grad_inputs += (grad_inner @ self._lora_A).mul_(mask)
        return grad_inputs, grads

    def dropout_mask(self, inputs: torch.Tensor, training: bool) -> torch.Tensor | None:
        """A mask of the adapter's inputs, 0 or 1 / (1 - dropout) each; None if nothing is dropped."""
        if not training or not self.dropout or self.lora_A is None:
            return None
        return functional.dropout(torch.ones_like(inputs), self.dropout)


class QuantizedLinear(Linear):
    """A linear layer whose frozen weight is kept in few bits and dequantized each time that it is used, so that no
    more than one is there at once.
    """

    def __init__(
        self,
        quantized: torch.Tensor,
        dequantize: Callable[[torch.dtype], torch.Tensor],
        bias: torch.Tensor | None = None,
        *,
        lora_A: torch.Tensor | None = None,
        lora_B: torch.Tensor | None = None,
        scaling: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        self._dequantize = dequantize
        super().__init__(quantized, bias, lora_A=lora_A, lora_B=lora_B, scaling=scaling, dropout=dropout)

    @property
    def compute_weight(self) -> torch.Tensor:  # type: ignore[override]
        return self._dequantize(self.dtype)

    @compute_weight.setter
    def compute_weight(self, weight: torch.Tensor) -> None:
        """Nothing is kept."""

    def refresh(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._refresh_adapter(dtype)


class DoraLinear(Linear):
    """DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5): the rows of W + scaling · B A, brought to trained magnitudes.

    Gradients treat the rows' present norms as constants (section 4.3 there). The weight is merged anew for each
    micro-batch and its full gradient taken apart by autograd: correct, but about as slow as training all weights.
    """

    def __init__(self, base: Linear, magnitude: nn.Parameter) -> None:
        """`base` with its adapter; `magnitude` [out_features]."""
        super().__init__(base.weight, base.bias)
        self._parts = (base.weight, base.lora_A, base.lora_B, magnitude)
        self._base_scaling = base.scaling

    def trainable_parameters(self) -> list[torch.Tensor]:
        weight, lora_A, lora_B, magnitude = self._parts
        assert lora_A is not None and lora_B is not None
        merged = weight.detach().float() + self._base_scaling * (lora_B @ lora_A)
        row_scales = magnitude / merged.detach().norm(dim=1)
        self.weight = row_scales[:, None] * merged
        self.compute_weight = self.weight.detach().to(self.dtype)
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def refresh(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._bias = None if self.bias is None else self.bias.detach().to(dtype)
        self._lora_A = self._lora_B = None
