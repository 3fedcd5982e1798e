"""Writing a safetensors file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file

from hanlin.core.files import partial_path


def save_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file at once or not at all; the library itself opens the file, so `open_atomic` cannot."""
    partial = partial_path(path)
    partial.touch()
    mode = partial.stat().st_mode
    save_file(tensors, str(partial), metadata={"format": "pt"})
    partial.chmod(mode)  # the library makes it readable by the owner only
    os.replace(partial, path)
