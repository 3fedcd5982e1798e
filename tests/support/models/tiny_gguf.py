"""The smallest model with a given chat template, saved and exported; and which templates fit which real tokenizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Gguf
from hanlin.core.context import Inputs, StageContext
from hanlin.export.gguf.export import run
from tiny_llama import tiny_llama

TEMPLATES_OF = {
    "llama3": (
        *("llama3", "llama3.1", "llama3.2", "shareai_v1", "shareai_instruct", "plain", "chatml", "gemma2"),
        *("hermes", "qwen3", "deepseek_r1"),
    ),
    "llama2": ("llama2", "alpaca2", "atom", "plain"),
}
USUAL = (
    pytest.param("llama3", "llama3.1", marks=pytest.mark.slow),
    *(pytest.param(*pair) for pair in (("llama2", "llama2"), ("tiny", "qwen3"), ("tiny", "deepseek_r1"))),
)
ALL = tuple(pytest.param(tokenizer, template) for tokenizer, names in TEMPLATES_OF.items() for template in names)
FOLDERS = ALL if "HANLIN_CONVERSATIONS" in os.environ else USUAL
"""`make test-parity` goes through all templates on the real tokenizers, 20 seconds each; the default suite through one
on Llama 2's, and through two that think on a tokenizer of 700 entries."""


class Exported(NamedTuple):
    """A model folder, the GGUF file in it, and what the check of the contract found at the export."""

    folder: Path
    file: Path
    backends: list[dict[str, Any]]


def tiny_gguf(template: ChatTemplate, folder: Path) -> Exported:
    """A saved model of one layer with this template, and its GGUF file."""
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": True}
    stops = list(template.stop_ids)
    tiny_llama(folder, template.tokenizer, seed=0, dtype=torch.float16, eos_token_id=stops, **shape, **heads)
    template.save(folder)
    out = folder / "gguf"
    out.mkdir()
    metrics = run(Gguf(model="./m", types=("F16",), compare=False), Inputs({"model": (folder,)}), out, StageContext())
    return Exported(folder, out / "model-F16.gguf", metrics["parity"]["backends"])
