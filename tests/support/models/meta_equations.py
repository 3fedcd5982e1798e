"""Meta's Llama by its equations, over the tensors of its own checkpoints, for tests to compare with."""

from __future__ import annotations

import math
from typing import Any

import torch


def reference_logits(weights: dict[str, torch.Tensor], params: dict[str, Any], ids: list[int]) -> torch.Tensor:
    """Logits by the equations of Meta's code: complex rotation of neighboring elements, shared key-value heads."""
    dim, heads, kv_heads = params["dim"], params["n_heads"], params["n_kv_heads"]
    size = dim // heads

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + params["norm_eps"]) * weight

    angles = torch.outer(torch.arange(len(ids)), 1.0 / params["rope_theta"] ** (torch.arange(0, size, 2) / size))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turns).flatten(2)

    x = weights["tok_embeddings.weight"][ids]
    mask = torch.full((len(ids), len(ids)), -math.inf).triu(1)
    for layer in range(params["n_layers"]):
        w = {name.removeprefix(f"layers.{layer}."): t for name, t in weights.items()}
        h = norm(x, w["attention_norm.weight"])
        q = rotate((h @ w["attention.wq.weight"].T).view(-1, heads, size))
        k = rotate((h @ w["attention.wk.weight"].T).view(-1, kv_heads, size)).repeat_interleave(heads // kv_heads, 1)
        v = (h @ w["attention.wv.weight"].T).view(-1, kv_heads, size).repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(size) + mask
        x = x + torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1) @ w["attention.wo.weight"].T
        h = norm(x, w["ffn_norm.weight"])
        gate = torch.nn.functional.silu(h @ w["feed_forward.w1.weight"].T) * (h @ w["feed_forward.w3.weight"].T)
        x = x + gate @ w["feed_forward.w2.weight"].T
    return norm(x, weights["norm.weight"]) @ weights["output.weight"].T
