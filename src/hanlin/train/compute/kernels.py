"""Attention within the documents of a pass, by kernels of a GPU: FlashAttention over documents of any length, and
FlexAttention under a block mask.

Owns the choice of the kernel and how each is told the documents. What it replaces where no such kernel is, documents of
like length side by side, is in `attention`; all give the same numbers but for rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.train.compute.attention import put_back, take
from hanlin.train.dataset.document_layout import DocumentLayout

Kernel = Literal["grouped", "varlen", "flex"]
_LARGEST_HEAD = 256
"""FlashAttention 2 has kernels for heads of at most so many numbers, in multiples of 8."""


def kernel_for(
    wished: Literal["auto", "grouped", "varlen", "flex"], device: torch.device, dtype: torch.dtype, head_size: int
) -> Kernel:
    """The kernel to train with. `auto`: FlashAttention where its kernels run (an NVIDIA GPU since Ampere, 16-bit
    numbers), since it alone computes no pair of tokens that is thrown away; else documents in groups, which need
    nothing compiled and are the fastest on a CPU.

    Raises UserError where the wished kernel cannot run.
    """
    flash = (
        device.type == "cuda"
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and dtype in (torch.bfloat16, torch.float16)
        and head_size <= _LARGEST_HEAD
        and head_size % 8 == 0
    )
    if wished == "auto":
        return "varlen" if flash else "grouped"
    if (wished == "varlen" and not flash) or (wished == "flex" and device.type != "cuda"):
        needs = {
            "varlen": say("an NVIDIA GPU since Ampere and bfloat16", "Ampere 及之后的 NVIDIA GPU 和 bfloat16"),
            "flex": say("a GPU", "GPU"),
        }[wished]
        raise UserError(
            say(f"attention `{wished}` needs {needs}", f"注意力实现 `{wished}` 需要 {needs}"),
            "attention",
            say("set `attention: auto`", "请设 attention: auto"),
        )
    return wished


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: DocumentLayout,
    attend: Callable[..., Any] = varlen_attn,
) -> torch.Tensor:
    """Causal attention within each document of a pass by FlashAttention (Dao 2023, arXiv:2307.08691): query [tokens,
    heads, d], key and value [tokens, key heads, d]; the result has the query's shape.

    A prompt that two answers share is laid before each of them; `attend` is called as PyTorch's `varlen_attn`.
    """
    line = documents.varlen_layout(query.device)
    parts = (query, key, value)
    if line.regroup is not None:
        taken = (take(part.flatten(1), line.regroup)[0] for part in parts)
        query, key, value = (found.unflatten(1, part.shape[1:]) for found, part in zip(taken, parts, strict=True))
    found = attend(
        query,
        key,
        value,
        line.cu_seqlens,
        line.cu_seqlens,
        line.max_seqlen,
        line.max_seqlen,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    if line.regroup is not None:
        found = put_back(line.regroup, found.flatten(1)).unflatten(1, found.shape[1:])
    return found


def flex_documents_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: DocumentLayout
) -> torch.Tensor:
    """The same by FlexAttention (Dong et al. 2024, arXiv:2412.05496): blocks of pairs of tokens that do not see each
    other are never computed. On a CPU it runs uncompiled, and forward only."""
    mask = documents.cached("flex", lambda: _block_mask(documents, query.device))
    moved = (part.transpose(0, 1)[None] for part in (query, key, value))
    found: Any = _flex(query.device.type)(*moved, block_mask=mask, enable_gqa=query.shape[1] != key.shape[1])
    return torch.as_tensor(found)[0].transpose(0, 1).contiguous()


@functools.lru_cache(maxsize=2)
def _flex(device: str) -> Callable[..., Any]:
    attend: Any = flex_attention if device == "cpu" else torch.compile(flex_attention)
    found: Callable[..., Any] = attend
    return found


def _block_mask(documents: DocumentLayout, device: torch.device) -> Any:
    owner, base, end = (numbers.to(device) for numbers in documents.token_owners())

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        shared = (key >= base[query]) & (key < end[query])
        return (key <= query) & ((owner[key] == owner[query]) | shared)

    make = create_block_mask if device.type == "cpu" else torch.compile(create_block_mask)
    return make(sees, None, None, documents.tokens, documents.tokens, device=device)
