"""Writing a safetensors file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file


def save_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file at once or not at all; tensors that share memory are written each."""
    aside = path.with_name(path.name + ".writing")
    aside.touch()
    rights = aside.stat().st_mode
    save_file(tensors, str(aside), metadata={"format": "pt"})
    aside.chmod(rights)  # the library lets nobody but the owner read
    os.replace(aside, path)
