"""Names and shapes of a Llama model's tensors, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PACKED_EXPERTS = "model.layers.{}.mlp.experts.gate_up_proj"


def llama_shapes(config: Mapping[str, Any], *, packed_experts: bool = False) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama model by name, with its shape; a tied model has no tensor of its own for the head. A
    configuration with `num_local_experts` is Mixtral's, whose experts lie apart or are packed."""
    hidden, wide = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    shared = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or hidden // heads)
    projections = {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (shared * head, hidden),
        "self_attn.v_proj": (shared * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
    }
    experts = int(config.get("num_local_experts") or 0)
    if not experts:
        projections |= {"mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide)}
    elif not packed_experts:
        projections["block_sparse_moe.gate"] = (experts, hidden)
        for expert in range(experts):
            place = f"block_sparse_moe.experts.{expert}"
            projections |= {f"{place}.w1": (wide, hidden), f"{place}.w2": (hidden, wide), f"{place}.w3": (wide, hidden)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (int(config["vocab_size"]), hidden)}
    for layer in range(int(config["num_hidden_layers"])):
        block = f"model.layers.{layer}."
        for name, shape in projections.items():
            shapes[f"{block}{name}.weight"] = shape
            if config.get("attention_bias" if name.startswith("self_attn") else "mlp_bias"):
                shapes[f"{block}{name}.bias"] = shape[:1]
        if experts and packed_experts:
            shapes[f"{block}mlp.gate.weight"] = (experts, hidden)
            shapes[PACKED_EXPERTS.format(layer)] = (experts, 2 * wide, hidden)
            shapes[f"{block}mlp.experts.down_proj"] = (experts, hidden, wide)
        shapes[f"{block}input_layernorm.weight"] = shapes[f"{block}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (int(config["vocab_size"]), hidden)
    return shapes
