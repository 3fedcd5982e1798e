"""File names of a model folder, and what its headers say."""

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


SUPPORTED = {"llama": "LlamaForCausalLM"}


WITH_EXPERTS = {"mixtral": "MixtralForCausalLM"}


DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a safetensors file: its dtype by the format's name, its shape, and its bytes in `file`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A whole model folder: its configuration and every tensor by name."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]

    @property
    def dtype(self) -> str:
        """The number format that most of the weights are in: `float32`, `bfloat16` or `float16`."""
        sizes: dict[str, int] = {}
        for entry in self.tensors.values():
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + math.prod(entry.shape)
        return DTYPES[max(sizes, key=lambda name: sizes[name])]

    @property
    def vocabulary_rows(self) -> int:
        return self.tensors["model.embed_tokens.weight"].shape[0]


def is_adapter(folder: Path) -> bool:
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def licenses_in(folder: Path) -> list[Path]:
    """The texts that go wherever the model goes: `LICENSE`, `NOTICE` and the like."""
    return [path for path in sorted(folder.iterdir()) if path.name.upper().startswith(("LICEN", "NOTICE"))]
