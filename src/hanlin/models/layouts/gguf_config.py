"""The configuration of a model from the metadata of a GGUF file of the llama architecture."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.mixtral.configuration_mixtral import MixtralConfig

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_TENSORS
from hanlin.models.folder.config import check_config
from hanlin.models.layouts.gguf import ROPE_FACTORS, GgufTensorEntry
from hanlin.tokenizer.gguf_metadata import GgufMetadata

_LOG = logging.getLogger(__name__)
_ARCHITECTURE = "llama"
_READ_KEYS = frozenset(
    {
        *("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size", "expert_count"),
        *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon"),
        *("attention.key_length", "attention.value_length", "expert_used_count"),
        *("rope.dimension_count", "rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor"),
        *("rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"),
        *("rope.scaling.attn_factor", "rope.scaling.finetuned", "attention.causal"),
    }
)
"""What is read of `llama.*`; any other key is named in a warning."""
_LLAMA3_LENGTHS = (8192, 4096, 32)
_MAX_FACTOR_ERROR = 1e-5
"""Relative difference of rotary factors that rounding in float32 may cause."""

ReadFactors = Callable[[GgufTensorEntry], NDArray[np.float32]]


def build_gguf_config(
    metadata: GgufMetadata, entries: Mapping[str, GgufTensorEntry], read_factors: ReadFactors
) -> LlamaConfig | MixtralConfig:
    """Build the configuration of the model in a GGUF file, of Mixtral's if it has experts.

    Args:
        metadata: Its metadata.
        entries: Its tensors.
        read_factors: Reads the tensor of rotary factors of Llama 3.1's scaling.

    Raises:
        UserError: Another architecture, a size that is missing or impossible, or a rotary scaling that transformers
            does not have.
    """
    path = metadata.path
    values = _Values(metadata)
    architecture = metadata.values.get("general.architecture")
    if architecture != _ARCHITECTURE:
        what = tr("the architecture {architecture} is not supported", architecture=architecture or "-")
        raise UserError(what, path, tr("supported: {supported}", supported=_ARCHITECTURE))
    embeddings = entries.get("token_embd.weight")
    if embeddings is None or len(embeddings.shape) != 2:
        what = tr("{count} tensors are missing: {names}", count=1, names="token_embd.weight")
        raise UserError(what, path, tr("copy or download it again"))
    hidden, heads = values.size("embedding_length"), values.size("attention.head_count")
    layers = values.size("block_count")
    if layers > len(entries):
        what = tr(
            "the metadata say {layers:,} layers, but there are {count:,} tensors", layers=layers, count=len(entries)
        )
        raise UserError(what, path, tr("copy or download it again"))
    head_dim = values.size("attention.key_length", hidden // heads)
    if head_dim < 2 or head_dim % 2 or values.size("attention.value_length", head_dim) != head_dim:
        raise values.wrong("attention.key_length", head_dim)
    if values.size("rope.dimension_count", head_dim) != head_dim:
        raise values.wrong("rope.dimension_count", values.get("rope.dimension_count"))
    kv_heads = values.size("attention.head_count_kv", heads)
    if kv_heads > heads or heads % kv_heads:
        raise values.wrong("attention.head_count_kv", kv_heads)
    fields: dict[str, Any] = {
        "vocab_size": embeddings.shape[0],
        "hidden_size": hidden,
        "intermediate_size": values.size("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": values.size("context_length"),
        "rms_norm_eps": values.number("attention.layer_norm_rms_epsilon"),
        "attention_bias": _has_bias(entries, "attn_q", "attn_k", "attn_v", "attn_output"),
        "mlp_bias": _has_bias(entries, "ffn_gate", "ffn_up", "ffn_down"),
        "tie_word_embeddings": "output.weight" not in entries,
        "rope_parameters": {"rope_theta": values.number("rope.freq_base", 10_000.0), **_scaling(values)},
    }
    if values.get("expert_count"):
        biased = [name for name in ("attention_bias", "mlp_bias") if fields.pop(name)]
        if biased:
            what = tr("the model has {name}, and models in Mixtral's shape have no biases", name=biased[0])
            raise UserError(what, path)
        fields |= _experts(values, entries, layers)
    check_config(fields, path)
    values.warn_of_other_keys()
    if ROPE_FACTORS in entries:
        factors = read_factors(entries[ROPE_FACTORS])
        fields["rope_parameters"] |= _llama3_scaling(factors, fields, path)
    return _make(fields, path)


def _experts(values: _Values, entries: Mapping[str, GgufTensorEntry], layers: int) -> dict[str, Any]:
    """What makes the configuration one of Mixtral: how many experts there are, and how many compute a token."""
    experts, used = values.size("expert_count"), values.size("expert_used_count")
    matrix = entries.get("blk.0.ffn_gate_exps.weight")
    if matrix is None or matrix.shape[0] != experts or layers * experts > MAX_TENSORS:
        raise values.wrong("expert_count", experts)
    if used > experts:
        raise values.wrong("expert_used_count", used)
    return {"num_local_experts": experts, "num_experts_per_tok": used, "sliding_window": None}


def _has_bias(entries: Mapping[str, GgufTensorEntry], *names: str) -> bool:
    return any(f"blk.0.{name}.bias" in entries for name in names)


def _make(fields: Mapping[str, Any], path: Path) -> LlamaConfig | MixtralConfig:
    try:
        return MixtralConfig(**fields) if fields.get("num_local_experts") else LlamaConfig(**fields)
    except Exception as error:  # transformers checks values with errors of several kinds
        problem = str(error).partition("\n")[0]
        raise UserError(tr("transformers cannot load it: {problem}", problem=problem), path) from error


class _Values:
    """Values of `llama.*` in the metadata, each checked when it is read."""

    def __init__(self, metadata: GgufMetadata) -> None:
        self._metadata = metadata

    def get(self, name: str) -> Any:
        return self._metadata.values.get(f"{_ARCHITECTURE}.{name}")

    def size(self, name: str, default: int | None = None) -> int:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise self.wrong(name, value)
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number; what was stored in 32 bits becomes the shortest number that rounds to it."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0 or value > np.finfo("f4").max:
            raise self.wrong(name, value)
        return float(str(np.float32(value)))

    def wrong(self, name: str, value: Any) -> UserError:
        key = f"{_ARCHITECTURE}.{name}"
        if value is None:
            what = tr("the metadata lack '{key}'", key=key)
        else:
            what = tr("'{key}' is {value}, which is not read here", key=key, value=repr(value)[:40])
        return UserError(what, self._metadata.path, tr("copy it again from its source"))

    def warn_of_other_keys(self) -> None:
        start = f"{_ARCHITECTURE}."
        names = [key for key in self._metadata.values if key.startswith(start)]
        others = [key for key in names if key.removeprefix(start) not in _READ_KEYS]
        if others:
            what = tr("not read: {keys}", keys=", ".join(others[:8]))
            _LOG.warning("%s: %s", self._metadata.path, what)


def _scaling(values: _Values) -> dict[str, Any]:
    """The rotary scaling that metadata name: linear or YaRN (Peng et al. 2023, arXiv:2309.00071)."""
    kind = values.get("rope.scaling.type")
    if kind == "none":
        return {"rope_type": "default"}
    older = values.number("rope.scale_linear", 1.0)  # the key before `rope.scaling.factor`, when there was one type
    factor = values.number("rope.scaling.factor", older)
    if kind in (None, "linear"):
        return _linear(factor)
    if kind != "yarn":
        raise values.wrong("rope.scaling.type", kind)
    fields: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    fields["original_max_position_embeddings"] = values.size("rope.scaling.original_context_length")
    for name in ("beta_fast", "beta_slow"):
        if values.get(f"rope.scaling.yarn_{name}") is not None:
            fields[name] = values.number(f"rope.scaling.yarn_{name}")
    if values.get("rope.scaling.attn_factor") is not None:
        # llama.cpp multiplies by it what both compute of the factor
        share = values.number("rope.scaling.attn_factor")
        fields["attention_factor"] = share * (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0)
    return fields


def _linear(factor: float) -> dict[str, Any]:
    return {"rope_type": "linear", "factor": factor} if factor != 1 else {"rope_type": "default"}


def _llama3_scaling(factors: NDArray[np.float32], fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of Llama 3.1's scaling that give these factors.

    The file holds the factors alone. A factor between 1 and the largest is 1 / ((1 - s) / largest + s) with
    s = (length / wave - low) / (high - low), a line over 1 / wave; so the line of two of them gives low and high in
    units of the length. A multiple of all three gives the same factors: the length is then one that models have.
    """
    rope: dict[str, Any] = fields["rope_parameters"]
    size = int(fields["head_dim"])
    if rope["rope_type"] != "default" or factors.shape != (size // 2,) or not np.isfinite(factors).all():
        raise _unknown_factors(path)
    if (factors == 1).all():
        return {}
    largest = float(factors.max())
    plain: dict[str, Any] = {"rope_type": "llama3", "factor": largest, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    candidates: list[dict[str, Any]] = [
        {**plain, "original_max_position_embeddings": length} for length in _LLAMA3_LENGTHS
    ]
    inverse_waves = 1 / (2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, size, 2) / size))
    between = np.flatnonzero((factors > 1) & (factors < largest))
    if largest > 1 and len(between) >= 2:
        first, last = between[0], between[-1]
        shares = (1 / factors[[first, last]].astype(float) - 1 / largest) / (1 - 1 / largest)
        slope = (shares[0] - shares[1]) / (inverse_waves[first] - inverse_waves[last])
        for length in _LLAMA3_LENGTHS:
            span = length / slope
            low = round(float(inverse_waves[first] * length - shares[0] * span), 3)
            fitted = {**plain, "low_freq_factor": low, "high_freq_factor": round(float(low + span), 3)}
            candidates.append({**fitted, "original_max_position_embeddings": length})
    for candidate in candidates:
        if 0 < candidate["low_freq_factor"] < candidate["high_freq_factor"] and _gives(
            candidate, factors, fields, path
        ):
            return candidate
    raise _unknown_factors(path)


def _gives(scaling: Mapping[str, Any], factors: NDArray[np.float32], fields: Mapping[str, Any], path: Path) -> bool:
    """Whether transformers, with this scaling, divides the frequencies by these factors."""
    rope = {**fields["rope_parameters"], **scaling}
    config = _make({**fields, "rope_parameters": rope}, path)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = int(fields["head_dim"])
    plain = 1.0 / (float(rope["rope_theta"]) ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    return bool(np.allclose((plain / scaled).numpy(), factors, rtol=_MAX_FACTOR_ERROR, atol=0))


def _unknown_factors(path: Path) -> UserError:
    what = tr("the factors of the rotary frequencies ('{name}') are not those of Llama 3.1", name=ROPE_FACTORS)
    return UserError(what, path, tr("name the model it was made from"))
