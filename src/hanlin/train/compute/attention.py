"""Attention that never crosses documents: tokens of a pass are regrouped by document and attend within it alone.

Owns the regrouping and the kernel. Does not own which documents lie in a pass (`rows`).

A dense block-causal mask computes every pair of tokens of a row and throws most of them away. Here documents of like
length are laid side by side, padded at their end to one length, and attended causally without any other mask: what is
padded comes after every real token, so no real token ever sees it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn import functional

from hanlin.train.dataset.document_layout import MAX_MATMUL_LENGTH, DocumentLayout, RegroupIndex


def take(values: torch.Tensor, laid: RegroupIndex) -> tuple[torch.Tensor, ...]:
    """Rows of `values` [rows, d] as they are laid."""
    found: tuple[torch.Tensor, ...] = _Take.apply(values, laid)
    return found


def put_back(laid: RegroupIndex, *outputs: torch.Tensor) -> torch.Tensor:
    """What was made of laid rows, in the order of the pass."""
    found: torch.Tensor = _PutBack.apply(laid, *outputs)
    return found


class _Take(torch.autograd.Function):
    """Rows of `values` [rows, d] for each group. What flows back is fetched rather than added up, which is faster and
    exact: a row that no document shares stands in the groups once, and nothing flows back through padding."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, laid: RegroupIndex) -> tuple[torch.Tensor, ...]:
        ctx.laid = laid
        return tuple(values.index_select(0, rows) for rows in laid.gather_index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        whole = gradients[0] if len(gradients) == 1 else torch.cat(gradients)
        found = whole.index_select(0, ctx.laid.scatter_index)
        if ctx.laid.shared is not None:
            copies, onto = ctx.laid.shared
            found.index_add_(0, onto, whole.index_select(0, copies))
        return found, None


class _PutBack(torch.autograd.Function):
    """The groups' rows in the order of the pass. Padding and copies get a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, laid: RegroupIndex, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.back = laid.scatter_index
        ctx.sizes = [len(output) for output in outputs]
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return whole.index_select(0, laid.scatter_index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        whole = gradient.new_zeros((sum(ctx.sizes), gradient.shape[1]))
        whole.index_copy_(0, ctx.back, gradient)
        return None, *whole.split(ctx.sizes)


class _CausalProduct(torch.autograd.Function):
    """softmax(scale · Q Kᵀ + causal) V by matrix products: Q [n, heads · L, d] with the query heads of one key head
    stacked, K and V [n, L, d]."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, later: torch.Tensor
    ) -> torch.Tensor:
        ctx.scale = query.shape[-1] ** -0.5
        scores = torch.baddbmm(later, query, key.transpose(1, 2), alpha=ctx.scale)
        shares = torch.softmax(scores, -1)
        ctx.save_for_backward(query, key, value, shares)
        return torch.bmm(shares, value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, shares = ctx.saved_tensors
        to_value = torch.bmm(shares.transpose(1, 2), gradient)
        to_shares = torch.bmm(gradient, value.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_shares, shares, -1, shares.dtype)
        to_query = torch.bmm(to_scores, key).mul_(ctx.scale)
        to_key = torch.bmm(to_scores.transpose(1, 2), query).mul_(ctx.scale)
        return to_query, to_key, to_value, None


@functools.lru_cache(maxsize=64)
def _later(length: int, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """[1, heads · length, length]: minus infinity where the key comes after the query."""
    return torch.full((length, length), float("-inf")).triu(1).to(dtype).repeat(heads, 1)[None]


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention within each of n documents of one length: query [n, heads, L, d], key and value [n, key heads,
    L, d]; the result has the query's shape."""
    count, heads, length, size = query.shape
    key_heads = key.shape[1]
    if query.device.type == "cpu" and length <= MAX_MATMUL_LENGTH.get(query.dtype, 0):
        share = heads // key_heads
        stacked = query.view(count * key_heads, share * length, size)
        flat = (tensor.view(count * key_heads, length, size) for tensor in (key, value))
        return _CausalProduct.apply(stacked, *flat, _later(length, share, query.dtype)).view_as(query)
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=length > 1, enable_gqa=heads != key_heads
    )


def documents_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: DocumentLayout
) -> torch.Tensor:
    """Causal attention within each document of a pass: query [tokens, heads, d], key and value [tokens, key heads, d],
    of one number format; the result has the query's shape."""
    size = query.shape[-1]
    taken = []
    for tensor in (query, key, value):
        laid = documents.regroup_index(tensor.shape[1], tensor.device)
        taken.append(take(tensor.reshape(-1, size), laid))
    outputs = []
    for group, *parts in zip(documents.groups, *taken, strict=True):
        shaped = (part.view(group.count, -1, group.length, size) for part in parts)
        outputs.append(_attend(*shaped).reshape(-1, size))
    return put_back(documents.regroup_index(query.shape[1], query.device), *outputs).view_as(query)
