"""Attention within the documents of a micro-batch by GPU kernels: FlashAttention over documents of any length, and
FlexAttention under a block mask.

Without such a kernel, documents of similar length are laid side by side (`attention`); all give the same numbers but
for rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from hanlin.core.errors import UserError
from hanlin.core.hardware.devices import can_compile_attention, has_flash_attention
from hanlin.core.i18n import tr
from hanlin.train.compute.attention import gather_groups, scatter_groups
from hanlin.train.dataset.document_layout import DocumentLayout

Kernel = Literal["grouped", "varlen", "flex"]
MAX_HEAD_DIM = 256
"""FlashAttention 2 has kernels for a head_dim up to this, in multiples of 8."""


def choose_kernel(
    requested: Literal["auto", "grouped", "varlen", "flex"], device: torch.device, dtype: torch.dtype, head_dim: int
) -> Kernel:
    """The attention kernel to train with.

    Args:
        requested: A kernel, or `auto`: FlashAttention if it can run (an NVIDIA GPU since Ampere, 16-bit numbers), since
            it alone computes no pair of tokens that is thrown away; else documents in groups, which need nothing
            compiled and are the fastest on a CPU.
        device: Where the model is.
        dtype: What it computes in.
        head_dim: Its heads' width.

    Raises:
        UserError: The requested kernel cannot run.
    """
    can_flash = (
        has_flash_attention(device)
        and dtype in (torch.bfloat16, torch.float16)
        and head_dim <= MAX_HEAD_DIM
        and head_dim % 8 == 0
    )
    if requested == "auto":
        return "varlen" if can_flash else "grouped"
    hint = tr("set `attention: auto`")
    if requested == "varlen" and not can_flash:
        what = tr("attention `varlen` needs an NVIDIA GPU since Ampere and bfloat16")
        if has_flash_attention(device) and dtype in (torch.bfloat16, torch.float16):
            what = tr(
                "attention `varlen` needs heads of at most {most} numbers, in multiples of 8, and these have {width}",
                most=MAX_HEAD_DIM,
                width=head_dim,
            )
        raise UserError(what, "attention", hint)
    if requested == "flex" and not can_compile_attention(device):
        raise UserError(tr("attention `flex` needs a GPU"), "attention", hint)
    return requested


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    documents: DocumentLayout,
    kernel: Callable[..., Any] = varlen_attn,
) -> torch.Tensor:
    """Causal attention within each document by FlashAttention (Dao 2023, arXiv:2307.08691). A prompt that two answers
    share is copied before each of them.

    Args:
        query: [tokens, heads, head_dim].
        key: [tokens, key heads, head_dim].
        value: The same shape as `key`.
        documents: The documents of the micro-batch.
        kernel: Called as PyTorch's `varlen_attn`.

    Returns:
        [tokens, heads, head_dim].
    """
    layout = documents.varlen_layout(query.device)
    parts = (query, key, value)
    if layout.regroup is not None:
        moved = (gather_groups(part.flatten(1), layout.regroup)[0] for part in parts)
        query, key, value = (flat.unflatten(1, part.shape[1:]) for flat, part in zip(moved, parts, strict=True))
    output = kernel(
        query,
        key,
        value,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.max_seqlen,
        layout.max_seqlen,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    if layout.regroup is not None:
        output = scatter_groups(layout.regroup, output.flatten(1)).unflatten(1, output.shape[1:])
    return output


def flex_document_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: DocumentLayout
) -> torch.Tensor:
    """The same by FlexAttention (Dong et al. 2024, arXiv:2412.05496): blocks of pairs of tokens that do not see each
    other are never computed. On a CPU it runs uncompiled, and forward only.

    Args:
        query: [tokens, heads, head_dim].
        key: [tokens, key heads, head_dim].
        value: The same shape as `key`.
        documents: The documents of the micro-batch.

    Returns:
        [tokens, heads, head_dim].
    """
    mask = documents.cached("flex", lambda: _block_mask(documents, query.device))
    moved = (part.transpose(0, 1)[None] for part in (query, key, value))
    output: Any = _flex_kernel(query.device.type)(*moved, block_mask=mask, enable_gqa=query.shape[1] != key.shape[1])
    return torch.as_tensor(output)[0].transpose(0, 1).contiguous()


@functools.lru_cache(maxsize=2)
def _flex_kernel(device_type: str) -> Callable[..., Any]:
    kernel: Any = flex_attention if device_type == "cpu" else torch.compile(flex_attention)
    function: Callable[..., Any] = kernel
    return function


def _block_mask(documents: DocumentLayout, device: torch.device) -> Any:
    owner, prefix_start, prefix_end = (column.to(device) for column in documents.token_owners())

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        in_prefix = (key >= prefix_start[query]) & (key < prefix_end[query])
        return (key <= query) & ((owner[key] == owner[query]) | in_prefix)

    make = create_block_mask if device.type == "cpu" else torch.compile(create_block_mask)
    return make(sees, None, None, documents.tokens, documents.tokens, device=device)
