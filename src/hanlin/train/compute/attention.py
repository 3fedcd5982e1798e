"""Attention that never crosses documents: tokens of a micro-batch are regrouped by document and attend within it alone.

A dense block-causal mask computes every pair of tokens of a row and throws most of them away. Here documents of similar
length are laid side by side, padded at their end to one length, and attended causally without any other mask: padding
comes after every real token, so no real token ever sees it. Which documents are side by side, and the indices used
here, are in `dataset.document_layout`; kernels of a GPU in `kernels`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn import functional

from hanlin.train.dataset.document_layout import MAX_MATMUL_LENGTH, DocumentLayout, RegroupIndex


def gather_groups(values: torch.Tensor, index: RegroupIndex) -> tuple[torch.Tensor, ...]:
    """Move rows from the order of the micro-batch to that of the groups: `values` [tokens · heads, head_dim] becomes
    one tensor [count · heads · length, head_dim] for each group.
    """
    groups: tuple[torch.Tensor, ...] = _GatherGroups.apply(values, index)
    return groups


def scatter_groups(index: RegroupIndex, *groups: torch.Tensor) -> torch.Tensor:
    """The reverse of `gather_groups`; padding and copies of shared tokens are left out."""
    values: torch.Tensor = _ScatterGroups.apply(index, *groups)
    return values


class _GatherGroups(torch.autograd.Function):
    """The gradient is gathered as well rather than scattered and added, which is faster and exact: a row that no
    document shares occurs in the groups once, and nothing flows back through padding.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, index: RegroupIndex) -> tuple[torch.Tensor, ...]:
        ctx.index = index
        return tuple(values.index_select(0, rows) for rows in index.gather_index)

    @staticmethod
    def backward(ctx: Any, *grad_groups: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        joined = grad_groups[0] if len(grad_groups) == 1 else torch.cat(grad_groups)
        grad_values = joined.index_select(0, ctx.index.scatter_index)
        if ctx.index.shared is not None:
            copies, originals = ctx.index.shared
            grad_values.index_add_(0, originals, joined.index_select(0, copies))
        return grad_values, None


class _ScatterGroups(torch.autograd.Function):
    """Padding and copies get a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, index: RegroupIndex, *groups: torch.Tensor) -> torch.Tensor:
        ctx.scatter_index = index.scatter_index
        ctx.sizes = [len(group) for group in groups]
        joined = groups[0] if len(groups) == 1 else torch.cat(groups)
        return joined.index_select(0, index.scatter_index)

    @staticmethod
    def backward(ctx: Any, grad_values: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        joined = grad_values.new_zeros((sum(ctx.sizes), grad_values.shape[1]))
        joined.index_copy_(0, ctx.scatter_index, grad_values)
        return None, *joined.split(ctx.sizes)


class _MatmulAttention(torch.autograd.Function):
    """softmax(scale · Q Kᵀ + causal mask) V by matrix products: Q [n, heads · L, d] with the query heads of one key
    head stacked, K and V [n, L, d].
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal_mask: torch.Tensor
    ) -> torch.Tensor:
        ctx.scale = query.shape[-1] ** -0.5
        scores = torch.baddbmm(causal_mask, query, key.transpose(1, 2), alpha=ctx.scale)
        probs = torch.softmax(scores, -1)
        ctx.save_for_backward(query, key, value, probs)
        return torch.bmm(probs, value)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, probs = ctx.saved_tensors
        grad_value = torch.bmm(probs.transpose(1, 2), grad_output)
        grad_probs = torch.bmm(grad_output, value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
        grad_query = torch.bmm(grad_scores, key).mul_(ctx.scale)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query).mul_(ctx.scale)
        return grad_query, grad_key, grad_value, None


@functools.lru_cache(maxsize=64)
def _causal_mask(length: int, heads: int, dtype: torch.dtype) -> torch.Tensor:
    """[1, heads · length, length]: minus infinity where the key comes after the query, else 0."""
    return torch.full((length, length), float("-inf")).triu(1).to(dtype).repeat(heads, 1)[None]


def _causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention within each of n documents of one length: query [n, heads, L, d], key and value [n, key heads,
    L, d]; the result has the query's shape.
    """
    count, heads, length, head_dim = query.shape
    key_heads = key.shape[1]
    if query.device.type == "cpu" and length <= MAX_MATMUL_LENGTH.get(query.dtype, 0):
        per_key_head = heads // key_heads
        stacked = query.view(count * key_heads, per_key_head * length, head_dim)
        flat = (tensor.view(count * key_heads, length, head_dim) for tensor in (key, value))
        return _MatmulAttention.apply(stacked, *flat, _causal_mask(length, per_key_head, query.dtype)).view_as(query)
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=length > 1, enable_gqa=heads != key_heads
    )


def grouped_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: DocumentLayout
) -> torch.Tensor:
    """Causal attention within each document of a micro-batch.

    Args:
        query: [tokens, heads, head_dim].
        key: [tokens, key heads, head_dim], of the same dtype.
        value: The same shape as `key`.
        documents: The documents of the micro-batch.

    Returns:
        [tokens, heads, head_dim].
    """
    head_dim = query.shape[-1]
    gathered = []
    for tensor in (query, key, value):
        index = documents.regroup_index(tensor.shape[1], tensor.device)
        gathered.append(gather_groups(tensor.reshape(-1, head_dim), index))
    outputs = []
    for group, *parts in zip(documents.groups, *gathered, strict=True):
        shaped = (part.view(group.count, -1, group.length, head_dim) for part in parts)
        outputs.append(_causal_attention(*shaped).reshape(-1, head_dim))
    return scatter_groups(documents.regroup_index(query.shape[1], query.device), *outputs).view_as(query)
