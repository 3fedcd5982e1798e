"""File names of a model folder, and the headers of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_RECORD = "base.json"
"""Which base model an adapter was trained on."""
SUPPORTED_ARCHITECTURES = {"llama": "LlamaForCausalLM"}
MOE_ARCHITECTURES = {"mixtral": "MixtralForCausalLM"}
"""Mixture-of-experts models, which can be trained, merged, exported and run."""
NEW_BLOCKS = "new_blocks"
"""The entry of `config.json` that lists the decoder blocks that `expand_blocks` added, so that training finds them."""
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""Names of the embeddings and of the output head; a folder with tied weights has the first alone."""
DTYPE_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a safetensors file: dtype (`F32`, `BF16`), shape, and its bytes `start` to `end` in `file`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model folder: its configuration and every tensor by name."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]

    @property
    def dtype(self) -> str:
        """Dtype of most of the weights: `float32`, `bfloat16` or `float16`."""
        sizes: dict[str, int] = {}
        for entry in self.tensors.values():
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + math.prod(entry.shape)
        return DTYPE_NAMES[max(sizes, key=lambda name: sizes[name])]

    @property
    def vocabulary_rows(self) -> int:
        """Rows of the embeddings; at least as many as the tokenizer has entries."""
        return self.tensors["model.embed_tokens.weight"].shape[0]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def find_license_files(folder: Path) -> list[Path]:
    """Return the files that must accompany every copy of the model: `LICENSE`, `NOTICE` and the like."""
    return [path for path in sorted(folder.iterdir()) if path.name.upper().startswith(("LICEN", "NOTICE"))]
