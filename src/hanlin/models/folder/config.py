"""Check the values of a `config.json` and an `adapter_config.json`: of the right kind, finite and within limits.

Whoever reads a value later (the shapes of tensors, transformers, the export to GGUF) can then rely on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, mark, tr
from hanlin.core.limits import MAX_RANK, MAX_SIZE, MAX_VOCABULARY
from hanlin.models.folder.layout import MOE_ARCHITECTURES, NEW_BLOCKS

_Check = tuple[Callable[[Any], bool], str]


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number that a float can hold: an integer of 400 digits is none."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and all(_is_int(item, 0, MAX_VOCABULARY) for item in value)


def _is_token_id(value: Any) -> bool:
    return _is_int(value, -1, MAX_VOCABULARY)  # Llama 1 writes -1 for no padding


def _is_rope(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for name, entry in value.items():
        if isinstance(entry, dict) or (name == "partial_rotary_factor" and entry not in (None, 1)):
            return False  # of models whose layers, or dimensions of a head, turn differently
        is_name = name in ("type", "rope_type")
        if is_name and not isinstance(entry, str):
            return False
        if isinstance(entry, int | float) and not isinstance(entry, bool) and not is_number(entry):
            return False
        if name in _ROPE_NUMBERS and entry is not None and not (is_number(entry) and entry > 0):
            return False
    return True


_ROPE_NUMBERS = frozenset(
    [
        *("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        *("attention_factor", "beta_fast", "beta_slow"),
    ]
)


_ROPE_NEEDS: Mapping[str | None, tuple[str, ...]] = {
    **dict.fromkeys(("linear", "dynamic", "yarn"), ("factor",)),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""The numbers without which transformers does not load a model of a type of rotary scaling."""
ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")
"""The types of rotary scaling that transformers computes."""
_SCALED_BY_A_FACTOR = frozenset(("linear", "dynamic", "yarn", "llama3"))
_ROPE_BOUNDS: Mapping[str, tuple[tuple[str, str, tuple[float, float]], ...]] = {
    "yarn": (("beta_slow", "beta_fast", (1.0, 32.0)),),
    "llama3": (("low_freq_factor", "high_freq_factor", (1.0, 4.0)),),
}
"""Pairs of numbers between which a type of scaling goes over from one formula to another, smaller first."""


def _is_quantization(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("quant_method", ""), str)


_SIZE: _Check = (lambda value: _is_int(value, 1, MAX_SIZE), mark("a positive integer"))
_COUNT: _Check = (lambda value: _is_int(value, 0, MAX_SIZE), mark("an integer from 0 on"))
_NUMBER: _Check = (is_number, mark("a finite number"))
_POSITIVE: _Check = (lambda value: is_number(value) and value > 0, mark("a positive number"))
_FLAG: _Check = (lambda value: isinstance(value, bool), mark("true or false"))
_TEXT: _Check = (lambda value: isinstance(value, str), mark("a text"))
_TEXTS: _Check = (_is_texts, mark("a list of texts"))
_TEXT_OR_TEXTS: _Check = (lambda value: isinstance(value, str) or _is_texts(value), mark("a text or a list of texts"))
_OBJECT: _Check = (lambda value: isinstance(value, dict), mark("an object"))
_ROPE: _Check = (_is_rope, mark("an object of positive numbers and names, for whole heads and all layers"))
_TOKEN_IDS: _Check = (
    lambda value: _is_token_id(value) or (isinstance(value, list) and all(map(_is_token_id, value))),
    mark("a token id or a list of them"),
)

_CONFIG: dict[str, _Check] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"), _SIZE),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings", "pretraining_tp"), _SIZE),
    **dict.fromkeys(("num_local_experts", "num_experts_per_tok"), _COUNT),
    "vocab_size": (lambda value: _is_int(value, 1, MAX_VOCABULARY), mark("a positive integer")),
    **dict.fromkeys(("rms_norm_eps", "rope_theta"), _POSITIVE),
    **dict.fromkeys(("initializer_range", "attention_dropout"), _NUMBER),
    **dict.fromkeys(("tie_word_embeddings", "attention_bias", "mlp_bias", "use_cache"), _FLAG),
    **dict.fromkeys(("model_type", "hidden_act", "dtype", "torch_dtype", "transformers_version"), _TEXT),
    "architectures": _TEXTS,
    **dict.fromkeys(("rope_scaling", "rope_parameters"), _ROPE),
    "partial_rotary_factor": (lambda value: value == 1, mark("1: in a Llama, all dimensions of a head turn")),
    **dict.fromkeys(("bos_token_id", "pad_token_id"), (_is_token_id, mark("a token id"))),
    "eos_token_id": _TOKEN_IDS,
    NEW_BLOCKS: (
        lambda value: isinstance(value, list) and all(_is_int(item, 0, MAX_SIZE) for item in value),
        mark("a list of the indices of blocks"),
    ),
    "quantization_config": (_is_quantization, mark("an object whose quant_method is a text")),
}
_ADAPTER: dict[str, _Check] = {
    "peft_type": _TEXT,
    "r": (lambda value: _is_int(value, 1, MAX_RANK), mark("a positive integer")),
    "lora_alpha": _POSITIVE,
    "lora_dropout": (lambda value: is_number(value) and 0 <= value <= 1, mark("a number from 0 to 1")),
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_pattern"), _TEXT_OR_TEXTS),
    **dict.fromkeys(("modules_to_save", "target_parameters"), _TEXTS),
    "rank_pattern": (
        lambda value: isinstance(value, dict) and all(_is_int(rank, 1, MAX_RANK) for rank in value.values()),
        mark("an object of positive integers"),
    ),
    "alpha_pattern": (
        lambda value: isinstance(value, dict) and all(is_number(alpha) for alpha in value.values()),
        mark("an object of numbers"),
    ),
    "layers_to_transform": (
        lambda value: (
            _is_int(value, 0, MAX_SIZE)
            or (isinstance(value, list) and all(_is_int(item, 0, MAX_SIZE) for item in value))
        ),
        mark("an integer or a list of them"),
    ),
    **dict.fromkeys(("use_dora", "use_rslora", "fan_in_fan_out", "inference_mode", "lora_bias"), _FLAG),
    **dict.fromkeys(("base_model_name_or_path", "bias", "task_type"), _TEXT),
    "trainable_token_indices": (
        lambda value: _is_rows(value) or (isinstance(value, dict) and all(map(_is_rows, value.values()))),
        mark("a list of token ids, or an object of such lists"),
    ),
    "init_lora_weights": (lambda value: isinstance(value, bool | str), mark("true, false or a text")),
}
_OTHER_METHODS = (
    *("alora_invocation_tokens", "arrow_config", "corda_config", "kasa_config", "layer_replication"),
    *("lora_ga_config", "megatron_config", "monteclora_config", "runtime_config"),
    *("use_bdlora", "use_qalora", "velora_config"),
)
"""Settings of adapters that change other parts of a model, or need more than the adapter to be loaded."""


