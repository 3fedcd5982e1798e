"""Documents that share a pass do not see one another, and the regrouped attention is the attention it replaces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.train.attention import documents_attention, group_documents


def attended(lengths: list[int], dtype: torch.dtype = torch.float32, heads: int = 6, key_heads: int = 2) -> tuple:
    """Output and gradients of a pass: by our attention, and by dense attention under a block-causal mask."""
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = sum(lengths)
    tensors = [torch.randn(tokens, h, 16, generator=generator, dtype=dtype) for h in (heads, key_heads, key_heads)]
    weights = torch.randn(tokens, heads, 16, generator=generator, dtype=dtype)
    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (number[:, None] == number[None, :]) & torch.ones(tokens, tokens, dtype=torch.bool).tril()

    def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        moved = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(*moved, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    def ours(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return documents_attention(query, key, value, group_documents(lengths))

    found = []
    for attend in (ours, dense):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        out = attend(*leaves)
        (out * weights).sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    return tuple(found)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=12))
def test_it_is_dense_attention_under_a_block_causal_mask(lengths: list[int]) -> None:
    for ours, dense in zip(*attended(lengths), strict=True):
        torch.testing.assert_close(ours, dense, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("lengths", [[130, 9, 128], [64, 64], [200], [1, 1, 1], [97, 300, 2, 2]])
def test_it_holds_for_long_equal_and_single_documents(lengths: list[int]) -> None:
    for ours, dense in zip(*attended(lengths), strict=True):
        torch.testing.assert_close(ours, dense, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("heads", [(4, 4), (4, 1)])
def test_it_holds_for_any_sharing_of_key_heads(heads: tuple[int, int]) -> None:
    for ours, dense in zip(*attended([40, 7, 33], heads=heads[0], key_heads=heads[1]), strict=True):
        torch.testing.assert_close(ours, dense, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("lengths", [[40, 7, 33, 1], [1030, 30]])
def test_in_bfloat16_it_is_as_near_as_the_format_allows(lengths: list[int]) -> None:
    for ours, dense in zip(*attended(lengths, torch.bfloat16), strict=True):
        difference = (ours.float() - dense.float()).norm() / dense.float().norm()
        assert difference < 0.01


def test_every_token_stands_in_exactly_one_group() -> None:
    documents = group_documents([5, 90, 17, 17, 64, 3])
    laid = documents.laid(3, torch.device("cpu"))
    assert torch.cat(laid.taken)[laid.back].tolist() == list(range(196 * 3))
