"""How torch runs on this machine while a model is trained."""

from __future__ import annotations

import torch

from hanlin.train.compute.runtime import flush_denormals


def denormals_are_zero() -> bool:
    return float(torch.tensor(1e-40) * 1) == 0.0


def test_denormal_numbers_are_zero_inside_and_as_before_outside() -> None:
    before = denormals_are_zero()
    with flush_denormals():
        assert denormals_are_zero()
        with flush_denormals():
            pass
        assert denormals_are_zero(), "an inner use must not end the outer one"
    assert denormals_are_zero() == before
