"""Llama models of random weights that are small enough to be made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
"""Llama 3.1's scaling of the rotary frequencies, over a context that tests pass."""
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
"""YaRN, which scales the sines and cosines too."""


def tiny_llama(
    folder: Path, tokenizer: Tokenizer, *, seed: int, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """Save a model over `tokenizer` in `folder`: two layers, 4 heads sharing 2 key-value heads, but for `changes`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            **SHAPE,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": [tokenizer.eos_id],
            **changes,
        }
    )
    # transformers wraps `to` in a decorator that loses the type of its first argument
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


def tie_embeddings(folder: Path, source: Path) -> Path:
    """Save the model of `source` in `folder` with one matrix for embeddings and output head."""
    model = load_model(source)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    save_model(model, folder, tokenizer=Tokenizer.load(source))
    return folder