_DENSE_DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0}
_MOE_DEFAULTS = {
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "num_experts_per_tok": 2,
}
"""What transformers takes for a number that a configuration leaves out.

Source: `LlamaConfig` and `MixtralConfig` of transformers 5.
"""


def read_number(config: Mapping[str, Any], name: str) -> Any:
    """A number of a configuration, or transformers' default for its family if it is left out, null or 0."""
    defaults = _MOE_DEFAULTS if config.get("model_type") in MOE_ARCHITECTURES else _DENSE_DEFAULTS
    return config.get(name) or defaults[name]


def check_config(config: Mapping[str, Any], where: Path) -> None:
    """Raise UserError for the first value of a model's configuration that is of another kind or out of range.

    What is null counts as left out; whether a size that is left out is needed is the reader's to say.
    """
    _check(config, _CONFIG, where)
    _check_rope(config, where)
    window, length = config.get("sliding_window"), config.get("max_position_embeddings")
    holds_all = window is None or (_is_int(window, 1, MAX_SIZE) and _is_int(length, 1, window))
    if config.get("model_type") in MOE_ARCHITECTURES and not holds_all:
        what = tr("attention over a window of {window} tokens (sliding_window) is not computed here", window=window)
        raise UserError(what, where, tr('set "sliding_window": null if the model was not trained with it'))


def _check_rope(config: Mapping[str, Any], where: Path) -> None:
    """Raise UserError if the rotary scaling that counts (see `read_rope`) is of an unknown type, lacks a number that
    its type needs, or has one for which its equations have no meaning: transformers warns, and loads such a model.
    """
    source = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(source) or {}
    name = "rope_type" if rope.get("rope_type") else "type"
    kind = rope.get(name) or "default"
    if kind not in ROPE_TYPES:
        raise _wrong_value_error(f"{source}.{name}", kind, tr("one of {names}", names=join_list(ROPE_TYPES)), where)
    missing = [name for name in _ROPE_NEEDS.get(kind, ()) if rope.get(name) is None]
    if missing:
        what = tr("the configuration lacks or has a wrong value for {error}", error=f"{source}.{missing[0]} ({kind})")
        raise UserError(what, where, tr("copy or download it again"))
    length = read_number(config, "max_position_embeddings")
    factor = rope.get("factor")
    if kind in _SCALED_BY_A_FACTOR and factor is not None and not 1 <= factor <= length:
        expected = tr("a number from 1 to max_position_embeddings ({length:,})", length=length)
        raise _wrong_value_error(f"{source}.factor", factor, expected, where)
    for least, most, default in _ROPE_BOUNDS.get(kind, ()):
        low, high = (rope.get(name) or value for name, value in zip((least, most), default, strict=True))
        if low >= high:
            expected = tr("more than {name} ({value:g})", name=least, value=low)
            raise _wrong_value_error(f"{source}.{most}", high, expected, where)


def check_adapter_config(config: Mapping[str, Any], where: Path) -> None:
    """Raise UserError for the first value of an adapter's configuration that is of another kind or out of range."""
    _check(config, _ADAPTER, where)
    for name in _OTHER_METHODS:
        if config.get(name):
            what = tr("an adapter with {name} is not supported", name=name)
            raise UserError(what, where, tr("supported: LORA"))


def _check(config: Mapping[str, Any], checks: Mapping[str, _Check], where: Path) -> None:
    for name, (fits, expected) in checks.items():
        value = config.get(name)
        if value is None or fits(value):
            continue
        raise _wrong_value_error(name, value, tr(expected), where)


def _wrong_value_error(name: str, value: Any, expected: str, where: Path) -> UserError:
    shown = repr(value)
    what = tr(
        "'{name}' is {value}, but must be {expected}",
        name=name,
        value=shown if len(shown) <= 40 else shown[:37] + "...",
        expected=expected,
    )
    return UserError(what, where, tr("copy or download it again"))
