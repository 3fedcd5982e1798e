"""Linear layers with explicit backward passes: plain, quantized, and with LoRA or DoRA adapters.

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
        weight: [out_features, in_features], in its storage dtype.
        bias: [out_features], or None.
        lora_A: [rank, in_features], or None without an adapter.
        lora_B: [out_features, rank], or None without an adapter.
        scaling: Factor of B A x.
        dropout: Probability that an input of the adapter is set to 0 in training.
        compute_weight: `weight` in the compute dtype, as of the last `refresh`.
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

    def autograd_inputs(self) -> list[torch.Tensor]:
        """The tensors that autograd must see, frozen ones included, in the order of the gradients of `backward`."""
        return [tensor for tensor in (self.weight, self.bias, self.lora_A, self.lora_B) if tensor is not None]

    def refresh(self, dtype: torch.dtype) -> None:
        """Cast the weights to `dtype`, the compute dtype; needed after each optimizer step."""
        is_stale = self.compute_weight.dtype != dtype or self.compute_weight.device != self.weight.device
        if self.weight.requires_grad or is_stale:
            self.compute_weight = self.weight.detach().to(dtype)
        self.dtype = dtype
        self._refresh_adapter(dtype)

    def _refresh_adapter(self, dtype: torch.dtype) -> None:
        self._bias = None if self.bias is None else self.bias.detach().to(dtype)
        self._lora_A = None if self.lora_A is None else self.lora_A.detach().to(dtype)
        self._lora_B = None if self.lora_B is None else self.lora_B.detach().to(dtype)

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the outputs of the layer.

        Args:
            inputs: [tokens, in_features].
            mask: The `dropout_mask` of the inputs, [tokens, in_features], or None.

        Returns:
            The outputs [tokens, out_features], and A x [tokens, rank] for `backward`, None without an adapter.
        """
        out = functional.linear(inputs, self.compute_weight, self._bias)
        if self._lora_A is None or self._lora_B is None:
            return out, None
        lora_hidden = (inputs if mask is None else inputs * mask) @ self._lora_A.T
        return out.addmm_(lora_hidden, self._lora_B.T, alpha=self.scaling), lora_hidden

    def backward(
        self,
        grad_output: torch.Tensor,
        inputs: torch.Tensor,
        lora_hidden: torch.Tensor | None,
        mask: torch.Tensor | None,
        grad_inputs: torch.Tensor | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Backpropagate through `forward`.

        Args:
            grad_output: [tokens, out_features].
            inputs: The inputs of `forward`, [tokens, in_features].
            lora_hidden: The second result of `forward`, [tokens, rank], or None.
            mask: The mask that `forward` was called with.
            grad_inputs: Gradient of the inputs to accumulate into, in place, [tokens, in_features]; None for a new one.

        Returns:
            The gradient of the inputs [tokens, in_features], and those of `autograd_inputs()`: None if frozen.
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
        if self._lora_A is None or self._lora_B is None or lora_hidden is None:
            return grad_inputs, grads
        grad_lora_hidden = (grad_output @ self._lora_B).mul_(self.scaling)
        dropped_inputs = inputs if mask is None else inputs * mask
        grads += [
            (grad_lora_hidden.T @ dropped_inputs).float(),
            (grad_output.T @ lora_hidden).float().mul_(self.scaling),
        ]
        if mask is None:
            grad_inputs.addmm_(grad_lora_hidden, self._lora_A)
        else:
            grad_inputs += (grad_lora_hidden @ self._lora_A).mul_(mask)
        return grad_inputs, grads

    def dropout_mask(self, inputs: torch.Tensor, training: bool) -> torch.Tensor | None:
        """Draw a dropout mask of the adapter's inputs, [tokens, in_features], each element 0 or 1 / (1 - dropout).

        Returns None if nothing is dropped: not training, no dropout, or no adapter.
        """
        if not training or not self.dropout or self.lora_A is None:
            return None
        return functional.dropout(torch.ones_like(inputs), self.dropout)


class QuantizedLinear(Linear):
    """A linear layer with a frozen quantized weight, as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314).

    The weight is dequantized for each matrix product and freed after it, so that at most one dequantized weight is in
    memory at a time.

    Args:
        quantized: The quantized weight, in the layout of its library.
        dequantize: Returns the weight [out_features, in_features] in a dtype.
        bias, lora_A, lora_B, scaling, dropout: As in `Linear`.
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
        """Ignore the assignment in `Linear.__init__`: the weight is computed when it is read."""

    def refresh(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._refresh_adapter(dtype)


class DoraLinear(Linear):
    """DoRA (Liu et al. 2024, arXiv:2402.09353, eq. 5): W + scaling · B A with its rows scaled to trainable magnitudes.

    Gradients treat the norms of the rows as constants (section 4.3 there). The weight is merged for each micro-batch,
    and autograd propagates its full gradient to A, B and the magnitudes: correct, but about as slow as training all
    weights.

    Args:
        base: The layer with its LoRA adapter.
        magnitude: Norms that the rows are scaled to, [out_features].
    """

    def __init__(self, base: Linear, magnitude: nn.Parameter) -> None:
        super().__init__(base.weight, base.bias)
        self._merge_inputs = (base.weight, base.lora_A, base.lora_B, magnitude)
        self._base_scaling = base.scaling

    def autograd_inputs(self) -> list[torch.Tensor]:
        """Merge the adapter into the weight, which `forward` then uses; returns the merged weight, and the bias."""
        weight, lora_A, lora_B, magnitude = self._merge_inputs
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
