"""What the tests of measurements share: a model that knows some answers."""

from __future__ import annotations

from pathlib import Path

import pytest

import taught_model as taught


@pytest.fixture(scope="session")
def taught_model(tiny_model: Path) -> Path:
    return taught.taught_model(tiny_model)


@pytest.fixture(scope="session")
def taught_gguf(taught_model: Path) -> Path:
    return taught.taught_gguf(taught_model)
