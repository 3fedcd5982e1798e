"""Documents that share a pass do not see one another, and the regrouped attention is the attention it replaces."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.core.errors import UserError
from hanlin.train.compute.attention import grouped_attention
from hanlin.train.compute.kernels import choose_kernel, flex_document_attention, varlen_attention
from hanlin.train.compute.model import Attention
from hanlin.train.dataset.document_layout import DocumentLayout
from training_data import CPU


def attended(
    lengths: list[int],
    dtype: torch.dtype = torch.float32,
    heads: int = 6,
    key_heads: int = 2,
    shared: list[int] | None = None,
    attend: Attention = grouped_attention,
    backward: bool = True,
) -> tuple:
    """Output and gradients of a pass: by our attention, and by dense attention under a mask that is written out."""
    documents = DocumentLayout(lengths, shared)
    generator = torch.Generator().manual_seed(sum(lengths))
    tokens = documents.tokens
    tensors = [torch.randn(tokens, h, 16, generator=generator, dtype=dtype) for h in (heads, key_heads, key_heads)]
    weights = torch.randn(tokens, heads, 16, generator=generator, dtype=dtype)
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    for document in range(len(lengths)):
        places = documents.token_index(document)
        for place, query in enumerate(places.tolist()):
            mask[query, places[: place + 1]] = True

    def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1)

    def ours(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return attend(query, key, value, documents)

    found = []
    for form in (ours, dense):
        leaves = [tensor.detach().clone().requires_grad_(backward) for tensor in tensors]
        out = form(*leaves)
        if backward:
            (out * weights).sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves if backward)])
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
    documents = DocumentLayout([5, 7, 3], [0, 4, 0])
    assert documents.tokens == 5 + 3 + 3
    assert [documents.token_index(number).tolist() for number in range(3)] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 5, 6, 7],
        [8, 9, 10],
    ]


def reference_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    edges: torch.Tensor,
    key_edges: torch.Tensor,
    longest: int,
    longest_key: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What PyTorch's `varlen_attn` computes, written for a processor: its kernels are those of a GPU alone."""
    assert window_size == (-1, 0) and edges.dtype == torch.int32 and edges.tolist() == key_edges.tolist()
    assert longest == longest_key == edges.diff().max()
    outputs = []
    for start, end in itertools.pairwise(edges.tolist()):
        q, k, v = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=enable_gqa)
        outputs.append(found[0].transpose(0, 1))
    return torch.cat(outputs)


BEHIND_PROMPTS = ([50, 61, 9, 30, 30], [0, 33, 0, 0, 30])


@pytest.mark.parametrize("shared", [None, BEHIND_PROMPTS[1]], ids=["unshared", "shared"])
def test_documents_are_laid_in_line_for_kernels_that_take_any_length(shared: list[int] | None) -> None:
    attend = functools.partial(varlen_attention, kernel=reference_varlen)
    for ours, dense in zip(*attended(BEHIND_PROMPTS[0], shared=shared, attend=attend), strict=True):
        torch.testing.assert_close(ours, dense, atol=2e-5, rtol=2e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("shared", [None, BEHIND_PROMPTS[1]], ids=["unshared", "shared"])
def test_flex_attention_sees_the_same_tokens(shared: list[int] | None) -> None:
    ((ours,), (dense,)) = attended(
        BEHIND_PROMPTS[0], shared=shared, attend=flex_document_attention, heads=4, key_heads=2, backward=False
    )
    torch.testing.assert_close(ours, dense, atol=2e-5, rtol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [None, BEHIND_PROMPTS[1]], ids=["unshared", "shared"])
@pytest.mark.parametrize("attend", [varlen_attention, flex_document_attention, grouped_attention])
def test_on_a_gpu_every_kernel_gives_the_same_values_and_gradients(attend: Attention, shared: list[int] | None) -> None:
    def moved(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: DocumentLayout) -> torch.Tensor:
        return attend(query.cuda(), key.cuda(), value.cuda(), documents).cpu()

    for ours, dense in zip(
        *attended(BEHIND_PROMPTS[0], torch.bfloat16, 4, 2, shared=shared, attend=moved), strict=True
    ):
        assert (ours.float() - dense.float()).norm() < 0.02 * dense.float().norm()


def test_a_processor_trains_with_groups_and_refuses_kernels_that_it_has_not() -> None:
    assert (
        choose_kernel("auto", CPU, torch.float32, 64) == choose_kernel("grouped", CPU, torch.bfloat16, 64) == "grouped"
    )
    for requested in ("varlen", "flex"):
        with pytest.raises(UserError, match=requested):
            choose_kernel(requested, CPU, torch.bfloat16, 64)


def test_every_token_stands_in_exactly_one_group() -> None:
    documents = DocumentLayout([5, 90, 17, 17, 64, 3])
    laid = documents.regroup_index(3, torch.device("cpu"))
    assert torch.cat(laid.gather_index)[laid.scatter_index].tolist() == list(range(196 * 3))


def test_a_head_that_no_flash_kernel_takes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanlin.train.compute.kernels.has_flash_attention", lambda device: True)
    assert choose_kernel("auto", CPU, torch.bfloat16, 320) == "grouped"
    with pytest.raises(UserError, match="at most 256 numbers, in multiples of 8, and these have 320"):
        choose_kernel("varlen", CPU, torch.bfloat16, 320)
