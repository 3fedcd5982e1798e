"""GPTQ: a model's linear layers in four bits, each column's rounding error compensated in the columns not yet rounded.

Source: Frantar et al. 2023, GPTQ, arXiv:2210.17323, algorithm 1, with symmetric scales for groups of columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

BITS = 4
_LEVELS = 2**BITS - 1
_BLOCK = 128  # columns whose errors are passed on together
_DAMPING = 0.01  # of the mean diagonal


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [rows, columns] on its grid: `weight` as float32, the `scale` [rows, groups] times integers from -8 to
    7.
    """

    weight: torch.Tensor
    scale: torch.Tensor


def quantize_layers(
    model: Any, rows: Sequence[Sequence[int]], group: int, on_progress: Callable[[int, int], None]
) -> dict[str, QuantizedWeight]:
    """Quantize every linear layer of the decoder blocks in place, block by block, each on the outputs of the quantized
    blocks before it.

    Args:
        model: The model of transformers.
        rows: Token ids of each calibration row.
        group: Columns that share a scale.
        on_progress: Called with the number of finished blocks and of all blocks.

    Returns:
        The quantized weights by module name.
    """
    decoder = model.get_decoder()
    hidden, arguments = _first_inputs(decoder, rows)
    quantized: dict[str, QuantizedWeight] = {}
    for index, layer in enumerate(decoder.layers):
        linears = {name: linear for name, linear in layer.named_modules() if isinstance(linear, torch.nn.Linear)}
        squares = {name: torch.zeros(linear.in_features, linear.in_features) for name, linear in linears.items()}
        with ExitStack() as hooks:
            for name, linear in linears.items():
                handle = linear.register_forward_pre_hook(_accumulate_into(squares[name]))
                hooks.callback(handle.remove)
            _run_layer(layer, hidden, arguments)
        for name, linear in linears.items():
            rounded = quantize_weight(linear.weight.data.float(), squares[name], group)
            linear.weight.data.copy_(rounded.weight)
            quantized[f"model.layers.{index}.{name}"] = rounded
        hidden = _run_layer(layer, hidden, arguments)
        on_progress(index + 1, len(decoder.layers))
    return quantized


def quantize_weight(weight: torch.Tensor, squares: torch.Tensor, group: int) -> QuantizedWeight:
    """Quantize a weight matrix with the least change of its outputs on the calibration inputs.

    Args:
        weight: float32 [rows, columns].
        squares: The sum of x xᵀ over the inputs x of the layer, [columns, columns]: the Hessian but for a factor.
        group: Columns that share a scale.

    Returns:
        The weight on its grid, and the scales.
    """
    weight, hessian = weight.clone(), squares.clone()
    diagonal = torch.arange(len(hessian))
    unused = hessian[diagonal, diagonal] == 0
    hessian[unused, unused] = 1.0
    weight[:, unused] = 0.0
    hessian[diagonal, diagonal] += _DAMPING * hessian[diagonal, diagonal].mean()
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    scales = []
    for start in range(0, weight.shape[1], _BLOCK):
        stop = min(start + _BLOCK, weight.shape[1])
        errors = torch.zeros(len(weight), stop - start)
        for column in range(start, stop):
            if column % group == 0:
                scales.append(_row_scales(weight[:, column : column + group]))
            exact, pivot = weight[:, column].clone(), inverse[column, column]
            weight[:, column] = round_to_grid(exact, scales[-1])
            error = (exact - weight[:, column]) / pivot
            weight[:, column + 1 : stop] -= error[:, None] * inverse[column, column + 1 : stop]
            errors[:, column - start] = error
        weight[:, stop:] -= errors @ inverse[start:stop, stop:]
    return QuantizedWeight(weight, torch.stack(scales, dim=1))


def round_to_grid(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The nearest points of a symmetric grid of sixteen."""
    return torch.clamp(torch.round(values / scale), -(_LEVELS + 1) // 2, _LEVELS // 2) * scale


def _row_scales(columns: torch.Tensor) -> torch.Tensor:
    """A scale for each row; a row of zeros has any. Rounded to bfloat16, in which every format can hold it."""
    scale = 2 * columns.abs().amax(dim=1) / _LEVELS
    scale[scale == 0] = 1.0
    return scale.to(torch.bfloat16).float()


def _accumulate_into(squares: torch.Tensor) -> Callable[[object, tuple[torch.Tensor, ...]], None]:
    def add(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        flat = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
        squares.addmm_(flat.T, flat)

    return add


class _StopForward(Exception):
    """The first layer was reached."""


def _first_inputs(decoder: Any, rows: Sequence[Sequence[int]]) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """Record the inputs of the first block for each row: hidden states [1, length, hidden_size], and keywords."""
    hidden: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = []

    def catch(_: object, inputs: tuple[torch.Tensor, ...], keyword_inputs: dict[str, Any]) -> None:
        hidden.append(inputs[0].detach())
        arguments.append(keyword_inputs)
        raise _StopForward

    handle = decoder.layers[0].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for row in rows:
            try:
                with torch.inference_mode():
                    decoder(torch.tensor([list(row)], device=decoder.device), use_cache=False)
            except _StopForward:
                continue
    finally:
        handle.remove()
    return hidden, arguments


def _run_layer(layer: Any, hidden: Sequence[torch.Tensor], arguments: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
    with torch.inference_mode():
        outputs = [layer(states, **keywords) for states, keywords in zip(hidden, arguments, strict=True)]
    return [out[0] if isinstance(out, tuple) else out for out in outputs]
