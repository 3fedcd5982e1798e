"""The shared object of llama.cpp inside the xllamacpp wheel, as Python objects: quantising, vocabularies, decoding.

Owns every call over the C boundary and nothing that decides: what to quantise is `export`'s, what to generate is the
engine's. Sources: `llama.h` and `ggml.h` of the llama.cpp that xllamacpp names in its version.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.inference.scheduler import Piece

GGML_F32, GGML_F16 = 0, 1
KV_TYPES = {"f32": GGML_F32, "f16": GGML_F16}
_FLASH_ATTENTION_OFF = 0
_LOG_ERROR = 4  # ggml_log_level
_SMALL_MODEL = 64 << 20
_SLOT_MULTIPLE = 256  # llama.cpp rounds the cells of a sequence up to this


class _ModelParams(ctypes.Structure):
    """`struct llama_model_params`."""

    _fields_ = (
        ("devices", ctypes.c_void_p),
        ("tensor_buft_overrides", ctypes.c_void_p),
        ("n_gpu_layers", ctypes.c_int32),
        ("split_mode", ctypes.c_int32),
        ("load_mode", ctypes.c_int32),
        ("lazy_mode", ctypes.c_int32),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("progress_callback", ctypes.c_void_p),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("kv_overrides", ctypes.c_void_p),
        ("vocab_only", ctypes.c_bool),
        ("check_tensors", ctypes.c_bool),
        ("use_extra_bufts", ctypes.c_bool),
        ("no_host", ctypes.c_bool),
        ("no_alloc", ctypes.c_bool),
        ("load_mtp", ctypes.c_bool),
    )


class _ContextParams(ctypes.Structure):
    """`struct llama_context_params`."""

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("n_rs_seq", ctypes.c_uint32),
        ("n_outputs_max", ctypes.c_uint32),
        ("n_outputs_max_per_seq", ctypes.c_uint32),
        ("n_threads", ctypes.c_int32),
        ("n_threads_batch", ctypes.c_int32),
        ("ctx_type", ctypes.c_int32),
        ("rope_scaling_type", ctypes.c_int32),
        ("pooling_type", ctypes.c_int32),
        ("attention_type", ctypes.c_int32),
        ("flash_attn_type", ctypes.c_int32),
        ("rope_freq_base", ctypes.c_float),
        ("rope_freq_scale", ctypes.c_float),
        ("yarn_ext_factor", ctypes.c_float),
        ("yarn_attn_factor", ctypes.c_float),
        ("yarn_beta_fast", ctypes.c_float),
        ("yarn_beta_slow", ctypes.c_float),
        ("yarn_orig_ctx", ctypes.c_uint32),
        ("defrag_thold", ctypes.c_float),
        ("cb_eval", ctypes.c_void_p),
        ("cb_eval_user_data", ctypes.c_void_p),
        ("type_k", ctypes.c_int32),
        ("type_v", ctypes.c_int32),
        ("moe_cache_size", ctypes.c_size_t),
        ("abort_callback", ctypes.c_void_p),
        ("abort_callback_data", ctypes.c_void_p),
        ("embeddings", ctypes.c_bool),
        ("offload_kqv", ctypes.c_bool),
        ("no_perf", ctypes.c_bool),
        ("op_offload", ctypes.c_bool),
        ("swa_full", ctypes.c_bool),
        ("kv_unified", ctypes.c_bool),
        ("samplers", ctypes.c_void_p),
        ("n_samplers", ctypes.c_size_t),
        ("ctx_other", ctypes.c_void_p),
    )


class _Batch(ctypes.Structure):
    """`struct llama_batch`."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.c_void_p),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.c_void_p),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
    )


# The defaults that this layout must show. A struct that grew or lost a field shows others, and calling on would crash.
_MODEL_DEFAULTS = {
    "n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "lazy_mode": 1, "main_gpu": 0, "tensor_split": None,
    "kv_overrides": None, "vocab_only": False, "check_tensors": False, "use_extra_bufts": True, "no_host": False,
    "no_alloc": False, "load_mtp": False,
}  # fmt: skip
_CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_rs_seq": 0, "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1, "ctx_type": 0, "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1,
    "flash_attn_type": -1, "rope_freq_base": 0.0, "rope_freq_scale": 0.0, "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0, "yarn_beta_fast": -1.0, "yarn_beta_slow": -1.0, "yarn_orig_ctx": 0,
    "defrag_thold": -1.0, "cb_eval": None, "type_k": GGML_F16, "type_v": GGML_F16, "moe_cache_size": 0,
    "abort_callback": None, "embeddings": False, "offload_kqv": True, "no_perf": True, "op_offload": True,
    "swa_full": True, "kv_unified": False, "samplers": None, "n_samplers": 0, "ctx_other": None,
}  # fmt: skip

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

