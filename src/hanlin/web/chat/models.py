"""The models of the chat: those that the server has, those that it loads, and those that lie in the page's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.serve.registry import ServedModel
from hanlin.web.frame import Frame

if TYPE_CHECKING:
    from hanlin.serve.loaded_model import ModelLoader, ModelState

_MAX_DEPTH = 3
_MAX_FOLDERS = 2000
_MAX_FOUND = 200


def describe_models(frame: Frame) -> dict[str, Any]:
    """What the chat may choose: `ready` models, those that are `loading` or failed, and `found` paths to load."""
    from hanlin.serve.loaded_model import split_name

    loader: ModelLoader | None = frame.services.get("loader")
    states = loader.states if loader is not None else []
    loading = [
        {"names": state.names, "spec": state.spec, "state": state.state, "problem": state.problem}
        for state in states
        if state.state != "ready"
    ]
    taken = {split_name(state.spec)[1] for state in states if state.state != "failed"}
    found = [path for path in find_models(frame.folder) if str(frame.folder / path) not in taken] if loader else []
    return {"ready": [_describe(model) for model in frame.models.by_name.values()], "loading": loading, "found": found}


def load_model(frame: Frame, name: str, served_name: str = "") -> ModelState:
    """Load a model of the page's folder, after those that were asked for before it.

    Args:
        frame: The page.
        name: Its path, as a request names it.
        served_name: What it is called in the chat; empty: as its folder or file.

    Returns:
        How far it is by now, and its names.

    Raises:
        UserError: There is none at the path, it is outside of the folder, or this server loads none.
    """
    loader: ModelLoader | None = frame.services.get("loader")
    if loader is None:
        raise UserError(tr("this server loads no further models"))
    path = frame.resolve(name)
    if not path.exists():
        raise UserError(tr("there is no model here"), name)
    return loader.load(f"{served_name}={path}" if served_name else str(path))


def _describe(model: ServedModel) -> dict[str, Any]:
    template = model.template
    return {
        "name": model.name,
        "context_length": model.engine.context_length,
        "can_switch_thinking": bool(template.thinking_switches),
    }


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


def _is_gguf(name: str) -> bool:
    """Whether a file is a GGUF model, not a later part of one or an importance matrix."""
    return name.endswith(".gguf") and "-of-" not in name.removesuffix(".gguf")[-12:] and "imatrix" not in name
