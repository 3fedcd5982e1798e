"""A model and its KV cache through llama.cpp's C functions."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import available_cores
from hanlin.inference.backends.llama_cpp.binding import KV_TYPES, Batch, P, library
from hanlin.inference.decoder import BatchItem

_FLASH_ATTENTION_OFF = 0


_LOG_ERROR = 4  # ggml_log_level


_SMALL_MODEL = 64 << 20


_SLOT_MULTIPLE = 256  # llama.cpp rounds the cells of a sequence up to this


_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@contextmanager
def _capture_errors() -> Iterator[list[str]]:
    """Collect what llama.cpp logs as errors; its log is silent otherwise."""
    errors: list[str] = []

    def on_log(level: int, text: bytes | None, _: object) -> None:
        if level == _LOG_ERROR and text:
            errors.append(text.decode("utf-8", "replace").strip())

    callback = _LogCallback(on_log)
    library().llama_log_set(ctypes.cast(callback, P), None)
    try:
        yield errors
    finally:
        library().llama_log_set(ctypes.cast(ctypes.pythonapi.Py_IsInitialized, P), None)


class LlamaCppModel:
    """A GGUF file loaded by llama.cpp: its vocabulary, and unless `vocabulary_only` its weights, memory-mapped.

    Raises UserError when llama.cpp does not take the file.
    """

    def __init__(self, path: Path, *, vocabulary_only: bool = False, gpu_layers: int = -1) -> None:
        self.path = path
        self._library = library()
        if not path.is_file():
            raise UserError(tr("there is no such GGUF file"), path, code="not_found")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UserError(tr("not a GGUF file"), path)
        params = self._library.llama_model_default_params()
        params.vocab_only = vocabulary_only
        params.n_gpu_layers = gpu_layers
        with _capture_errors() as errors:
            self._handle = self._library.llama_model_load_from_file(os.fsencode(path), params)
        if not self._handle:
            reason = errors[0] if errors else "?"
            what = tr("llama.cpp cannot load this file: {reason}", reason=reason)
            raise UserError(what, path, tr("export it again"))
        self._vocabulary = self._library.llama_model_get_vocab(self._handle)
        self.vocabulary_size = int(self._library.llama_vocab_n_tokens(self._vocabulary))
        self.trained_context = int(self._library.llama_model_n_ctx_train(self._handle))
        self.bytes = int(self._library.llama_model_size(self._handle))

    @property
    def bos_id(self) -> int | None:
        return self._id(self._library.llama_vocab_bos)

    @property
    def eos_id(self) -> int | None:
        return self._id(self._library.llama_vocab_eos)

    def _id(self, ask: Callable[[int], int]) -> int | None:
        token_id = int(ask(self._vocabulary))
        return None if token_id < 0 else token_id

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id at which a program over llama.cpp ends an answer by itself."""
        ends = self._library.llama_vocab_is_eog
        return frozenset(token_id for token_id in range(self.vocabulary_size) if ends(self._vocabulary, token_id))

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token in float16."""
        ask = self._library
        heads = max(1, int(ask.llama_model_n_head(self._handle)))
        width = int(self.meta("llama.attention.key_length") or ask.llama_model_n_embd(self._handle) // heads)
        layers, shared = int(ask.llama_model_n_layer(self._handle)), int(ask.llama_model_n_head_kv(self._handle))
        return 2 * 2 * layers * shared * width

    def meta(self, key: str) -> str | None:
        """A value of the file's metadata as text; None when there is none."""
        buffer = ctypes.create_string_buffer(1 << 16)
        length = self._library.llama_model_meta_val_str(self._handle, key.encode(), buffer, len(buffer))
        return None if length < 0 else buffer.value.decode("utf-8", "replace")

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text: nothing is set before or after it and no special token is recognized in it."""
        data = text.encode()
        ids = np.empty(len(data) + 16, dtype=np.int32)
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), ids.ctypes.data, len(ids), False, False)
        if count < 0:
            raise RuntimeError(f"llama_tokenize needs {-count} places for {len(data)} bytes")
        return [int(token_id) for token_id in ids[:count]]

    def new_kv_cache(self, **settings: Any) -> LlamaCppKVCache:
        return LlamaCppKVCache(self, **settings)

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The mean of the last layer's hidden states of each row of ids, of length 1; [texts, width]."""
        if not texts:
            return np.empty((0, 0), np.float32)
        context = LlamaCppKVCache(self, sequences=1, length=max(map(len, texts)), batch=512, hidden=True)
        try:
            means = np.stack([context.mean_hidden(ids) for ids in texts])
        finally:
            context.close()
        return (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def close(self) -> None:
        if self._handle:
            self._library.llama_model_free(self._handle)
            self._handle = None


class LlamaCppKVCache:
    """A `llama_context`: keys and values of `sequences` sequences of up to `length` tokens each; see `KVCache`.

    Only one thread at a time may use it.
    """

    def __init__(
        self,
        model: LlamaCppModel,
        *,
        sequences: int,
        length: int,
        threads: int | None = None,
        batch: int = 2048,
        cache_type: str = "f16",
        hidden: bool = False,
    ) -> None:
        """`threads` None: one for a small model, where waiting for one another costs threads more than they save, and
        costs ten times more while another process holds a core; every core for a larger one. `hidden`: for
        `mean_hidden` instead of `decode`.
        """
        self._library = model._library
        self._model = model
        self.sequences = sequences
        length = -(-length // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
        self.batch = min(batch, sequences * length)
        params = self._library.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch = sequences * length, sequences, self.batch
        if threads is None:
            threads = 1 if model.bytes < _SMALL_MODEL else available_cores()
        params.n_threads = params.n_threads_batch = threads
        params.embeddings, params.pooling_type = hidden, 0 if hidden else params.pooling_type
        params.type_k = params.type_v = KV_TYPES[cache_type]
        if cache_type == "f32":
            params.flash_attn_type = _FLASH_ATTENTION_OFF  # which rounds keys and values to float16
        with _capture_errors() as errors:
            self._handle = self._library.llama_init_from_model(model._handle, params)
        if not self._handle:
            reason = errors[0] if errors else "?"
            what = tr("llama.cpp cannot allocate memory for this model: {reason}", reason=reason)
            raise UserError(what, model.path, tr("lower context_length or parallel"))
        self._memory = self._library.llama_get_memory(self._handle)
        self._row = ctypes.c_float * model.vocabulary_size
        self.length = int(self._library.llama_n_ctx_seq(self._handle))
        self._token, self._position, self._sequence = (np.zeros(self.batch, np.int32) for _ in range(3))
        self._ones = np.ones(self.batch, np.int32)
        self._output = np.zeros(self.batch, np.int8)
        # llama_batch wants a pointer to a list of sequences for each token; each of ours points to one entry
        self._lists = self._sequence.ctypes.data + 4 * np.arange(self.batch, dtype=np.uint64)
        arrays = (self._token, None, self._position, self._ones, self._lists, self._output)
        self._arrays = Batch(0, *(None if array is None else array.ctypes.data for array in arrays))

    def truncate(self, sequence: int, start: int) -> None:
        """Drop the keys and values of a sequence from position `start` on."""
        if not self._library.llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise RuntimeError(f"llama.cpp cannot drop part of sequence {sequence}")

    def mean_hidden(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """Mean of the last layer's hidden states [hidden size] of a sequence that is run alone."""
        self.truncate(0, 0)
        width = int(self._library.llama_model_n_embd(self._model._handle))
        total = np.zeros(width)
        for start in range(0, len(ids), self.batch):
            part = ids[start : start + self.batch]
            self._run([BatchItem(0, start, part, range(len(part)))])
            for index in range(len(part)):
                row = self._library.llama_get_embeddings_ith(self._handle, index)
                total += np.ctypeslib.as_array(row, shape=(width,))
        return total / len(ids)

    def decode(self, items: Sequence[BatchItem]) -> list[NDArray[np.float32]]:
        """Run tokens through the model; returns the logits [logit_offsets, vocabulary] of each item, in order.

        All items together hold at most `batch` tokens. The arrays are views that the next call overwrites.
        """
        self._run(items)
        results = []
        count = 0
        for _, _, ids, logit_offsets, _ in items:
            results.append(self._logits([count + offset for offset in logit_offsets]))
            count += len(ids)
        return results

    def _run(self, items: Sequence[BatchItem]) -> None:
        count = 0
        self._output[:] = 0
        for sequence, position, ids, logit_offsets, _ in items:
            end = count + len(ids)
            self._token[count:end] = ids
            self._position[count:end] = range(position, position + len(ids))
            self._sequence[count:end] = sequence
            for offset in logit_offsets:
                self._output[count + offset] = 1
            count = end
        self._arrays.n_tokens = count
        failed = self._library.llama_decode(self._handle, self._arrays)
        if failed:
            raise RuntimeError(f"llama_decode failed ({failed}) on {count} ids")

    def _logits(self, rows: Sequence[int]) -> NDArray[np.float32]:
        width = self._model.vocabulary_size
        if not rows:
            return np.empty((0, width), np.float32)
        logits = [self._row_at(self._library.llama_get_logits_ith(self._handle, row)) for row in rows]
        return logits[0][None] if len(rows) == 1 else np.stack(logits)

    def _row_at(self, address: int) -> NDArray[np.float32]:
        """A view of one row of logits; `np.ctypeslib.as_array` would make a type each time."""
        return np.frombuffer(cast(Any, self._row.from_address(address)), np.float32)

    def close(self) -> None:
        if self._handle:
            self._library.llama_free(self._handle)
            self._handle = None
