"""The KV cache of a transformers model: a slot of keys and values for each running sequence.

A step of the scheduler becomes few calls of the model here, on items padded to one length.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from hanlin.core.hardware.devices import empty_cache
from hanlin.inference.decoder import BatchItem
from hanlin.models.folder.rope import context_length

_MAX_TOKENS_PER_STEP = 2048


class Adapters(Protocol):
    """LoRA adapters of the model, switched by name between two calls."""

    def switch(self, name: str | None) -> None: ...


class TransformersDecoder:
    """A causal model on a device as the scheduler runs it; see `DecoderModel`.

    Calls are serialized by `lock`: two at once would share the same cores, and an adapter applies to the whole model.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device, adapters: Adapters | None) -> None:
        self.device = device
        self.lock = threading.Lock()
        self._decoder: Any = model.get_decoder()
        self._head: Any = model.get_output_embeddings()
        self._adapters = adapters
        config: Any = model.config
        self.layers = int(config.num_hidden_layers)
        self.vocabulary_size = int(self._decoder.get_input_embeddings().weight.shape[0])
        self.trained_context = context_length(config.to_dict())
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.cache_bytes_per_token = 2 * self.layers * int(heads * width) * model.dtype.itemsize

    def new_kv_cache(self, *, sequences: int, length: int) -> TransformersKVCache:
        return TransformersKVCache(self, sequences=sequences, length=length)

    @torch.inference_mode()
    def hidden(self, adapter: str | None = None, **inputs: Any) -> torch.Tensor:
        """Hidden states [rows, tokens, hidden size]. The output head stays that of the adapter until the next call."""
        if self._decoder is None:
            raise RuntimeError("the engine is closed")
        if self._adapters is not None:
            self._adapters.switch(adapter)
        return cast(torch.Tensor, self._decoder(**inputs).last_hidden_state)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [positions, vocabulary] in float32 of hidden states [positions, hidden size]."""
        return cast(torch.Tensor, self._head(hidden).float())

    def close(self) -> None:
        with self.lock:
            self._decoder = self._head = None
        empty_cache(self.device)


class TransformersKVCache:
    """Keys and values of `sequences` slots of up to `length` tokens each; see `KVCache`."""

    def __init__(self, decoder: TransformersDecoder, *, sequences: int, length: int) -> None:
        self.length, self.batch = length, max(_MAX_TOKENS_PER_STEP, sequences)
        self._decoder = decoder
        self._layers = [_KVCacheLayer(sequences, length) for _ in range(decoder.layers)]
        self._cache = Cache(layers=list(self._layers))

    def truncate(self, sequence: int, start: int) -> None:
        """Nothing to do: the mask hides what is beyond a sequence's end until it is overwritten."""

    @torch.inference_mode()
    def decode(self, items: Sequence[BatchItem]) -> list[NDArray[np.float32]]:
        """See `KVCache.decode`. Items of one adapter and of similar length share a call of the model."""
        results: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32) for _ in items]
        for group in _group_items(items):
            with self._decoder.lock:
                logits = self._run([items[index] for index in group])
            first = 0
            for index in group:
                count = len(items[index].logit_offsets)
                results[index] = logits[first : first + count]
                first += count
        return results

    def _run(self, items: Sequence[BatchItem]) -> NDArray[np.float32]:
        """The requested logits [positions, vocabulary] of items of one adapter, concatenated.

        Rows are padded on the right; nothing of the padding is stored.
        """
        device = self._decoder.device
        max_length = max(len(item.ids) for item in items)
        ids = np.zeros((len(items), max_length), np.int64)
        positions = np.zeros((len(items), max_length), np.int64)
        is_token = np.zeros((len(items), max_length), np.bool_)
        for row, item in enumerate(items):
            size = len(item.ids)
            ids[row, :size] = item.ids
            positions[row, :size] = np.arange(item.start, item.start + size)
            is_token[row, :size] = True
        sequences = np.array([item.sequence for item in items])
        rows, columns = is_token.nonzero()
        length_seen = int(positions.max()) + 1
        index = _CacheIndex(
            sequences=_as_slice(sequences, device),
            length_seen=length_seen,
            rows=torch.from_numpy(rows).to(device),
            columns=torch.from_numpy(columns).to(device),
            slots=torch.from_numpy(sequences[rows]).to(device),
            positions=torch.from_numpy(positions[rows, columns]).to(device),
        )
        for layer in self._layers:
            layer.index = index
        position_ids = torch.from_numpy(positions).to(device)
        # padding counts as position 0, which every row holds: attention without any weight would be no number
        mask = torch.arange(length_seen, device=device)[None, None, None, :] <= position_ids[:, None, :, None]
        hidden = self._decoder.hidden(
            items[0].adapter,
            input_ids=torch.from_numpy(ids).to(device),
            position_ids=position_ids,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        logit_positions = [(row, offset) for row, item in enumerate(items) for offset in item.logit_offsets]
        if not logit_positions:
            return np.empty((0, self._decoder.vocabulary_size), np.float32)
        logit_rows, offsets = (torch.tensor(column, device=device) for column in zip(*logit_positions, strict=True))
        return cast(NDArray[np.float32], self._decoder.logits(hidden[logit_rows, offsets]).cpu().numpy())

    def close(self) -> None:
        for layer in self._layers:
            layer.free()


class _CacheIndex:
    """Indices of one call: the slots of its rows, the length they attend to, and where the new tokens are written."""

    def __init__(
        self,
        sequences: slice | torch.Tensor,
        length_seen: int,
        rows: torch.Tensor,
        columns: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        self.sequences, self.length_seen = sequences, length_seen
        self.rows, self.columns, self.slots, self.positions = rows, columns, slots, positions


class _KVCacheLayer(DynamicLayer):
    """Keys and values of one layer, [slots, heads, length, head size].

    A call writes its new tokens and gets a view. Keys and values are copied only if the slots of the call are not
    contiguous.
    """

    index: _CacheIndex

    def __init__(self, sequences: int, length: int) -> None:
        super().__init__()
        self._shape = (sequences, length)
        self._buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        index = self.index
        if not self._buffers:
            sequences, length = self._shape
            self._buffers = [
                _zeros((sequences, states.shape[1], length, states.shape[3]), states)
                for states in (key_states, value_states)
            ]
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[index.slots, :, index.positions] = states[index.rows, :, index.columns]
        self.keys, self.values = (buffer[index.sequences, :, : index.length_seen] for buffer in self._buffers)
        return self.keys, self.values

    def free(self) -> None:
        self._buffers = []
        self.keys = self.values = None


def _zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Zeros, since masked values are still multiplied by a weight of 0.

    In main memory the system allocates pages when they are first written; those of torch's own zeros are allocated at
    once.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return torch.from_numpy(np.zeros(math.prod(shape) * like.itemsize, np.uint8)).view(like.dtype).view(shape)


def _as_slice(sequences: NDArray[np.int64], device: torch.device) -> slice | torch.Tensor:
    """The same slots as a slice if they are contiguous: indexing with a slice copies nothing."""
    first = int(sequences[0])
    if (sequences == np.arange(first, first + len(sequences))).all():
        return slice(first, first + len(sequences))
    return torch.from_numpy(sequences).to(device)


def _group_items(items: Sequence[BatchItem]) -> Iterator[list[int]]:
    """Groups of item indices of one adapter, none more than twice as long as another, ordered by slot."""
    order = sorted(range(len(items)), key=lambda index: (items[index].adapter or "", len(items[index].ids)))
    group: list[int] = []
    for index in order:
        if group:
            first, item = items[group[0]], items[index]
            if item.adapter != first.adapter or len(item.ids) > 2 * len(first.ids):
                yield sorted(group, key=lambda item_index: items[item_index].sequence)
                group = []
        group.append(index)
    if group:
        yield sorted(group, key=lambda item_index: items[item_index].sequence)
