"""GGUF files of a folder, and which of them is meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

if TYPE_CHECKING:
    pass


def gguf_files(path: Path) -> list[Path]:
    """The GGUF files that `path` is or directly holds, in the order of their names."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix == ".gguf")
    return [path] if path.suffix == ".gguf" else []


def choose_gguf(candidates: list[Path], path: Path, file: str) -> Path:
    """The one of `candidates` that fits `file`, a type (`Q8_0`) or a name; without it the largest, which lost least.

    Raises UserError when none or several fit.
    """
    if not file:
        return max(candidates, key=lambda candidate: (candidate.stat().st_size, candidate.name))
    wanted = file.lower()
    fitting = [
        candidate
        for candidate in candidates
        if wanted in (candidate.name.lower(), candidate.stem.lower()) or _type_of(candidate) == wanted
    ]
    if len(fitting) == 1:
        return fitting[0]
    what = (
        say(f"several GGUF files fit '{file}'", f"有多个 GGUF 文件符合“{file}”")
        if fitting
        else say(f"no GGUF file fits '{file}'", f"没有符合“{file}”的 GGUF 文件")
    )
    raise UserError(what, path, did_you_mean(file, [candidate.name for candidate in fitting or candidates]))


def _type_of(file: Path) -> str:
    """The quantization that a GGUF file's name ends with: `model-Q8_0.gguf` and `model.Q8_0.gguf` give `q8_0`."""
    return re.split(r"[-.]", file.stem)[-1].lower()
