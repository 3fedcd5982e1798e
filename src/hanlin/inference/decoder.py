"""What a backend implements: a model, its context, and the pieces of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class BatchItem(NamedTuple):
    """Ids of one sequence that a step runs: the position of the first, the offsets of those whose logits are wanted,
    and the adapter that acts on the model for them."""

    sequence: int
    start: int
    ids: Sequence[int]
    wanted: Sequence[int]
    adapter: str | None = None


class KVCache(Protocol):
    """Keys and values of sequences of up to `length` ids each; a step runs at most `batch` ids."""

    length: int
    batch: int

    def truncate(self, sequence: int, start: int) -> None:
        """Drop what a sequence holds from position `start` on."""

    def decode(self, items: Sequence[BatchItem]) -> Sequence[NDArray[np.float32]]:
        """Run pieces of different sequences; the wanted logits [positions, vocabulary] of each, until the next call."""

    def close(self) -> None: ...


class DecoderModel(Protocol):
    """What a scheduler runs. It sees to it itself where others run it too."""

    vocabulary_size: int
    trained_context: int

    @property
    def new_kv_cache(self) -> Callable[..., KVCache]:
        """Makes a context for so many `sequences` of that `length`; what else it takes is the model's own."""

    def close(self) -> None: ...
