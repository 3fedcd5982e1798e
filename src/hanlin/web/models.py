"""The models that lie in the page's folder, and what people call them: by the run and the stage that made them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hanlin.pipeline.artifacts import Store
from hanlin.web.links import read_links

_MAX_DEPTH = 3
_MAX_FOLDERS = 2000
_MAX_FOUND = 200


def find_models(folder: Path) -> list[str]:
    """Paths of models below a folder, relative to it: folders of safetensors, adapters, and GGUF files.

    It looks three levels deep and into 2,000 folders at most, and follows no links; a folder of runs may be large.
    """
    found: list[str] = []
    level = [folder]
    looked = 0
    for _ in range(_MAX_DEPTH + 1):
        below: list[Path] = []
        for path in level:
            looked += 1
            if looked > _MAX_FOLDERS or len(found) >= _MAX_FOUND:
                return found
            try:
                with os.scandir(path) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError:
                continue
            files = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
            has_weights = any(name.endswith(".safetensors") for name in files)
            if path != folder and has_weights and files & {"config.json", "adapter_config.json"}:
                found.append(path.relative_to(folder).as_posix())
            found += [(path / name).relative_to(folder).as_posix() for name in sorted(files) if _is_gguf(name)]
            below += [
                path / entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
        level = below
    return found


def title_models(folder: Path, paths: Sequence[str]) -> dict[str, str]:
    """For each path of a model what people call it, `quickstart / tuned`, by the runs that made it; '' if none did."""
    store = Store(folder)
    links = read_links(store)
    titles = {}
    for path in paths:
        parts = Path(path).parts
        is_artifact = len(parts) > 1 and parts[0] == store.artifacts.name
        title = next((f"{run} / {stage}" for run, stage in links.find(parts[1])), "") if is_artifact else ""
        titles[path] = " / ".join((title, *parts[2:])).removesuffix(".gguf") if title else ""
    return titles


def _is_gguf(name: str) -> bool:
    """Whether a file is a GGUF model, not a later part of one or an importance matrix."""
    return name.endswith(".gguf") and "-of-" not in name.removesuffix(".gguf")[-12:] and "imatrix" not in name
