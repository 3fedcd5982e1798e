"""The weights of a merged model, made piece by piece (`hanlin.models.merge`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from hanlin.models.adapter_tensors import EMBEDDINGS, AdapterTensors, check_together
from hanlin.models.folder.layout import ModelFiles, TensorEntry
from hanlin.models.folder.shapes import llama_shapes, separate_entries
from hanlin.models.safetensors import read_pieces
from hanlin.models.save import is_finite, round_weight

PIECE_ENTRIES = 1 << 18
"""Entries of a piece: 1 MB in float32 stays in the processor's cache from reading to writing; with 8 MB each operation
takes two to four times as long."""
MEASURED_PIECES = 8
"""One of so many pieces is measured for `rounding_loss`; measuring takes as long as merging."""


class MergePlan:
    """The weights of a merged model, made piece by piece, and what rounding does to them.

    Args:
        base: The base.
        adapters: What the adapters change, in order.
        factors: A factor on the change of each, all measured from the base; None: one changes what another made.
        dtype: Dtype of the merged weights.
    """

    def __init__(
        self,
        base: ModelFiles,
        adapters: Sequence[AdapterTensors],
        factors: Sequence[float] | None,
        dtype: torch.dtype,
    ) -> None:
        check_together(base, adapters, factors)
        self.base = base
        self.adapters = adapters
        self.factors = factors
        self.dtype = dtype
        self.tied = bool(base.config.get("tie_word_embeddings")) and not any(
            adapter.head_is_separate() for adapter in adapters
        )
        self.names = list(llama_shapes({**base.config, "tie_word_embeddings": self.tied}))
        self._entries = separate_entries(base)
        self.equals_base, self.is_changed = True, False
        self._squares: dict[str, tuple[float, float]] = {}

    @property
    def rounding_loss(self) -> float:
        """The norm of what rounding changed, relative to what the adapters changed, in one of `MEASURED_PIECES`."""
        change, error = (math.fsum(squares) for squares in zip(*self._squares.values(), strict=True))
        return math.sqrt(error / change) if change else 0.0

    def entry(self, name: str) -> TensorEntry:
        """Where the base has a weight; the output head of a tied base is its embedding matrix."""
        return self._entries.get(name) or self._entries[EMBEDDINGS]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight."""
        return self.entry(name).shape

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """Make a weight, in pieces of whole rows; several threads may make one each.

        A piece lives in memory that the next one takes: with fresh memory for each, converting and multiplying takes
        two to three times as long.

        Raises:
            UserError: A number of an adapter or of the base is not finite, or becomes too large for the dtype.
        """
        entry = self.entry(name)
        columns = math.prod(entry.shape[1:])
        rows = max(1, PIECE_ENTRIES // max(1, columns)) if len(entry.shape) > 1 else entry.shape[0]
        changed = any(adapter.changes(name) for adapter in self.adapters)
        shape = (min(rows, entry.shape[0]) if changed else 0, *entry.shape[1:])
        work, rounded = torch.empty(shape, dtype=torch.float32), torch.empty(shape, dtype=self.dtype)
        change = error = 0.0
        for index, (start, piece) in enumerate(read_pieces(entry, rows)):
            if not changed:
                yield round_weight(piece, self.dtype, name, entry.file)
                continue
            exact = self.merge(name, work[: len(piece)].copy_(piece), start)
            result = rounded[: len(piece)].copy_(exact)
            self._compare(piece, exact, result)
            if index % MEASURED_PIECES == 0:
                change += float((exact - piece.float()).norm()) ** 2
                error += float((result.float() - exact).norm()) ** 2
            yield result if is_finite(result) else round_weight(exact, self.dtype, name, entry.file)
        self._squares[name] = (change, error)

    def merge(self, name: str, weight: torch.Tensor, start: int) -> torch.Tensor:
        """Return rows of a weight, float32, with all adapters merged; those that are given may be overwritten."""
        if self.factors is None:
            for adapter in self.adapters:
                weight = adapter.apply(name, weight, start) if adapter.changes(name) else weight
            return weight
        total = weight.clone()
        for adapter, factor in zip(self.adapters, self.factors, strict=True):
            if adapter.changes(name):
                total += (adapter.apply(name, weight.clone(), start) - weight) * factor
        return total

    def _compare(self, stored: torch.Tensor, exact: torch.Tensor, rounded: torch.Tensor) -> None:
        """Note whether the adapters change a number, before and after rounding, until one is known to change."""
        if not self.is_changed:
            self.is_changed = not torch.equal(exact, stored.float())
        if self.equals_base and not torch.equal(rounded, stored.to(self.dtype)):
            self.equals_base = False
