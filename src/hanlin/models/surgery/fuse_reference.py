"""A second computation of fused tensors, to check the first: whole tensors, sorted, in numpy.

Nothing of `fuse_tensor` is used but the description of the tensor; of `pruning`, only the drawing of random masks,
whose share of kept entries is compared with the probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from hanlin.config.settings.surgery.fuse import METHODS
from hanlin.models.folder.layout import TensorEntry
from hanlin.models.safetensors import read_rows
from hanlin.models.surgery.fuse_tensor import COLLINEAR, FusedTensor
from hanlin.models.surgery.pruning import draw_mask, mask_generator

Array = NDArray[np.floating]
_DEVIATIONS = 7.0
"""Standard deviations that the number of randomly kept entries may be off: by chance, once in 10^11 tensors."""


def compare_with_reference(tensor: FusedTensor, stored: torch.Tensor, unit: float) -> float:
    """Compare a stored tensor with its second computation.

    Args:
        tensor: What was fused.
        stored: The tensor as it was written.
        unit: Distance from 1 to the next number of the dtype of the file.

    Returns:
        The largest difference, relative to the largest entry of the tensor.

    Raises:
        RuntimeError: An entry differs by more than rounding, or a mask has another density.
    """
    expected = _fuse(tensor)
    actual = stored.float().numpy().reshape(expected.shape).astype(np.float64)
    difference = np.abs(actual - expected)
    largest = float(np.abs(expected).max(initial=0.0)) or 1.0
    allowed = unit * np.abs(expected) + 2e-6 * largest
    if not bool((difference <= allowed).all()):
        index = np.unravel_index(int(np.argmax(difference - allowed)), difference.shape)
        raise RuntimeError(
            f"{tensor.name}{[int(axis) for axis in index]} was saved as {actual[index]}, but is {expected[index]}"
        )
    return float(difference.max(initial=0.0)) / largest


def _fuse(tensor: FusedTensor) -> Array:
    """Compute a fused tensor in float64, [rows, columns]; a vector is one row."""
    settings = tensor.settings
    weights = np.array([part.weight for part in tensor.parts])
    if settings.method == "linear":
        total = _weighted_sum(weights, (_load(part.entry) for part in tensor.parts))
        return total / weights.sum() if settings.normalize_weights else total
    if settings.method == "slerp":
        first, second = (_load(part.entry).astype(np.float64) for part in tensor.parts)
        return _slerp(first, second, float(weights[1] / weights.sum()))
    if tensor.base is None:
        raise RuntimeError(f"{settings.method} without a base")
    base = _load(tensor.base)
    if settings.method == "model_stock":
        return _model_stock([_load(part.entry).astype(np.float64) for part in tensor.parts], base.astype(np.float64))
    # In float32 as in `fuse_tensor`, so that signs of sums that almost cancel do not depend on the precision
    changes = [_prune(tensor, index, _load(part.entry) - base) for index, part in enumerate(tensor.parts)]
    divisor: Array | float = float(weights.sum())
    if METHODS[settings.method].elects_sign:
        sums = changes[0].copy()
        for change in changes[1:]:
            sums += change
        sign = np.where(sums >= 0, np.float32(1), np.float32(-1))
        agreeing = [np.sign(change) == sign for change in changes]
        changes = [change * agrees for change, agrees in zip(changes, agreeing, strict=True)]
        divisor = _weighted_sum(weights, agreeing)
        divisor[divisor == 0] = 1.0
    total = _weighted_sum(np.ones(len(changes)), changes)
    if settings.normalize_weights:
        total /= divisor
    return base + (1.0 if settings.scale is None else settings.scale) * total


def _weighted_sum(weights: Array, arrays: Iterable[Array]) -> Array:
    """The sum in float64, one array after the other."""
    total: Array = np.zeros(())
    for weight, array in zip(weights, arrays, strict=True):
        total = total + weight * array.astype(np.float64)
    return total


def _prune(tensor: FusedTensor, index: int, change: Array) -> Array:
    """A model's change with its mask, rescaling and weight, float32."""
    part, settings = tensor.parts[index], tensor.settings
    pruning = METHODS[settings.method].pruning
    weight = np.float32(part.weight)
    if pruning == "none" or part.density >= 1:
        return change * weight
    if pruning in ("random", "rank"):
        mask, probabilities = _draw(tensor, index, change)
    else:
        mask, probabilities = _select(tensor, part.density, change), np.ones_like(change)
    factor = 1.0
    if tensor.rescaling == "l1":
        before, after = (float(np.abs(values.astype(np.float64)).sum()) for values in (change, change * mask))
        factor = before / after if before > 0 and after > 0 else 1.0
    elif tensor.rescaling == "probability" and pruning == "random":
        factor = 1 / part.density
    elif tensor.rescaling == "probability":
        mask = mask / probabilities
    return (change * mask) * np.float32(part.weight * factor)


