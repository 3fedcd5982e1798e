"""Documents that share a pass do not see one another, and the regrouped attention is the attention it replaces."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.train.attention import Documents, documents_attention


def attended(
    lengths: list[int],
    dtype: torch.dtype = torch.float32,
    heads: int = 6,
    key_heads: int = 2,
    shared: list[int] | None = None,
) -> tuple:
    """Output and gradients of a pass: by our attention, and by dense attention under a mask that is written out."""
    documents = Documents(lengths, shared)
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = documents.tokens
    tensors = [torch.randn(tokens, h, 16, generator=generator, dtype=dtype) for h in (heads, key_heads, key_heads)]
    weights = torch.randn(tokens, heads, 16, generator=generator, dtype=dtype)
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for document in range(len(lengths)):
        places = documents.places(document)
        for place, query in enumerate(places.tolist()):
            mask[query, places[: place + 1]] = True

    def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        moved = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(*moved, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    def ours(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return documents_attention(query, key, value, documents)

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


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(0, 120)), min_size=1, max_size=5))
def test_answers_behind_one_prompt_see_it_and_not_each_other(pairs: list[tuple[int, int, int]]) -> None:
    lengths, shared = [], []
    for prompt, first, second in pairs:
        lengths += [prompt + first, prompt + second]
        shared += [0, prompt]
    for ours, dense in zip(*attended(lengths, shared=shared), strict=True):
        torch.testing.assert_close(ours, dense, atol=2e-5, rtol=2e-5)


def test_shared_tokens_lie_in_a_pass_once() -> None:
    documents = Documents([5, 7, 3], [0, 4, 0])
    assert documents.tokens == 5 + 3 + 3
    assert [documents.places(number).tolist() for number in range(3)] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 5, 6, 7],
        [8, 9, 10],
    ]


def test_every_token_stands_in_exactly_one_group() -> None:
    documents = Documents([5, 90, 17, 17, 64, 3])
    laid = documents.laid(3, torch.device("cpu"))
    assert torch.cat(laid.taken)[laid.back].tolist() == list(range(196 * 3))
