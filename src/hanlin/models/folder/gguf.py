"""Find the GGUF files of a folder and choose one of them."""

from __future__ import annotations

import re
from pathlib import Path

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr


def find_gguf_files(path: Path) -> list[Path]:
    """Return the GGUF files in a folder (not in subfolders), sorted by name, or the path itself if it is one."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix == ".gguf")
    return [path] if path.suffix == ".gguf" else []


def choose_gguf(candidates: list[Path], path: Path, file: str) -> Path:
    """Choose a GGUF file by quantization type or by name.

    Args:
        candidates: GGUF files, at least one.
        path: The folder that they are in, for the message.
        file: A type (`Q8_0`) or a file name; empty: the largest file, which is closest to the original weights.

    Raises:
        UserError: None or several of them match.
    """
    if not file:
        return max(candidates, key=lambda candidate: (candidate.stat().st_size, candidate.name))
    wanted = file.lower()
    matches = [
        candidate
        for candidate in candidates
        if wanted in (candidate.name.lower(), candidate.stem.lower()) or _parse_quant_type(candidate) == wanted
    ]
    if len(matches) == 1:
        return matches[0]
    what = (
        tr("several GGUF files match '{file}'", file=file)
        if matches
        else tr("no GGUF file matches '{file}'", file=file)
    )
    raise UserError(what, path, did_you_mean(file, [candidate.name for candidate in matches or candidates]))


def _parse_quant_type(file: Path) -> str:
    """Return the quantization type of a GGUF file name: `model-Q8_0.gguf` and `model.Q8_0.gguf` give `q8_0`."""
    return re.split(r"[-.]", file.stem)[-1].lower()