def _draw(tensor: FusedTensor, index: int, change: Array) -> tuple[Array, Array]:
    """The mask of a random method, drawn again, and the probabilities, computed again; their means must agree."""
    part, settings = tensor.parts[index], tensor.settings
    probabilities = np.full(change.shape, part.density, dtype=np.float32)
    if METHODS[settings.method].pruning == "rank" and change.shape[1] > 1:
        epsilon = 0.15 if settings.epsilon is None else settings.epsilon
        ranks = np.empty(change.shape, dtype=np.float32)
        order = np.argsort(np.abs(change), axis=1, kind="stable")
        np.put_along_axis(ranks, order, np.arange(change.shape[1], dtype=np.float32)[None, :], axis=1)
        step = 2 * epsilon / (change.shape[1] - 1)
        probabilities = np.float32(part.density - epsilon) + ranks * np.float32(step)
    generator = mask_generator(tensor.seed, tensor.name, index)
    mask = draw_mask(torch.from_numpy(probabilities), generator).numpy()
    deviation = math.sqrt(float((probabilities * (1 - probabilities)).sum(dtype=np.float64)))
    if abs(float(mask.sum()) - float(probabilities.sum(dtype=np.float64))) > _DEVIATIONS * deviation + 1:
        raise RuntimeError(f"{tensor.name}: the share of kept entries is {mask.mean():.4f}, not {part.density}")
    return mask, probabilities


def _select(tensor: FusedTensor, density: float, change: Array) -> Array:
    """The mask of a method that goes by magnitude, from one sort."""
    size = change.size
    keep = int(density * size)
    if METHODS[tensor.settings.method].pruning == "magnitude":
        chosen = slice(size - max(1, keep), size)
    else:
        gamma = 0.01 if tensor.settings.gamma is None else tensor.settings.gamma
        start = max(0, size - keep - int(gamma * size))
        chosen = slice(start, start + keep)
    mask = np.zeros(size, dtype=np.float32)
    mask[np.argsort(np.abs(change).ravel(), kind="stable")[chosen]] = 1
    return mask.reshape(change.shape)


def _slerp(first: Array, second: Array, share: float) -> Array:
    """Rotate from the first tensor to the second by `share` of the angle between them, in their common plane."""
    length, other = np.linalg.norm(first) or 1.0, np.linalg.norm(second) or 1.0
    a, b = first / length, second / other
    cosine = float(np.clip(np.vdot(a, b), -1, 1))
    if abs(cosine) > COLLINEAR:
        return (1 - share) * first + share * second
    angle = math.atan2(float(np.linalg.norm(b - cosine * a)), cosine)
    return (first * math.sin(angle - share * angle) + second * math.sin(share * angle)) / math.sin(angle)


def _model_stock(models: list[Array], base: Array) -> Array:
    units = [(model - base).ravel() / (np.linalg.norm(model - base) or 1.0) for model in models]
    count = len(units)
    gram = np.array([[float(np.vdot(a, b)) for b in units] for a in units])
    cosine = float(gram[np.triu_indices(count, 1)].mean())
    denominator = 1 + (count - 1) * cosine
    ratio = 0.0 if abs(denominator) < 1e-6 else count * cosine / denominator
    return ratio * np.mean(models, axis=0) + (1 - ratio) * base


def _load(entry: TensorEntry) -> Array:
    values: Array = read_rows(entry).float().numpy()
    return values.reshape(len(values), -1) if values.ndim > 1 else values.reshape(1, -1)
