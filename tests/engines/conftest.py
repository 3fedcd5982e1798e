"""One tiny model in both engines: as a folder for transformers, as an F32 GGUF file for llama.cpp."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hanlin.engines import Engine, Request, Sampling, open_engine
from hanlin.export.gguf import run
from hanlin.job import Inputs, Job
from hanlin.settings.export import Gguf
from hanlin.tokens.tokenizer import Tokenizer

CONTEXT = 1024


@pytest.fixture(scope="session")
def spoken_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A random Llama whose weights are large enough that it has clear preferences."""
    tokenizer = Tokenizer.load(tiny_tokenizer)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=[tokenizer.eos_id],
    )
    folder = tmp_path_factory.mktemp("spoken")
    tokenizer.save(folder)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def spoken_gguf(spoken_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf")
    settings = Gguf(model="./m", types=("F32", "Q8_0"), compare=False)
    run(settings, Inputs({"model": (spoken_model,)}), out, Job())
    return out


@pytest.fixture(scope="session")
def hf(spoken_model: Path) -> Iterator[Engine]:
    engine = open_engine("transformers", spoken_model)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cpp(spoken_gguf: Path) -> Iterator[Engine]:
    engine = open_engine("llama_cpp", spoken_gguf / "model-F32.gguf", cache_type="f32")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def cpp_apart(spoken_gguf: Path) -> Iterator[Engine]:
    """llama.cpp in a process of its own."""
    engine = open_engine("llama_cpp", spoken_gguf / "model-F32.gguf", apart=True, cache_type="f32")
    yield engine
    engine.close()


@pytest.fixture(params=["hf", "cpp", "cpp_apart"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def requests_of(count: int, seed: int = 0, **sampling: object) -> list[Request]:
    """Random prompts of 1 to 60 ids and answers of 1 to 40; id 7 ends some answers early."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        prompt = tuple(chance.randrange(10, 390) for _ in range(chance.randrange(1, 60)))
        chosen = {"max_new_tokens": chance.randrange(1, 40), **sampling}
        if chosen.get("temperature"):
            chosen["seed"] = number
        made.append(Request(prompt, (7, 8, 9, 11, 13), Sampling(**chosen)))  # type: ignore[arg-type]
    return made