_P, _I32, _I64, _BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_bool
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_blck_size": (_I64, [_I32]),
    "ggml_row_size": (ctypes.c_size_t, [_I32, _I64]),
    "ggml_bf16_to_fp32_row": (None, [_P, _P, _I64]),
    "ggml_fp16_to_fp32_row": (None, [_P, _P, _I64]),
    "ggml_quantize_chunk": (ctypes.c_size_t, [_I32, _P, _P, _I64, _I64, _I64, _P]),
    "llama_log_set": (None, [_P, _P]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (_ModelParams, []),
    "llama_context_default_params": (_ContextParams, []),
    "llama_model_load_from_file": (_P, [ctypes.c_char_p, _ModelParams]),
    "llama_model_free": (None, [_P]),
    "llama_model_get_vocab": (_P, [_P]),
    "llama_model_n_ctx_train": (_I32, [_P]),
    "llama_model_n_embd": (_I32, [_P]),
    "llama_model_size": (ctypes.c_uint64, [_P]),
    "llama_model_n_layer": (_I32, [_P]),
    "llama_model_n_head": (_I32, [_P]),
    "llama_model_n_head_kv": (_I32, [_P]),
    "llama_model_meta_val_str": (_I32, [_P, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
    "llama_vocab_n_tokens": (_I32, [_P]),
    "llama_vocab_is_eog": (_BOOL, [_P, _I32]),
    "llama_vocab_bos": (_I32, [_P]),
    "llama_vocab_eos": (_I32, [_P]),
    "llama_tokenize": (_I32, [_P, ctypes.c_char_p, _I32, _P, _I32, _BOOL, _BOOL]),
    "llama_init_from_model": (_P, [_P, _ContextParams]),
    "llama_free": (None, [_P]),
    "llama_get_memory": (_P, [_P]),
    "llama_memory_seq_rm": (_BOOL, [_P, _I32, _I32, _I32]),
    "llama_n_ctx_seq": (ctypes.c_uint32, [_P]),
    "llama_decode": (_I32, [_P, _Batch]),
    "llama_get_embeddings_ith": (ctypes.POINTER(ctypes.c_float), [_P, _I32]),
    "llama_get_logits_ith": (_P, [_P, _I32]),
}


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The loaded shared object, every function's signature set and the struct layouts checked.

    Raises UserError when xllamacpp is not installed, or is a version whose structs are laid out otherwise.
    """
    found = importlib.util.find_spec("xllamacpp")
    folders = found.submodule_search_locations if found is not None else None
    objects = [file for folder in folders or () for file in sorted(Path(folder).glob("xllamacpp*.so"))]
    if not objects:
        what = say("the package xllamacpp is not installed", "未安装软件包 xllamacpp")
        raise UserError(what, hint="pip install xllamacpp")
    try:
        loaded = ctypes.CDLL(str(objects[0]))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
        layout_fits = all(
            getattr(params, name) == value
            for params, defaults in (
                (loaded.llama_model_default_params(), _MODEL_DEFAULTS),
                (loaded.llama_context_default_params(), _CONTEXT_DEFAULTS),
            )
            for name, value in defaults.items()
        )
    except (OSError, AttributeError) as error:
        raise _other_version(objects[0], str(error)) from error
    if not layout_fits:
        raise _other_version(objects[0], "struct layout")
    # A C function that needs no Python: llama.cpp may still log from its own threads while the interpreter ends.
    silent = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, _P)
    loaded.llama_log_set(silent, None)
    atexit.register(loaded.llama_log_set, silent, None)
    loaded.llama_backend_init()
    return loaded


def _other_version(place: Path, detail: str) -> UserError:
    what = say(
        f"this version of xllamacpp has another interface than the one known here ({detail})",
        f"此版本的 xllamacpp 接口与已知的不同（{detail}）",
    )
    return UserError(what, place, "pip install 'xllamacpp==2026.10.*'")


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collects what llama.cpp logs as errors, which is silent otherwise."""
    said: list[str] = []

    def hear(level: int, text: bytes | None, _: object) -> None:
        if level == _LOG_ERROR and text:
            said.append(text.decode("utf-8", "replace").strip())

    callback = _LogCallback(hear)
    library().llama_log_set(ctypes.cast(callback, _P), None)
    try:
        yield said
    finally:
        library().llama_log_set(ctypes.cast(ctypes.pythonapi.Py_IsInitialized, _P), None)


def block_size(kind: int) -> int:
    """How many values of a row a block of this ggml type holds."""
    return int(library().ggml_blck_size(kind))


def row_bytes(kind: int, columns: int) -> int:
    return int(library().ggml_row_size(kind, columns))


def quantize_rows(
    kind: int, rows: NDArray[np.float32], into: NDArray[np.uint8], importance: NDArray[np.float32] | None = None
) -> None:
    """Quantise float32 `rows` [rows, columns] into the bytes `into` [rows, bytes of a row] by `ggml_quantize_chunk`.

    `importance` [columns] weighs the rounding errors of each column; the lowest types cannot do without, and this is
    the caller's to know, for llama.cpp ends the program. Several threads may do so at once: the call holds no lock.
    """
    count, columns = rows.shape
    if not (rows.flags.c_contiguous and into.flags.c_contiguous) or into.nbytes != count * row_bytes(kind, columns):
        raise ValueError("rows and their bytes must be contiguous and of fitting sizes")
    weights = None
    if importance is not None:
        if importance.shape != (columns,) or importance.dtype != np.float32 or not importance.flags.c_contiguous:
            raise ValueError("importance is one float32 for each column")
        weights = importance.ctypes.data
    written = library().ggml_quantize_chunk(kind, rows.ctypes.data, into.ctypes.data, 0, count, columns, weights)
    if written != into.nbytes:
        raise RuntimeError(f"ggml_quantize_chunk wrote {written} bytes of {into.nbytes}")


def as_float32(stored: NDArray[Any], kind: str) -> NDArray[np.float32]:
    """Stored numbers of `kind` (`BF16` and `F16` as uint16, or `F32`) as float32, exactly; the call holds no lock."""
    if kind == "F32":
        return stored
    into = np.empty(stored.shape, np.float32)
    convert = library().ggml_bf16_to_fp32_row if kind == "BF16" else library().ggml_fp16_to_fp32_row
    convert(stored.ctypes.data, into.ctypes.data, stored.size)
    return into


class LlamaCppModel:
    """A GGUF file loaded by llama.cpp: its vocabulary, and unless `vocabulary_only` its weights, memory-mapped.

    Raises UserError when llama.cpp does not take the file.
    """

    def __init__(self, path: Path, *, vocabulary_only: bool = False, gpu_layers: int = -1) -> None:
        self.path = path
        self._library = library()
        if not path.is_file():
            raise UserError(say("there is no such GGUF file", "没有这个 GGUF 文件"), path)
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise UserError(say("not a GGUF file", "不是 GGUF 文件"), path)
        params = self._library.llama_model_default_params()
        params.vocab_only = vocabulary_only
        params.n_gpu_layers = gpu_layers
        with _complaints() as said:
            self._handle = self._library.llama_model_load_from_file(os.fsencode(path), params)
        if not self._handle:
            reason = said[0] if said else "?"
            what = say(f"llama.cpp cannot load this file: {reason}", f"llama.cpp 无法加载此文件：{reason}")
            raise UserError(what, path, say("export it again", "请重新导出"))
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
        number = int(ask(self._vocabulary))
        return None if number < 0 else number

    @property
    def end_ids(self) -> frozenset[int]:
        """Every id at which a program over llama.cpp ends an answer by itself."""
        ends = self._library.llama_vocab_is_eog
        return frozenset(number for number in range(self.vocabulary_size) if ends(self._vocabulary, number))

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
        """Ids of plain text: nothing is set before or after it and no special token is recognised in it."""
        data = text.encode()
        ids = np.empty(len(data) + 16, dtype=np.int32)
        count = self._library.llama_tokenize(self._vocabulary, data, len(data), ids.ctypes.data, len(ids), False, False)
        if count < 0:
            raise RuntimeError(f"llama_tokenize needs {-count} places for {len(data)} bytes")
        return [int(number) for number in ids[:count]]

    def context(self, **settings: Any) -> Context:
        return Context(self, **settings)

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """The mean of the last layer's hidden states of each row of ids, of length 1; [texts, width]."""
        if not texts:
            return np.empty((0, 0), np.float32)
        context = Context(self, sequences=1, length=max(map(len, texts)), batch=512, hidden=True)
        try:
            means = np.stack([context.mean_hidden(ids) for ids in texts])
        finally:
            context.close()
        return (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def close(self) -> None:
        if self._handle:
            self._library.llama_model_free(self._handle)
            self._handle = None


class Context:
    """Working memory of a model: the keys and values of `sequences` sequences of up to `length` ids each.

    One thread at a time may use it.
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
        `mean_hidden` instead of `decode`."""
        self._library = model._library
        self._model = model
        self.sequences = sequences
        length = -(-length // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
        self.batch = min(batch, sequences * length)
        params = self._library.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch = sequences * length, sequences, self.batch
        if threads is None:
            threads = 1 if model.bytes < _SMALL_MODEL else len(os.sched_getaffinity(0))
        params.n_threads = params.n_threads_batch = threads
        params.embeddings, params.pooling_type = hidden, 0 if hidden else params.pooling_type
        params.type_k = params.type_v = KV_TYPES[cache_type]
        if cache_type == "f32":
            params.flash_attn_type = _FLASH_ATTENTION_OFF  # which rounds keys and values to float16
        with _complaints() as said:
            self._handle = self._library.llama_init_from_model(model._handle, params)
        if not self._handle:
            reason = said[0] if said else "?"
            what = say(f"llama.cpp cannot make room for this model: {reason}", f"llama.cpp 无法分配内存：{reason}")
            raise UserError(
                what, model.path, say("lower context_length or parallel", "调小 context_length 或 parallel")
            )
        self._memory = self._library.llama_get_memory(self._handle)
        self._row = ctypes.c_float * model.vocabulary_size
        self.length = int(self._library.llama_n_ctx_seq(self._handle))
        self._token, self._position, self._sequence = (np.zeros(self.batch, np.int32) for _ in range(3))
        self._ones = np.ones(self.batch, np.int32)
        self._output = np.zeros(self.batch, np.int8)
        # llama_batch wants a pointer to a list of sequences for each token; each of ours points to one entry
        self._lists = self._sequence.ctypes.data + 4 * np.arange(self.batch, dtype=np.uint64)
        arrays = (self._token, None, self._position, self._ones, self._lists, self._output)
        self._arrays = _Batch(0, *(None if array is None else array.ctypes.data for array in arrays))

    def forget(self, sequence: int, start: int) -> None:
        """Drop what a sequence holds from position `start` on."""
        if not self._library.llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise RuntimeError(f"llama.cpp cannot drop part of sequence {sequence}")

    def mean_hidden(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """The mean of the last layer's hidden states [width] of a sequence that is run alone."""
        self.forget(0, 0)
        width = int(self._library.llama_model_n_embd(self._model._handle))
        total = np.zeros(width)
        for start in range(0, len(ids), self.batch):
            part = ids[start : start + self.batch]
            self._run([Piece(0, start, part, range(len(part)))])
            for place in range(len(part)):
                row = self._library.llama_get_embeddings_ith(self._handle, place)
                total += np.ctypeslib.as_array(row, shape=(width,))
        return total / len(ids)

    def decode(self, pieces: Sequence[Piece]) -> list[NDArray[np.float32]]:
        """Run ids through the model and return logits [outputs, vocabulary] of each piece, in order.

        All pieces together hold at most `batch` ids. The arrays are views that the next call overwrites.
        """
        self._run(pieces)
        results = []
        count = 0
        for _, _, ids, wanted, _ in pieces:
            results.append(self._logits([count + offset for offset in wanted]))
            count += len(ids)
        return results

    def _run(self, pieces: Sequence[Piece]) -> None:
        count = 0
        self._output[:] = 0
        for sequence, position, ids, wanted, _ in pieces:
            end = count + len(ids)
            self._token[count:end] = ids
            self._position[count:end] = range(position, position + len(ids))
            self._sequence[count:end] = sequence
            for offset in wanted:
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
        found = [self._row_at(self._library.llama_get_logits_ith(self._handle, row)) for row in rows]
        return found[0][None] if len(rows) == 1 else np.stack(found)

    def _row_at(self, address: int) -> NDArray[np.float32]:
        """A view of one row of logits; `np.ctypeslib.as_array` would make a type each time."""
        return np.frombuffer(cast(Any, self._row.from_address(address)), np.float32)

    def close(self) -> None:
        if self._handle:
            self._library.llama_free(self._handle)
            self._handle = None
