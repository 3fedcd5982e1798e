"""Names and shapes of the tensors of a Llama model, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.core.limits import MAX_TENSORS
from hanlin.models.folder.layout import ModelFiles, TensorEntry

PACKED_EXPERTS = "model.layers.{}.mlp.experts.gate_up_proj"
"""Name of the tensor [experts, 2 * intermediate, hidden] in which transformers 5 keeps gate and up of all experts."""


def llama_shapes(config: Mapping[str, Any], *, packed_experts: bool = False) -> dict[str, tuple[int, ...]]:
    """Compute the shape of every tensor of a Llama or Mixtral model; a tied model has no `lm_head.weight`.

    Args:
        config: Content of `config.json`; with `num_local_experts` it is a Mixtral model.
        packed_experts: The experts of a layer are one tensor (transformers 5), not separate ones.

    Raises:
        KeyError, TypeError, ValueError: The configuration lacks a size or has a wrong one, or more tensors than any
            model has.
    """
    layers, experts = int(config["num_hidden_layers"]), int(config.get("num_local_experts") or 0)
    if not 0 <= layers * max(1, experts) <= MAX_TENSORS:
        raise ValueError("num_hidden_layers")
    hidden, intermediate = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    head_dim = int(config.get("head_dim") or hidden // heads)
    projections = {
        "self_attn.q_proj": (heads * head_dim, hidden),
        "self_attn.k_proj": (kv_heads * head_dim, hidden),
        "self_attn.v_proj": (kv_heads * head_dim, hidden),
        "self_attn.o_proj": (hidden, heads * head_dim),
    }
    if not experts:
        projections |= {
            "mlp.gate_proj": (intermediate, hidden),
            "mlp.up_proj": (intermediate, hidden),
            "mlp.down_proj": (hidden, intermediate),
        }
    elif not packed_experts:
        projections["block_sparse_moe.gate"] = (experts, hidden)
        for expert in range(experts):
            prefix = f"block_sparse_moe.experts.{expert}"
            projections |= {
                f"{prefix}.w1": (intermediate, hidden),
                f"{prefix}.w2": (hidden, intermediate),
                f"{prefix}.w3": (intermediate, hidden),
            }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (int(config["vocab_size"]), hidden)}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        for name, shape in projections.items():
            shapes[f"{block}{name}.weight"] = shape
            if config.get("attention_bias" if name.startswith("self_attn") else "mlp_bias"):
                shapes[f"{block}{name}.bias"] = shape[:1]
        if experts and packed_experts:
            shapes[f"{block}mlp.gate.weight"] = (experts, hidden)
            shapes[PACKED_EXPERTS.format(layer)] = (experts, 2 * intermediate, hidden)
            shapes[f"{block}mlp.experts.down_proj"] = (experts, hidden, intermediate)
        shapes[f"{block}input_layernorm.weight"] = shapes[f"{block}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (int(config["vocab_size"]), hidden)
    return shapes


def separate_entries(files: ModelFiles) -> dict[str, TensorEntry]:
    """Where each weight of a model is, by the names of separate experts, even if the folder has them as one tensor."""
    entries = dict(files.tensors)
    for layer in range(int(files.config["num_hidden_layers"])):
        packed = entries.pop(PACKED_EXPERTS.format(layer), None)
        if packed is None:
            continue
        block = f"model.layers.{layer}."
        entries[f"{block}block_sparse_moe.gate.weight"] = entries.pop(f"{block}mlp.gate.weight")
        down = entries.pop(f"{block}mlp.experts.down_proj")
        experts, rows, columns = packed.shape
        for expert in range(experts):
            prefix = f"{block}block_sparse_moe.experts.{expert}"
            entries[f"{prefix}.w1.weight"] = _cut(packed, 2 * expert, 2 * experts, (rows // 2, columns))
            entries[f"{prefix}.w3.weight"] = _cut(packed, 2 * expert + 1, 2 * experts, (rows // 2, columns))
            entries[f"{prefix}.w2.weight"] = _cut(down, expert, experts, down.shape[1:])
    return entries


def _cut(entry: TensorEntry, index: int, count: int, shape: tuple[int, ...]) -> TensorEntry:
    """One of `count` equal parts of a tensor, which follow one another in its file."""
    size = (entry.end - entry.start) // count
    return TensorEntry(entry.dtype, shape, entry.file, entry.start + index * size, entry.start + (index + 1) * size)
