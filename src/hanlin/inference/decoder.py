"""What a backend implements for the scheduler: a model, its KV cache, and the items of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class BatchItem(NamedTuple):
    """Tokens of one sequence that a step runs.

    Attributes:
        sequence: Slot of the KV cache.
        start: Position of the first token.
        ids: The token ids.
        logit_offsets: Offsets into `ids` of the tokens whose logits are returned.
        adapter: Name of the LoRA adapter to apply, or None.

    A step that prefills slot 0 and decodes one token in slot 2:

        BatchItem(sequence=0, start=0, ids=[7, 8, 9], logit_offsets=[2])  -> logits [1, vocabulary]
        BatchItem(sequence=2, start=5, ids=[4], logit_offsets=[0])        -> logits [1, vocabulary]
    """

    sequence: int
    start: int
    ids: Sequence[int]
    logit_offsets: Sequence[int]
    adapter: str | None = None


class KVCache(Protocol):
    """Keys and values of several sequences of up to `length` tokens each; a step runs at most `batch` tokens."""

    length: int
    batch: int

    def truncate(self, sequence: int, start: int) -> None:
        """Drop the keys and values of a sequence from position `start` on."""

    def decode(self, items: Sequence[BatchItem]) -> Sequence[NDArray[np.float32]]:
        """Run items of different sequences.

        Returns the logits [logit_offsets, vocabulary] of each, valid until the next call.
        """

    def close(self) -> None: ...


class DecoderModel(Protocol):
    """A model that the scheduler runs. It synchronizes its own calls if others use it too."""

    vocabulary_size: int
    trained_context: int

    @property
    def new_kv_cache(self) -> Callable[..., KVCache]:
        """Make a KV cache for `sequences` sequences of `length` tokens; further arguments are the model's own."""

    def close(self) -> None: ...
