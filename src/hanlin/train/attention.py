"""Attention that never crosses documents: tokens of a pass are regrouped by document and attend within it alone.

Owns the regrouping and the kernel. Does not own which documents lie in a pass (`rows`).

A dense block-causal mask computes every pair of tokens of a row and throws most of them away. Here documents of like
length are laid side by side, padded at their end to one length, and attended causally without any other mask: what is
padded comes after every real token, so no real token ever sees it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

LENGTH_STEP = 16
"""Lengths of a group are rounded up to a multiple: new shapes cost a new kernel (0.6 ms each in bfloat16 on a CPU)."""
SPREAD = 1.5
"""Documents share a group while the longest is at most so many times the shortest."""
LONGEST_PRODUCT = {torch.float32: 96, torch.bfloat16: 1024}
"""On a CPU, up to this length plain matrix products are faster than the fused kernel, forward and backward together:
of 1,024 tokens with 8 heads of 64, documents of 64 took 6.3 ms against 9.6 in float32 and 4.9 against 24.5 in bfloat16,
documents of 512 took 53 against 37 and 17 against 29."""


@dataclass(frozen=True, slots=True)
class Group:
    """Documents laid side by side: `tokens` [count, length] are the places in the pass that fill them. Padding repeats
    a document's last token, and documents that only fill up the count repeat the first token of the pass."""

    tokens: torch.Tensor
    count: int
    length: int


class Laid(NamedTuple):
    """Where numbers go when a pass is regrouped: `taken`, for each group, the rows [count · heads · length] that fill
    it, in the order document, head, token; `back` [tokens · heads], where each row then lies in the groups end to end.
    """

    taken: tuple[torch.Tensor, ...]
    back: torch.Tensor


class Documents:
    """How the tokens of a pass are regrouped. A token's vector [heads, d] counts as rows of d numbers, so that a group
    comes out as batched products take it."""

    def __init__(self, groups: Sequence[Group], begins: torch.Tensor, places: torch.Tensor) -> None:
        """Of each token [tokens]: `begins` is where its document begins in the groups laid end to end, counted in
        tokens; `places` is its place within the document."""
        self.groups = tuple(groups)
        self._begins, self._places = begins, places
        ends = torch.tensor([group.count * group.length for group in groups]).cumsum(0)
        lengths = torch.tensor([group.length for group in groups])
        self._lengths = lengths[torch.searchsorted(ends, begins, right=True)]
        self._laid: dict[int, Laid] = {}

    def laid(self, heads: int, device: torch.device) -> Laid:
        """The rows for vectors of so many heads; computed once in a pass, for all layers."""
        if heads not in self._laid:
            head = torch.arange(heads)
            taken = [
                (group.tokens[:, None, :] * heads + head[None, :, None]).reshape(-1).to(device) for group in self.groups
            ]
            back = (self._begins * heads + self._places)[:, None] + self._lengths[:, None] * head
            self._laid[heads] = Laid(tuple(taken), back.reshape(-1).to(device))
        return self._laid[heads]


def group_documents(lengths: Sequence[int]) -> Documents:
    """Regroup documents that lie end to end in a pass, given their lengths in tokens."""
    sizes = np.asarray(lengths, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    begins = np.empty(len(sizes), dtype=np.int64)
    groups = []
    offset = 0
    order = np.argsort(-sizes, kind="stable")
    while len(order):
        shortest = sizes[order[0]] / SPREAD
        members = order[: int(np.searchsorted(-sizes[order], -shortest, side="right"))]
        order = order[len(members) :]
        longest = int(sizes[members[0]])
        length = -(-longest // LENGTH_STEP) * LENGTH_STEP
        count = _round_count(len(members))
        tokens = np.zeros((count, length), dtype=np.int64)
        within = np.minimum(np.arange(length)[None, :], sizes[members][:, None] - 1)
        tokens[: len(members)] = starts[members][:, None] + within
        begins[members] = offset + np.arange(len(members)) * length
        groups.append(Group(torch.from_numpy(tokens), count, length))
        offset += count * length
    places = np.arange(int(sizes.sum())) - np.repeat(starts, sizes)
    return Documents(groups, torch.from_numpy(np.repeat(begins, sizes)), torch.from_numpy(places))


def _round_count(count: int) -> int:
    """`count` with three significant binary digits, rounded up: few shapes, at most a fifth more documents."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


class _Take(torch.autograd.Function):
    """Rows of `values` [rows, d] for each group. What flows back is fetched rather than added up, which is faster and
    exact: a real row stands in the groups once, and nothing flows back through padding."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, laid: Laid) -> tuple[torch.Tensor, ...]:
        ctx.back = laid.back
        return tuple(values.index_select(0, rows) for rows in laid.taken)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        whole = gradients[0] if len(gradients) == 1 else torch.cat(gradients)
        return whole.index_select(0, ctx.back), None


class _PutBack(torch.autograd.Function):
    """The groups' rows in the order of the pass. Padding gets a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, laid: Laid, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.back = laid.back
        ctx.sizes = [len(output) for output in outputs]
        whole = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return whole.index_select(0, laid.back)

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
    if query.device.type == "cpu" and length <= LONGEST_PRODUCT.get(query.dtype, 0):
        share = heads // key_heads
        stacked = query.view(count * key_heads, share * length, size)
        flat = (tensor.view(count * key_heads, length, size) for tensor in (key, value))
        return _CausalProduct.apply(stacked, *flat, _later(length, share, query.dtype)).view_as(query)
    return functional.scaled_dot_product_attention(
        query, key, value, is_causal=length > 1, enable_gqa=heads != key_heads
    )


def documents_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents
) -> torch.Tensor:
    """Causal attention within each document of a pass: query [tokens, heads, d], key and value [tokens, key heads, d],
    of one number format; the result has the query's shape."""
    size = query.shape[-1]
    taken = []
    for tensor in (query, key, value):
        laid = documents.laid(tensor.shape[1], tensor.device)
        taken.append(_Take.apply(tensor.reshape(-1, size), laid))
    outputs = []
    for group, *parts in zip(documents.groups, *taken, strict=True):
        shaped = (part.view(group.count, -1, group.length, size) for part in parts)
        outputs.append(_attend(*shaped).reshape(-1, size))
    return _PutBack.apply(documents.laid(query.shape[1], query.device), *outputs).view_as(query)
