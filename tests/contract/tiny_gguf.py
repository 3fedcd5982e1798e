"""The smallest model with a given chat template, saved and exported; and which templates fit which real tokenizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hanlin.export.gguf import run
from hanlin.job import Inputs, Job
from hanlin.settings.export import Gguf
from hanlin.tokens.chat_template import ChatTemplate

TEMPLATES_OF = {
    "llama3": ("llama3", "llama3.1", "shareai_v1", "shareai_instruct", "plain", "chatml", "gemma2"),
    "llama2": ("llama2", "alpaca2", "atom", "plain"),
}
USUAL = (("llama3", "llama3"), ("llama3", "llama3.1"), ("llama2", "llama2"), ("llama2", "alpaca2"))
ALL = tuple((tokenizer, template) for tokenizer, names in TEMPLATES_OF.items() for template in names)
FOLDERS = ALL if "HANLIN_CONVERSATIONS" in os.environ else USUAL
"""`make test-contract` goes through all of them; every template is always checked with a small tokenizer."""


class Exported(NamedTuple):
    """A model folder, the GGUF file in it, and what the check of the contract found at the export."""

    folder: Path
    file: Path
    consumers: list[dict[str, Any]]


def tiny_gguf(template: ChatTemplate, folder: Path) -> Exported:
    """A saved model of one layer with this template, and its GGUF file."""
    tokenizer = template.tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=list(template.stop_ids),
    )
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    template.save(folder)
    out = folder / "gguf"
    out.mkdir()
    metrics = run(Gguf(model="./m", types=("F16",), compare=False), Inputs({"model": (folder,)}), out, Job())
    return Exported(folder, out / "model-F16.gguf", metrics["contract"]["consumers"])
