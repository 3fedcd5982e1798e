"""Tiny Llama models of every shape that a GGUF file must hold, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from hanlin.config.settings.export import Gguf
from hanlin.core.context import Inputs, StageContext
from hanlin.export.gguf.export import run
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_llama import SHAPE
from tokenizer_folders import tiny_sentencepiece

__all__ = ["tiny_sentencepiece"]

MakeModel = Callable[..., Path]
Export = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> MakeModel:
    """Saves a random model over a tokenizer (the tiny one); weights are large enough that its choices are clear."""

    def make(
        tokenizer: Path = tiny_tokenizer,
        *,
        dtype: torch.dtype = torch.float32,
        more_rows: int = 0,
        packed_experts: bool = False,
        **config: Any,
    ) -> Path:
        read = Tokenizer.load(tokenizer)
        shape = {
            **SHAPE,
            "vocab_size": len(read) + more_rows,
            "initializer_range": 0.2,
            "bos_token_id": read.bos_id,
            "eos_token_id": [read.eos_id],
            "tie_word_embeddings": False,
        }
        torch.manual_seed(0)
        settings: dict[str, Any] = {**shape, **config}
        model: Any
        if "num_local_experts" in config:
            model = MixtralForCausalLM(MixtralConfig(**settings))
        else:
            model = LlamaForCausalLM(LlamaConfig(**settings))
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.1)
        folder = tmp_path_factory.mktemp("model")
        read.save(folder)
        model.to(dtype).save_pretrained(folder, save_original_format=not packed_experts)
        return folder

    return make


@pytest.fixture(scope="session")
def plain_model(make_model: MakeModel) -> Path:
    return make_model()


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Runs the stage on a model folder and gives the artifact's folder and the metrics."""

    def work(
        model: Path,
        *types: str,
        out: Path | None = None,
        importance: Path | None = None,
        held_out: tuple[Path, ...] = (),
        **settings: Any,
    ) -> tuple[Path, dict[str, Any]]:
        folder = out or tmp_path / f"gguf-{len(list(tmp_path.iterdir()))}"
        folder.mkdir(exist_ok=True)
        named = {} if importance is None else {"importance": importance.name}
        chosen = Gguf(model="./model", types=types or ("F32",), **named, **settings)
        paths = {
            "model": (model,),
            "quality_report.held_out": held_out,
            "importance": (importance,) if importance else (),
        }
        return folder, run(chosen, Inputs(paths), folder, StageContext())

    return work
