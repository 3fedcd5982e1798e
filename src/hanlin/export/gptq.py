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
    model: Any, rows: Sequence[Sequence[int]], group: int, tell: Callable[[int, int], None]
) -> dict[str, QuantizedWeight]:
    """Round every projection of the blocks in place, layer after layer, each on the inputs that the rounded layers
    before it give, and return the grids by module name. `rows` are the ids that are read; `tell(done, total)`.
    """
    decoder = model.get_decoder()
    hidden, arguments = _first_inputs(decoder, rows)
    found: dict[str, QuantizedWeight] = {}
    for number, layer in enumerate(decoder.layers):
        parts = {name: part for name, part in layer.named_modules() if isinstance(part, torch.nn.Linear)}
        squares = {name: torch.zeros(part.in_features, part.in_features) for name, part in parts.items()}
        with ExitStack() as listening:
            for name, part in parts.items():
                handle = part.register_forward_pre_hook(_accumulate_into(squares[name]))
                listening.callback(handle.remove)
            _run_layer(layer, hidden, arguments)
        for name, part in parts.items():
            rounded = quantize_weight(part.weight.data.float(), squares[name], group)
            part.weight.data.copy_(rounded.weight)
            found[f"model.layers.{number}.{name}"] = rounded
        hidden = _run_layer(layer, hidden, arguments)
        tell(number + 1, len(decoder.layers))
    return found


def quantize_weight(weight: torch.Tensor, squares: torch.Tensor, group: int) -> QuantizedWeight:
    """Round `weight` [rows, columns] with as little change as can be of what it gives on the inputs whose products are
    summed in `squares` [columns, columns], the Hessian but for a factor.
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
    def add(_: object, given: tuple[torch.Tensor, ...]) -> None:
        flat = given[0].detach().reshape(-1, given[0].shape[-1]).float()
        squares.addmm_(flat.T, flat)

    return add


class _StopForward(Exception):
    """The first layer was reached."""


def _first_inputs(decoder: Any, rows: Sequence[Sequence[int]]) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """What the first layer is given for each row: hidden states, and the rest by name (positions, mask)."""
    hidden: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = []

    def catch(_: object, given: tuple[torch.Tensor, ...], named: dict[str, Any]) -> None:
        hidden.append(given[0].detach())
        arguments.append(named)
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
        given = [layer(states, **named) for states, named in zip(hidden, arguments, strict=True)]
    return [out[0] if isinstance(out, tuple) else out for out in given]
