"""One tiny model in both engines: as a folder for transformers, as an F32 GGUF file for llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.export import Gguf
from hanlin.core.context import Inputs, StageContext
from hanlin.export.gguf.export import run
from hanlin.inference.protocol import Engine
from hanlin.inference.registry import create_engine
from hanlin.tokenizer.tokenizer import Tokenizer
from random_requests import CONTEXT
from tiny_llama import tiny_llama


@pytest.fixture(scope="session")
def spoken_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A random Llama whose weights are large enough that it has clear preferences."""
    tokenizer = Tokenizer.load(tiny_tokenizer)
    folder = tmp_path_factory.mktemp("spoken")
    tokenizer.save(folder)
    changes: dict[str, Any] = {"num_hidden_layers": 3, "max_position_embeddings": CONTEXT, "initializer_range": 0.2}
    return tiny_llama(folder, tokenizer, seed=3, **changes)


@pytest.fixture(scope="session")
def spoken_gguf(spoken_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf")
    settings = Gguf(model="./m", types=("F32", "Q8_0"), compare=False)
    run(settings, Inputs({"model": (spoken_model,)}), out, StageContext())
    return out


@pytest.fixture(scope="session")
def hf(spoken_model: Path) -> Iterator[Engine]:
    engine = create_engine("transformers", spoken_model)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cpp(spoken_gguf: Path) -> Iterator[Engine]:
    engine = create_engine("llama_cpp", spoken_gguf / "model-F32.gguf", cache_type="f32")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cpp_apart(spoken_gguf: Path) -> Iterator[Engine]:
    """llama.cpp in a process of its own."""
    engine = create_engine("llama_cpp", spoken_gguf / "model-F32.gguf", separate_process=True, cache_type="f32")
    yield engine
    engine.close()


@pytest.fixture(params=["hf", "cpp", "cpp_apart"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)
