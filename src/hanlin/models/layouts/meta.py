"""Meta's original layout of Llama: what its tensors are called, how shards of model parallelism are put together, and
what params.json says.

Sources: `llama/model.py` of github.com/meta-llama/llama, `models/llama3/model.py` of
github.com/meta-llama/llama-models (names, sizes), fairscale's `ColumnParallelLinear` (rows are split),
`RowParallelLinear` (columns are split), `ParallelEmbedding` (columns, Llama 2) and `VocabParallelEmbedding` (rows,
Llama 3).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.models.llama.configuration_llama import LlamaConfig

from hanlin.core.errors import UserError
from hanlin.core.files import load_json_object
from hanlin.core.i18n import tr
from hanlin.models.folder.config import check_config, is_number, read_number
from hanlin.models.folder.rope import read_rope

_LOG = logging.getLogger(__name__)
PARAMS = "params.json"
OUTSIDE_NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
COMPUTED = "rope.freqs"
"""A tensor of older checkpoints that follows from the configuration."""
ROW_PARALLEL = ("attention.wo.weight", "feed_forward.w2.weight")
_SCALED_ROPE = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_SCALED_ROPE_LENGTH, _SCALED_CONTEXT = 8192, 131_072
_LARGE_FACTOR, _USUAL_FACTOR = 32.0, 8.0
_LARGE_FACTOR_SIZES = {(2048, 16), (3072, 28)}
"""Width and layers of Llama 3.2 1B and 3B."""
_CONTEXTS = {500_000.0: 8192, 1_000_000.0: 16_384}
"""By rope_theta: Llama 3 and Code Llama."""
_READ_PARAMS = frozenset(
    {
        *("dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps"),
        *("rope_theta", "use_scaled_rope", "rope_scaling_factor", "rope_high_freq_factor", "max_seq_len"),
        *("max_batch_size", "model_parallel_size"),
    }
)


def meta_name(name: str) -> str:
    """What Meta calls a tensor of a model folder."""
    if name in OUTSIDE_NAMES:
        return OUTSIDE_NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    module, _, kind = rest.rpartition(".")
    return f"layers.{layer}.{LAYER_NAMES[module]}.{kind}"


def read_params(folder: Path) -> dict[str, Any]:
    """Read params.json. Raises UserError if it is no JSON, or lacks a size."""
    path = folder / PARAMS
    params = load_json_object(path, hint=tr("copy or download it again"))
    for name in ("dim", "n_layers", "n_heads"):
        _size(params, name, path)
    return params


def _size(params: Mapping[str, Any], name: str, path: Path, default: int | None = None) -> int:
    value = params.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 1 <= value < 1 << 31:
        what = tr("'{name}' is {value}, but must be {expected}", name=name, value=repr(value)[:40],
                  expected=tr("a positive integer"))  # fmt: skip
        raise UserError(what, path, tr("copy or download it again"))
    return value


def _check_values(params: Mapping[str, Any], path: Path) -> None:
    """Raise UserError for a value of the rotary embedding that makes no sense; null counts as left out."""
    expected: dict[str, tuple[Callable[[Any], bool], str]] = {
        "rope_theta": (lambda value: is_number(value) and value > 0, tr("a positive number")),
        "rope_scaling_factor": (lambda value: is_number(value) and value >= 1, tr("a number of 1 or more")),
        "rope_high_freq_factor": (lambda value: is_number(value) and value > 0, tr("a positive number")),
        "use_scaled_rope": (lambda value: isinstance(value, bool), tr("true or false")),
    }
    for name, (fits, kind) in expected.items():
        value = params.get(name)
        if value is not None and not fits(value):
            what = tr("'{name}' is {value}, but must be {expected}", name=name, value=repr(value)[:40], expected=kind)
            raise UserError(what, path, tr("copy or download it again"))


def build_meta_config(
    params: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    path: Path,
    *,
    context_length: int | None,
    rope_factor: float | None,
) -> LlamaConfig:
    """Build the configuration of a checkpoint.

    Args:
        params: Content of params.json.
        shapes: The shapes of its tensors, shards put together.
        path: params.json, for messages.
        context_length: What params.json does not say; None as in `ImportCheckpoint`.
        rope_factor: The same of the factor of rotary scaling.

    Raises:
        UserError: A value is missing or wrong.
    """
    dim, layers, heads = (_size(params, name, path) for name in ("dim", "n_layers", "n_heads"))
    kv_heads = _size(params, "n_kv_heads", path, heads)
    others = sorted(set(params) - _READ_PARAMS)
    if others:
        _LOG.warning("%s: %s", path, tr("not read: {keys}", keys=", ".join(others[:8])))
    rows, named_rows = shapes.get("tok_embeddings.weight", (0,))[0], params.get("vocab_size") or -1
    if is_number(named_rows) and 0 < named_rows != rows:
        what = tr(
            "vocab_size is {value}, but there are {rows} embedding rows, which count", value=named_rows, rows=rows
        )
        _LOG.warning("%s: %s", path, what)
    for name in ("tok_embeddings.weight", "layers.0.feed_forward.w1.weight"):
        if len(shapes.get(name, ())) != 2:
            raise UserError(tr("there is no tensor '{name}'", name=name), path.parent, tr("copy or download it again"))
    _check_values(params, path)
    if rope_factor is not None and not params.get("use_scaled_rope"):
        what = tr("rope_factor is for checkpoints with rotary scaling, and this one has none (use_scaled_rope)")
        raise UserError(what, path, tr("leave rope_factor out"))
    theta = 10_000.0 if params.get("rope_theta") is None else params["rope_theta"]
    rope: dict[str, Any] = {"rope_type": "default"}
    if params.get("use_scaled_rope"):
        usual = _LARGE_FACTOR if (dim, layers) in _LARGE_FACTOR_SIZES else _USUAL_FACTOR
        rope = {**_SCALED_ROPE, "original_max_position_embeddings": _SCALED_ROPE_LENGTH}
        rope["factor"] = rope_factor or params.get("rope_scaling_factor") or usual
        rope["high_freq_factor"] = params.get("rope_high_freq_factor") or rope["high_freq_factor"]
    usual_context = _SCALED_CONTEXT if params.get("use_scaled_rope") else _CONTEXTS.get(theta, 4096)
    fields: dict[str, Any] = {
        "vocab_size": shapes["tok_embeddings.weight"][0],
        "hidden_size": dim,
        "intermediate_size": shapes["layers.0.feed_forward.w1.weight"][0],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context_length or usual_context,
        "rms_norm_eps": 1e-5 if params.get("norm_eps") is None else params["norm_eps"],
        "rope_parameters": {**rope, "rope_theta": theta},
    }
    check_config({**fields, "rope_theta": theta}, path)
    if dim % heads or dim // heads % 2 or heads % kv_heads or layers > len(shapes):
        what = tr("the sizes in {file} do not fit together", file=PARAMS)
        raise UserError(what, path, tr("copy or download it again"))
    fields["rms_norm_eps"] = float(fields["rms_norm_eps"])
    try:
        return LlamaConfig(**fields)
    except Exception as error:  # transformers checks values with errors of several kinds
        problem = str(error).partition("\n")[0]
        raise UserError(tr("transformers cannot load it: {problem}", problem=problem), path) from error


def split_dimension(name: str, shard_shape: Sequence[int], params: Mapping[str, Any], shards: int) -> int | None:
    """Which dimension of a tensor is split over the shards; None: each holds all of it.

    Args:
        name: Meta's name.
        shard_shape: The shape of one shard.
        params: Content of params.json.
        shards: How many there are.
    """
    if len(shard_shape) < 2 or shards == 1:
        return None
    if name.endswith(ROW_PARALLEL):
        return 1
    if name == "tok_embeddings.weight":
        return 1 if shard_shape[1] * shards == params["dim"] else 0
    return 0


def build_params(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The params.json of a model folder.

    Args:
        config: Its `config.json`.
        where: Its path, for messages.

    Raises:
        UserError: The model has something that Meta's code does not.
    """
    dim, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    rope = read_rope(config)
    kind = rope["rope_type"]
    problem = ""
    if int(config.get("head_dim") or dim // heads) * heads != dim:
        problem = tr("Meta's layout has no place for heads of another width than hidden_size / heads")
    elif config.get("attention_bias") or config.get("mlp_bias"):
        problem = tr("Meta's layout has no place for biases")
    elif kind not in ("default", "llama3") or (
        kind == "llama3"
        and (rope.get("low_freq_factor"), rope.get("original_max_position_embeddings")) != (1, _SCALED_ROPE_LENGTH)
    ):
        problem = tr("Meta's layout has no place for another rotary scaling than Llama 3.1's")
    if problem:
        raise UserError(problem, where, tr("use the model folder itself"))
    params: dict[str, Any] = {
        "dim": dim,
        "n_layers": int(config["num_hidden_layers"]),
        "n_heads": heads,
        "n_kv_heads": int(config.get("num_key_value_heads") or heads),
        "vocab_size": int(config["vocab_size"]),
        **_feed_forward(dim, int(config["intermediate_size"])),
        "norm_eps": float(read_number(config, "rms_norm_eps")),
        "rope_theta": float(rope["rope_theta"]),
    }
    if kind == "llama3":
        params |= {"use_scaled_rope": True, "rope_scaling_factor": float(rope["factor"])}
        params["rope_high_freq_factor"] = float(rope["high_freq_factor"])
    return params


def _feed_forward(dim: int, intermediate: int) -> dict[str, Any]:
    """`multiple_of` and `ffn_dim_multiplier` from which Meta's code computes the width of the feed-forward layers:
    8/3 dim, times the multiplier, rounded up to the multiple.
    """
    base = int(2 * (4 * dim) / 3)
    multiple = math.gcd(intermediate, 4096)
    if -(-base // multiple) * multiple == intermediate:
        return {"multiple_of": multiple}
    # the middle of the range that is rounded up to the width
    multiplier = round((intermediate - multiple / 2) / base, 9)
    if -(-int(multiplier * base) // multiple) * multiple != intermediate:
        multiplier = (intermediate + 0.5 - (multiple - 1) / 2) / base
    return {"multiple_of": multiple, "ffn_dim_multiplier": multiplier}
