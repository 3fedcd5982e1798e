"""What the tests of surgery share: a base and models that differ from it a little."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def family(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and three models that stand for ones trained from it: noise on all weights, of another seed each."""
    folder = tmp_path_factory.mktemp("family")
    paths = {"base": Path(shutil.copytree(tiny_model, folder / "base"))}
    for seed, name in enumerate(("a", "b", "c"), start=1):
        paths[name] = Path(shutil.copytree(tiny_model, folder / name))
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(paths[name] / WEIGHTS)
        save_file(
            {key: value + 0.02 * torch.randn(value.shape, generator=generator) for key, value in tensors.items()},
            paths[name] / WEIGHTS,
            metadata={"format": "pt"},
        )
    return paths
