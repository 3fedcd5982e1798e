"""What the tests of models share: tiny models with fixed random weights, tied and untied, and trained adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hanlin.config.settings.model import LoraSettings
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.folder.adapter import resolve_base
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import MakeAdapter, perturb_trainable
from tiny_llama import tie_embeddings
from tokenizer_folders import llama2, tiny_sentencepiece

__all__ = ["llama2", "tiny_sentencepiece"]


@pytest.fixture(scope="session")
def tied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one matrix for embeddings and output head."""
    return tie_embeddings(tmp_path_factory.mktemp("tied") / "model", tiny_model)


@pytest.fixture
def store(tiny_model: Path, tied_model: Path, tmp_path: Path) -> Path:
    """A folder with the bases `untied` and `tied`, as they lie side by side in a store of artifacts."""
    shutil.copytree(tiny_model, tmp_path / "store" / "untied")
    shutil.copytree(tied_model, tmp_path / "store" / "tied")
    return tmp_path / "store"


@pytest.fixture
def make_adapter(store: Path) -> MakeAdapter:
    """Makes a trained adapter folder beside its base; keywords are LoRA's settings."""

    def make(base: str = "untied", name: str = "adapter", **lora: object) -> Path:
        settings = LoraSettings.model_validate({"rank": 4, **lora})
        model = perturb_trainable(attach_lora(load_model(store / base), settings, seed=1))
        save_adapter(model, store / name, base=store / base)
        Tokenizer.load(store / base).save(store / name)
        assert resolve_base(store / name) == (store / base).resolve()
        return store / name

    return make
