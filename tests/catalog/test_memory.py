"""Memory of the catalog's models: computed from their dimensions, and near what was published and measured."""

from __future__ import annotations

import pytest

from hanlin.catalog.entries import models, shapes
from hanlin.catalog.memory import estimate_needs, model_shape


@pytest.mark.parametrize(
    ("shape", "billions"),
    [
        ("llama-2-7b", 6.738),
        ("llama-2-13b", 13.016),
        ("llama-3-8b", 8.030),
        ("llama-3-70b", 70.554),
        ("llama-3-405b", 405.853),
        ("llama-3.2-1b", 1.236),
        ("llama-3.2-3b", 3.213),
        ("tinyllama-1.1b", 1.100),
        ("smollm2-135m", 0.1345),
        ("yi-6b", 6.061),
        ("yi-34b", 34.389),
        ("atom-7b", 7.009),
    ],
)
def test_the_dimensions_give_the_published_number_of_parameters(shape: str, billions: float) -> None:
    assert model_shape(shapes()[shape]).parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_the_files_of_llama_3_8b_are_as_large_as_published_ones() -> None:
    """The hub lists 16.1 GB in 16 bits, 8.54 GB as Q8_0 and 4.92 GB as Q4_K_M."""
    disk = estimate_needs(shapes()["llama-3-8b"]).disk
    assert disk["bfloat16"] / 1e9 == pytest.approx(16.06, rel=0.005)
    assert disk["Q8_0"] / 1e9 == pytest.approx(8.54, rel=0.005)
    assert disk["Q4_K_M"] / 1e9 == pytest.approx(4.92, rel=0.005)


def test_qlora_needs_less_than_lora_and_lora_less_than_full_training() -> None:
    for name in {model.shape for model in models() if model.shape}:
        needs = estimate_needs(shapes()[name])
        assert needs.train["qlora"] < needs.train["lora"] < needs.train["full"], name
        assert needs.run["Q4_K_M"] < needs.run["Q8_0"] < needs.run["bfloat16"], name
        assert needs.run["bfloat16"] > needs.disk["bfloat16"], name


def test_the_estimate_is_near_the_published_rule_of_thumb_for_8b() -> None:
    """The rule says 120 GB in full, 16 by LoRA, 6 by QLoRA, for 7B with 32,000 entries and no length named."""
    train = estimate_needs(shapes()["llama-2-7b"]).train
    assert train["full"] / 1e9 == pytest.approx(120, rel=0.1)
    assert 16 < train["lora"] / 1e9 < 22
    assert 6 < train["qlora"] / 1e9 < 10
