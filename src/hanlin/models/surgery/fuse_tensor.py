"""The formulas of fusion for one tensor: averages, and sums of changes of a base, in pieces of whole rows.

All arithmetic is float32; the caller rounds once, to the dtype of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from hanlin.config.settings.surgery.fuse import METHODS, FuseModels
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.folder.layout import TensorEntry
from hanlin.models.safetensors import read_rows
from hanlin.models.save import round_weight
from hanlin.models.surgery.pruning import (
    Keep,
    count_kept,
    keep_by_rank,
    keep_medium,
    keep_random,
    mask_generator,
)

PIECE_ENTRIES = 1 << 24
"""Entries of a piece, 64 MB in float32. It decides nothing: other pieces give the same bytes."""
COLLINEAR = 0.9995
"""Cosine of two weights from which on slerp interpolates linearly: the arc is straight within float32."""
_TINY = 1e-8


@dataclass(frozen=True, slots=True)
class Part:
    """What a model gives to a fused tensor: where it is stored, and its weight and density there."""

    entry: TensorEntry
    weight: float
    density: float = 1.0


class FusedTensor:
    """One tensor of a fused model.

    Args:
        name: Name of the tensor.
        settings: Method and its settings.
        base: The tensor of the base, or None.
        parts: The tensors of the models.
        seed: Seed of random masks.
    """

    def __init__(
        self, name: str, settings: FuseModels, base: TensorEntry | None, parts: Sequence[Part], seed: int
    ) -> None:
        self.name = name
        self.settings = settings
        self.base = base
        self.parts = parts
        self.seed = seed
        shape = parts[0].entry.shape
        self.size = math.prod(shape)
        columns = math.prod(shape[1:]) if len(shape) > 1 else self.size
        rows = max(1, PIECE_ENTRIES // max(1, columns)) if len(shape) > 1 else max(1, self.size)
        self._bounds = [(start, start + rows) for start in range(0, shape[0], rows)]
        self._only: dict[TensorEntry, torch.Tensor] = {}

    def pieces(self) -> Iterator[torch.Tensor]:
        """Compute the fused tensor, in float32 pieces [rows, columns] that follow each other.

        What was read is forgotten with the last piece: of an 8B model most tensors are a single piece.

        Raises:
            UserError: A number of a model is not finite, or the weights of this tensor add up to 0.
        """
        try:
            yield from self._pieces()
        finally:
            self._only.clear()

    def _pieces(self) -> Iterator[torch.Tensor]:
        if METHODS[self.settings.method].needs_base and self.settings.method != "model_stock":
            yield from self._base_and_changes()
            return
        entries = [part.entry for part in self.parts]
        if self.settings.method == "linear":
            factors = self._linear_factors()
        elif self.settings.method == "slerp":
            factors = self._slerp_factors()
        else:
            factors = self._model_stock_factors()
            entries.append(self._base_entry())
        for start, stop in self._bounds:
            total = self._read(entries[0], start, stop) * factors[0]
            for entry, factor in zip(entries[1:], factors[1:], strict=True):
                total += self._read(entry, start, stop) * factor
            yield total

    @property
    def rescaling(self) -> str:
        """What makes up for dropped entries: `probability`, `l1` or `none`."""
        if self.settings.rescale is not None:
            return self.settings.rescale
        return "probability" if METHODS[self.settings.method].pruning in ("random", "rank") else "none"

    def keepers(self) -> list[tuple[Keep, float]]:
        """For each model which entries of its change are kept, and the factor on the kept ones (rescaling)."""
        return [(self._keeper(index, part), self._rescale_factor(index, part)) for index, part in enumerate(self.parts)]

    def _base_and_changes(self) -> Iterator[torch.Tensor]:
        """The base plus the sum of the changes (task vectors τ_t = θ_t - θ_init, arXiv:2212.04089, section 2).

        With elected signs (TIES, arXiv:2306.01708, section 3): the sign of an entry is that of the sum of all weighted
        changes, and the changes of this sign alone are added and divided by their weights (step 3, disjoint merge).
        """
        settings = self.settings
        elects_sign, normalize = METHODS[settings.method].elects_sign, settings.normalize_weights
        scale = 1.0 if settings.scale is None else settings.scale
        weights = [part.weight for part in self.parts]
        if normalize and not elects_sign and abs(math.fsum(weights)) < _TINY:
            raise UserError(tr("the weights of {name} add up to 0", name=self.name), "models", _weights_hint())
        keepers = self.keepers()
        for start, stop in self._bounds:
            base = self._read(self._base_entry(), start, stop)
            changes = []
            for part, (keep, factor) in zip(self.parts, keepers, strict=True):
                change = self._read(part.entry, start, stop) - base
                changes.append(change.mul_(keep(change)).mul_(part.weight * factor))
            total = changes[0].clone()
            for change in changes[1:]:
                total += change
            if elects_sign:
                positive = total >= 0
                total.zero_()
                divisor = torch.zeros_like(total)
                for change, weight in zip(changes, weights, strict=True):
                    agrees = torch.where(positive, change > 0, change < 0).float()
                    total += change * agrees
                    divisor += agrees * weight
                if normalize:
                    divisor[divisor == 0] = 1
                    total /= divisor
            elif normalize:
                total /= math.fsum(weights)
            yield base + total * scale

    def _keeper(self, index: int, part: Part) -> Keep:
        settings, pruning = self.settings, METHODS[self.settings.method].pruning
        if pruning == "none" or part.density >= 1:
            return torch.ones_like
        if pruning in ("magnitude", "medium"):
            gamma = 0.01 if settings.gamma is None else settings.gamma
            drop, keep = count_kept(pruning, self.size, part.density, gamma)
            return keep_medium(lambda: self._changes(part), self.size, drop, keep)
        generator = mask_generator(self.seed, self.name, index)
        if pruning == "random":
            return keep_random(part.density, generator)
        epsilon = 0.15 if settings.epsilon is None else settings.epsilon
        return keep_by_rank(part.density, epsilon, generator, self.rescaling == "probability")

    def _rescale_factor(self, index: int, part: Part) -> float:
        """The factor on all kept entries; that of single ones (della) is in the mask."""
        if part.density >= 1 or self.rescaling == "none":
            return 1.0
        if self.rescaling == "probability":
            return 1 / part.density if METHODS[self.settings.method].pruning == "random" else 1.0
        keep = self._keeper(index, part)
        before = after = 0.0
        for change in self._changes(part):
            before += float(change.abs().sum(dtype=torch.float64))
            after += float((change * keep(change)).abs().sum(dtype=torch.float64))
        return before / after if before > 0 and after > 0 else 1.0

    def _changes(self, part: Part) -> Iterable[torch.Tensor]:
        for start, stop in self._bounds:
            yield self._read(part.entry, start, stop) - self._read(self._base_entry(), start, stop)

    def _linear_factors(self) -> list[float]:
        """Weighted average (model soups, Wortsman et al. 2022, arXiv:2203.05482, equation 1)."""
        weights = [part.weight for part in self.parts]
        if not self.settings.normalize_weights:
            return weights
        total = math.fsum(weights)
        if abs(total) < _TINY:
            raise UserError(tr("the weights of {name} add up to 0", name=self.name), "models", _weights_hint())
        return [weight / total for weight in weights]

    def _slerp_factors(self) -> list[float]:
        """Spherical interpolation: sin((1 - t)θ)/sin θ and sin(tθ)/sin θ, θ the angle between both tensors.

        t is the second weight's share of both. Source: Shoemake 1985, "Animating Rotation with Quaternion Curves",
        section 3.3. As usual for weights, the angle is taken between unit vectors, the factors apply to the tensors as
        they are, and almost parallel or opposite ones are interpolated linearly.
        """
        first, second = (part.weight for part in self.parts)
        if first + second < _TINY:
            raise UserError(tr("the weights of {name} add up to 0", name=self.name), "models", _weights_hint())
        t = second / (first + second)
        cosine = self._cosine(self.parts[0].entry, self.parts[1].entry, None)
        if abs(cosine) > COLLINEAR:
            return [1 - t, t]
        angle = math.acos(cosine)
        return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]

    def _model_stock_factors(self) -> list[float]:
        """Average of N models, moved towards the base: t = N cos θ / (1 + (N - 1) cos θ).

        θ is the mean angle between the changes, the last factor the base's. Source: Jang et al. 2024, arXiv:2403.19522,
        equation 7 (N = 2: equation 3).
        """
        entries = [part.entry for part in self.parts]
        cosines = [
            self._cosine(entry, other, self._base_entry())
            for index, entry in enumerate(entries)
            for other in entries[index + 1 :]
        ]
        count = len(entries)
        cosine = math.fsum(cosines) / len(cosines)
        denominator = 1 + (count - 1) * cosine
        t = 0.0 if abs(denominator) < 1e-6 else count * cosine / denominator  # no estimate: keep the base
        return [t / count] * count + [1 - t]

    def _cosine(self, first: TensorEntry, second: TensorEntry, base: TensorEntry | None) -> float:
        """Cosine of the angle between two tensors, or between their changes of a base; 0 if one is zero."""
        dot = norm = other_norm = 0.0
        for start, stop in self._bounds:
            a, b = self._read(first, start, stop).double(), self._read(second, start, stop).double()
            if base is not None:
                origin = self._read(base, start, stop).double()
                a, b = a - origin, b - origin
            dot += float((a * b).sum())
            norm += float(a.square().sum())
            other_norm += float(b.square().sum())
        if norm <= 0 or other_norm <= 0:
            return 0.0
        return max(-1.0, min(1.0, dot / math.sqrt(norm * other_norm)))

    def _base_entry(self) -> TensorEntry:
        if self.base is None:
            raise RuntimeError(f"{self.settings.method} without a base")
        return self.base

    def _read(self, entry: TensorEntry, start: int, stop: int) -> torch.Tensor:
        """Read rows in float32 [rows, columns]; a tensor of one piece is read once, a vector is one row."""
        if entry in self._only:
            return self._only[entry]
        piece = round_weight(read_rows(entry, start, stop), torch.float32, self.name, entry.file)
        piece = piece.view(len(piece), -1) if len(entry.shape) > 1 else piece.view(1, -1)
        if len(self._bounds) == 1:
            self._only[entry] = piece
        return piece


def _weights_hint() -> str:
    return tr("change a weight, or set normalize: false")
