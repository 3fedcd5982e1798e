"""The shared object of llama.cpp inside the xllamacpp wheel, as Python objects: quantizing, vocabularies, decoding.

Owns every call over the C boundary and nothing that decides: what to quantize is `export`'s, what to generate is the
engine's. Sources: `llama.h` and `ggml.h` of the llama.cpp that xllamacpp names in its version.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

GGML_F32, GGML_F16 = 0, 1
KV_TYPES = {"f32": GGML_F32, "f16": GGML_F16}


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


class TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits`: what ggml knows of a type of numbers."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    )


class Batch(ctypes.Structure):
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


P, _I32, _I64, _BOOL = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_bool
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_blck_size": (_I64, [_I32]),
    "ggml_row_size": (ctypes.c_size_t, [_I32, _I64]),
    "ggml_bf16_to_fp32_row": (None, [P, P, _I64]),
    "ggml_fp16_to_fp32_row": (None, [P, P, _I64]),
    "ggml_get_type_traits": (ctypes.POINTER(TypeTraits), [_I32]),
    "ggml_quantize_chunk": (ctypes.c_size_t, [_I32, P, P, _I64, _I64, _I64, P]),
    "llama_log_set": (None, [P, P]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (_ModelParams, []),
    "llama_context_default_params": (_ContextParams, []),
    "llama_model_load_from_file": (P, [ctypes.c_char_p, _ModelParams]),
    "llama_model_free": (None, [P]),
    "llama_model_get_vocab": (P, [P]),
    "llama_model_n_ctx_train": (_I32, [P]),
    "llama_model_n_embd": (_I32, [P]),
    "llama_model_size": (ctypes.c_uint64, [P]),
    "llama_model_n_layer": (_I32, [P]),
    "llama_model_n_head": (_I32, [P]),
    "llama_model_n_head_kv": (_I32, [P]),
    "llama_model_meta_val_str": (_I32, [P, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
    "llama_vocab_n_tokens": (_I32, [P]),
    "llama_vocab_is_eog": (_BOOL, [P, _I32]),
    "llama_vocab_bos": (_I32, [P]),
    "llama_vocab_eos": (_I32, [P]),
    "llama_tokenize": (_I32, [P, ctypes.c_char_p, _I32, P, _I32, _BOOL, _BOOL]),
    "llama_init_from_model": (P, [P, _ContextParams]),
    "llama_free": (None, [P]),
    "llama_get_memory": (P, [P]),
    "llama_memory_seq_rm": (_BOOL, [P, _I32, _I32, _I32]),
    "llama_n_ctx_seq": (ctypes.c_uint32, [P]),
    "llama_decode": (_I32, [P, Batch]),
    "llama_get_embeddings_ith": (ctypes.POINTER(ctypes.c_float), [P, _I32]),
    "llama_get_logits_ith": (P, [P, _I32]),
}


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The loaded shared object, every function's signature set and the struct layouts checked.

    Raises UserError when xllamacpp is not installed, or is a version whose structs are laid out otherwise.
    """
    spec = importlib.util.find_spec("xllamacpp")
    folders = spec.submodule_search_locations if spec is not None else None
    objects = [file for folder in folders or () for file in sorted(Path(folder).glob("xllamacpp*.so"))]
    if not objects:
        what = tr("the package xllamacpp is not installed")
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
    silent = ctypes.cast(ctypes.pythonapi.Py_IsInitialized, P)
    loaded.llama_log_set(silent, None)
    atexit.register(loaded.llama_log_set, silent, None)
    loaded.llama_backend_init()
    return loaded


def _other_version(path: Path, detail: str) -> UserError:
    what = tr("this version of xllamacpp has another interface than the one known here ({detail})", detail=detail)
    return UserError(what, path, "pip install 'xllamacpp==2026.10.*'")
