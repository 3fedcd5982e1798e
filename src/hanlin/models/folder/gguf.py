"""Find the GGUF files of a folder and choose one of them."""

from __future__ import annotations

import re
from pathlib import Path

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_SHARDS

_PART = re.compile(r"(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf")
"""The name of one of several files of a model, as `llama-gguf-split` gives it (`llama_split_path` of llama.cpp)."""


def find_gguf_files(path: Path) -> list[Path]:
    """Return the GGUF files in a folder (not in subfolders), sorted by name, or the path itself if it is one.

    Of a model in several files it is the first, which is the one that llama.cpp is given.
    """
    if path.is_dir():
        files = {file for file in path.iterdir() if file.suffix == ".gguf"}
        return sorted(file for file in files if list_gguf_parts(file)[0] not in files - {file})
    return [path] if path.suffix == ".gguf" else []


def list_gguf_parts(path: Path) -> list[Path]:
    """The files of a model that is in several, by their names, whether they exist or not; else the file alone."""
    match = _PART.fullmatch(path.name)
    count = int(match["count"]) if match else 1
    if match is None or not 1 <= int(match["index"]) <= count <= MAX_SHARDS:
        return [path]
    return [path.with_name(f"{match['stem']}-{index:05d}-of-{count:05d}.gguf") for index in range(1, count + 1)]


def split_part_name(name: str) -> tuple[str, str]:
    """The name of a GGUF file without its ending, and the ending: `m-Q8_0-00001-of-00002.gguf` gives `m-Q8_0` and
    `-00001-of-00002.gguf`, `m-Q8_0.gguf` gives `m-Q8_0` and `.gguf`.
    """
    match = _PART.fullmatch(name)
    stem = match["stem"] if match else name.removesuffix(".gguf")
    return stem, name[len(stem) :]


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
        return max(candidates, key=lambda candidate: (total_bytes(candidate), candidate.name))
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


def total_bytes(path: Path) -> int:
    """The size of a GGUF file, with that of the other files of its model."""
    return sum(part.stat().st_size for part in list_gguf_parts(path) if part.is_file())


def _parse_quant_type(file: Path) -> str:
    """Return the quantization type of a GGUF file name: `model-Q8_0.gguf` and `model.Q8_0.gguf` give `q8_0`."""
    return re.split(r"[-.]", split_part_name(file.name)[0])[-1].lower()
