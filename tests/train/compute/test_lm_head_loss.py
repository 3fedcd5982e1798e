"""The chunked head: its values and gradients are those of plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from hanlin.train.compute import lm_head_loss, tiled_loss
from hanlin.train.compute.lm_head_loss import cross_entropy_sum, token_logprobs

POSITIONS, HIDDEN_SIZE, VOCAB_SIZE = 77, 24, 301


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head_loss, "chunk_tokens", lambda *args: 32)
    monkeypatch.setattr(lm_head_loss, "CACHED_LOGITS", 5 * VOCAB_SIZE)
    monkeypatch.setattr(tiled_loss, "TILE_LOGITS", 32 * 90)
    monkeypatch.setattr(lm_head_loss, "UNTILED_TOKENS", 13)


def leaves(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(POSITIONS, HIDDEN_SIZE, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, VOCAB_SIZE, (POSITIONS,), generator=generator)


def plain(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -functional.cross_entropy(hidden.float() @ head.float().T, targets, reduction="none")


def test_the_sum_and_its_gradients_are_the_plain_ones() -> None:
    hidden, head, targets = leaves()
    expected = -plain(hidden, head, targets).sum()
    expected_gradients = torch.autograd.grad(expected, (hidden, head))
    ours = cross_entropy_sum(hidden, head, targets)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(ours, (hidden, head)), expected_gradients, atol=1e-5, rtol=1e-5)


def test_each_position_s_log_probability_has_its_own_gradient() -> None:
    hidden, head, targets = leaves()
    weights = torch.linspace(-1, 2, POSITIONS)
    expected = plain(hidden, head, targets)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), (hidden, head))
    ours = token_logprobs(hidden, head, targets)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), (hidden, head)), expected_gradients, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("spread", [1.0, 40.0])
@pytest.mark.parametrize("function", [cross_entropy_sum, token_logprobs])
def test_with_a_frozen_head_only_hidden_states_get_a_gradient(function: Any, spread: float) -> None:
    hidden, head, targets = leaves()
    hidden = (hidden.detach() * spread).requires_grad_()
    head.requires_grad_(False)
    tiled = tiled_loss.tiled_logprobs(hidden.detach(), head, targets, False)
    assert (tiled is None) == (spread > 1), "logits far from 0 are not raised"
    expected = plain(hidden, head, targets)
    (expected_gradients,) = torch.autograd.grad(-expected.sum(), hidden)
    sign = 1 if function is cross_entropy_sum else -1
    ours = sign * function(hidden, head, targets)
    ours.sum().backward()
    torch.testing.assert_close(ours.sum(), -expected.sum(), atol=1e-5, rtol=1e-5)
    assert head.grad is None
    torch.testing.assert_close(hidden.grad, expected_gradients, atol=1e-5 * spread, rtol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("function", [cross_entropy_sum, token_logprobs])
def test_the_gpu_branch_gives_the_plain_numbers(monkeypatch: pytest.MonkeyPatch, function: Any, frozen: bool) -> None:
    monkeypatch.setattr(lm_head_loss, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(tiled_loss, "tiled_logprobs", None)
    hidden, head, targets = leaves()
    head.requires_grad_(not frozen)
    inputs_with_gradient = [hidden] if frozen else [hidden, head]
    expected = plain(hidden, head, targets).sum() * (-1 if function is cross_entropy_sum else 1)
    ours = function(hidden, head, targets).sum()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    expected_gradients = torch.autograd.grad(expected, inputs_with_gradient)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs_with_gradient), expected_gradients, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measured_without_a_gradient_values_are_the_same_to_the_bit(dtype: torch.dtype, frozen: bool) -> None:
    hidden, head, targets = leaves(dtype)
    head.requires_grad_(not frozen)
    ours = token_logprobs(hidden, head, targets)
    assert torch.equal(token_logprobs(hidden.detach(), head, targets), ours)
    with torch.no_grad():
        assert torch.equal(token_logprobs(hidden, head, targets), ours)


def test_a_target_whose_probability_is_too_small_for_float32_keeps_its_logarithm_and_gradient() -> None:
    hidden, head, targets = leaves()
    hidden = (hidden.detach() * 10).requires_grad_()
    targets[::2] = (hidden @ head.T)[::2].argmax(-1)
    expected = plain(hidden, head, targets)
    assert (expected < -90).any() and (expected > -1).any()
    expected_gradients = torch.autograd.grad(expected.sum(), (hidden, head))
    ours = token_logprobs(hidden, head, targets)
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), (hidden, head)), expected_gradients, atol=1e-3, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_branch_without_synchronizing_gives_the_same_numbers(dtype: torch.dtype) -> None:
    hidden, head, targets = (tensor.detach() for tensor in leaves(dtype))
    logits = lm_head_loss._ChunkLogits(head)
    ours, probs = (tensor.clone() for tensor in logits._logprobs_and_probs(hidden, targets))
    theirs = logits._logits(hidden)
    on_gpu = logits._softmax_on_gpu(theirs, targets[:, None])
    torch.testing.assert_close(on_gpu, ours, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs, probs)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("function", [cross_entropy_sum, token_logprobs])
def test_the_padding_of_the_last_chunk_does_not_count(function: Any, frozen: bool) -> None:
    hidden, head, targets = leaves()
    head.requires_grad_(not frozen)
    inputs_with_gradient = [hidden] if frozen else [hidden, head]
    expected = function(hidden, head, targets[:50])
    expected_gradients = torch.autograd.grad(expected.sum() / 2, inputs_with_gradient)
    padded = lm_head_loss.padded_length(50, VOCAB_SIZE, not frozen, False)
    assert padded > 50
    ours = function(hidden[:padded], head, targets[:50])
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours.sum() / 2, inputs_with_gradient), expected_gradients)


def test_few_chunk_sizes_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for vocab_size in (320, 32_000, 128_256):
        for trained in (False, True):
            sizes = set()
            for positions in range(256, 2049):
                padded = lm_head_loss.padded_length(positions, vocab_size, trained, False)
                chunks = -(-positions // lm_head_loss.chunk_tokens(vocab_size, trained, False))
                assert positions <= padded <= 1.13 * positions
                sizes.add(padded // chunks)
            assert len(sizes) <= 26


def test_a_tied_head_adds_its_gradient_to_the_embedding_s() -> None:
    _, head, targets = leaves()
    inputs = torch.arange(POSITIONS)
    expected = torch.autograd.grad(-plain(functional.embedding(inputs, head), head, targets).sum(), head)
    ours = torch.autograd.grad(cross_entropy_sum(functional.embedding(inputs, head), head, targets), head)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_loss_may_be_scaled_afterwards() -> None:
    hidden, head, targets = leaves()
    expected_gradients = torch.autograd.grad(-plain(hidden, head, targets).sum() / 8, hidden)
    torch.testing.assert_close(
        torch.autograd.grad(cross_entropy_sum(hidden, head, targets) / 8, hidden), expected_gradients
    )


def test_in_bfloat16_gradients_lose_no_more_than_the_format_does() -> None:
    hidden, head, targets = leaves(torch.bfloat16)
    expected = torch.autograd.grad(-plain(hidden, head, targets).sum(), (hidden, head))
    ours = torch.autograd.grad(cross_entropy_sum(hidden, head, targets), (hidden, head))
    for gradient, theirs in zip(ours, expected, strict=True):
        assert (gradient.float() - theirs.float()).norm() < 0.02 * theirs.float().norm()


def test_an_answer_that_is_nearly_certain_still_has_a_gradient_in_bfloat16() -> None:
    hidden = torch.tensor([[8.0]], dtype=torch.bfloat16, requires_grad=True)
    head = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16)
    (gradient,) = torch.autograd.grad(cross_entropy_sum(hidden, head, torch.tensor([0])), hidden)
    assert gradient.item() == pytest.approx(-0.000335, rel=0.01)


def test_a_loss_that_is_only_measured_makes_no_gradient_of_a_trained_head(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = leaves()
    expected = cross_entropy_sum(hidden, head, targets).item()
    monkeypatch.setattr(lm_head_loss, "_add_head_gradient", None)
    with torch.no_grad():
        assert cross_entropy_sum(hidden, head, targets).item() == pytest.approx(expected, rel=1e-6)


def test_no_position_gives_no_loss() -> None:
    hidden, head, targets = leaves()
    assert cross_entropy_sum(hidden[:0], head, targets[:0]).item() == 0
