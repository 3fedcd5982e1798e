"""The chunked head: its values and gradients are those of plain arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from hanlin.train.compute import lm_head_loss, tiled_loss
from hanlin.train.compute.lm_head_loss import cross_entropy_sum, token_logprobs

POSITIONS, WIDTH, ENTRIES = 77, 24, 301


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_head_loss, "piece_tokens", lambda *of: 32)
    monkeypatch.setattr(lm_head_loss, "CACHED", 5 * ENTRIES)
    monkeypatch.setattr(tiled_loss, "NUMBERS", 32 * 90)
    monkeypatch.setattr(lm_head_loss, "UNTILED_TOKENS", 13)


def leaves(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(ENTRIES, WIDTH, generator=generator).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, ENTRIES, (POSITIONS,), generator=generator)


def plain(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -functional.cross_entropy(hidden.float() @ head.float().T, targets, reduction="none")


def test_the_sum_and_its_gradients_are_the_plain_ones() -> None:
    hidden, head, targets = leaves()
    expected = -plain(hidden, head, targets).sum()
    wanted = torch.autograd.grad(expected, (hidden, head))
    found = cross_entropy_sum(hidden, head, targets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, (hidden, head)), wanted, atol=1e-5, rtol=1e-5)


def test_each_position_s_log_probability_has_its_own_gradient() -> None:
    hidden, head, targets = leaves()
    weights = torch.linspace(-1, 2, POSITIONS)
    expected = plain(hidden, head, targets)
    wanted = torch.autograd.grad((expected * weights).sum(), (hidden, head))
    found = token_logprobs(hidden, head, targets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), (hidden, head)), wanted, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("spread", [1.0, 40.0])
@pytest.mark.parametrize("of", [cross_entropy_sum, token_logprobs])
def test_of_a_frozen_head_only_hidden_states_get_a_gradient_the_plain_one(of: Any, spread: float) -> None:
    hidden, head, targets = leaves()
    hidden = (hidden.detach() * spread).requires_grad_()
    head.requires_grad_(False)
    tiled = tiled_loss.through_tiles(hidden.detach(), head, targets, False)
    assert (tiled is None) == (spread > 1), "logits far from 0 are not raised"
    expected = plain(hidden, head, targets)
    (wanted,) = torch.autograd.grad(-expected.sum(), hidden)
    sign = 1 if of is cross_entropy_sum else -1
    found = sign * of(hidden, head, targets)
    found.sum().backward()
    torch.testing.assert_close(found.sum(), -expected.sum(), atol=1e-5, rtol=1e-5)
    assert head.grad is None
    torch.testing.assert_close(hidden.grad, wanted, atol=1e-5 * spread, rtol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("of", [cross_entropy_sum, token_logprobs])
def test_the_way_that_a_gpu_takes_gives_the_plain_numbers(
    monkeypatch: pytest.MonkeyPatch, of: Any, frozen: bool
) -> None:
    monkeypatch.setattr(lm_head_loss, "_on_gpu", lambda tensor: True)
    monkeypatch.setattr(tiled_loss, "through_tiles", None)
    hidden, head, targets = leaves()
    head.requires_grad_(not frozen)
    leave = [hidden] if frozen else [hidden, head]
    expected = plain(hidden, head, targets).sum() * (-1 if of is cross_entropy_sum else 1)
    found = of(hidden, head, targets).sum()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    wanted = torch.autograd.grad(expected, leave)
    torch.testing.assert_close(torch.autograd.grad(found, leave), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measured_without_a_gradient_values_are_the_same_to_the_bit(dtype: torch.dtype, frozen: bool) -> None:
    hidden, head, targets = leaves(dtype)
    head.requires_grad_(not frozen)
    found = token_logprobs(hidden, head, targets)
    assert torch.equal(token_logprobs(hidden.detach(), head, targets), found)
    with torch.no_grad():
        assert torch.equal(token_logprobs(hidden, head, targets), found)


def test_a_target_whose_share_is_too_small_for_float32_keeps_its_logarithm_and_gradient() -> None:
    hidden, head, targets = leaves()
    hidden = (hidden.detach() * 10).requires_grad_()
    targets[::2] = (hidden @ head.T)[::2].argmax(-1)
    expected = plain(hidden, head, targets)
    assert (expected < -90).any() and (expected > -1).any()
    wanted = torch.autograd.grad(expected.sum(), (hidden, head))
    found = token_logprobs(hidden, head, targets)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), (hidden, head)), wanted, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_is_asked_for_the_same_numbers_without_being_waited_for(dtype: torch.dtype) -> None:
    hidden, head, targets = (tensor.detach() for tensor in leaves(dtype))
    logits = lm_head_loss._Logits(head)
    found, shares = (tensor.clone() for tensor in logits._shares_of(hidden, targets))
    theirs = logits._of(hidden)
    there = logits._by_greatest(theirs, targets[:, None])
    torch.testing.assert_close(there, found, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs, shares)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("of", [cross_entropy_sum, token_logprobs])
def test_what_fills_the_last_piece_counts_nothing(of: Any, frozen: bool) -> None:
    hidden, head, targets = leaves()
    head.requires_grad_(not frozen)
    leave = [hidden] if frozen else [hidden, head]
    expected = of(hidden, head, targets[:50])
    wanted = torch.autograd.grad(expected.sum() / 2, leave)
    whole = lm_head_loss.filled(50, ENTRIES, not frozen, False)
    assert whole > 50
    found = of(hidden[:whole], head, targets[:50])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.sum() / 2, leave), wanted)


def test_few_sizes_of_pieces_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for entries in (320, 32_000, 128_256):
        for trained in (False, True):
            sizes = set()
            for positions in range(256, 2049):
                whole = lm_head_loss.filled(positions, entries, trained, False)
                pieces = -(-positions // lm_head_loss.piece_tokens(entries, trained, False))
                assert positions <= whole <= 1.13 * positions
                sizes.add(whole // pieces)
            assert len(sizes) <= 26


def test_a_tied_head_adds_its_gradient_to_the_embedding_s() -> None:
    _, head, targets = leaves()
    inputs = torch.arange(POSITIONS)
    expected = torch.autograd.grad(-plain(functional.embedding(inputs, head), head, targets).sum(), head)
    found = torch.autograd.grad(cross_entropy_sum(functional.embedding(inputs, head), head, targets), head)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_loss_may_be_scaled_afterwards() -> None:
    hidden, head, targets = leaves()
    wanted = torch.autograd.grad(-plain(hidden, head, targets).sum() / 8, hidden)
    torch.testing.assert_close(torch.autograd.grad(cross_entropy_sum(hidden, head, targets) / 8, hidden), wanted)


def test_in_bfloat16_gradients_lose_no_more_than_the_format_does() -> None:
    hidden, head, targets = leaves(torch.bfloat16)
    expected = torch.autograd.grad(-plain(hidden, head, targets).sum(), (hidden, head))
    found = torch.autograd.grad(cross_entropy_sum(hidden, head, targets), (hidden, head))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.float() - theirs.float()).norm() < 0.02 * theirs.float().norm()


def test_an_answer_that_is_nearly_certain_still_has_a_gradient_in_bfloat16() -> None:
    hidden = torch.tensor([[8.0]], dtype=torch.bfloat16, requires_grad=True)
    head = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16)
    (slope,) = torch.autograd.grad(cross_entropy_sum(hidden, head, torch.tensor([0])), hidden)
    assert slope.item() == pytest.approx(-0.000335, rel=0.01)


def test_a_loss_that_is_only_measured_makes_no_gradient_of_a_trained_head(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets = leaves()
    expected = cross_entropy_sum(hidden, head, targets).item()
    monkeypatch.setattr(lm_head_loss, "_add_product", None)
    with torch.no_grad():
        assert cross_entropy_sum(hidden, head, targets).item() == pytest.approx(expected, rel=1e-6)


def test_no_position_gives_no_loss() -> None:
    hidden, head, targets = leaves()
    assert cross_entropy_sum(hidden[:0], head, targets[:0]).item() == 0
