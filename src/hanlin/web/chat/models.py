"""The models of the chat: those that the server has, those that it loads, and those that lie in the page's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.serve.registry import ServedModel
from hanlin.web.frame import Frame
from hanlin.web.models import find_models, title_models

if TYPE_CHECKING:
    from hanlin.serve.loaded_model import ModelLoader, ModelState


def describe_models(frame: Frame) -> dict[str, Any]:
    """What the chat may choose: `ready` models, those that are `loading` or failed, and those that were `found`."""
    from hanlin.serve.loaded_model import split_name

    loader: ModelLoader | None = frame.services.get("loader")
    states = loader.states if loader is not None else []
    loading = [
        {"names": state.names, "spec": state.spec, "state": state.state, "problem": state.problem}
        for state in states
        if state.state != "ready"
    ]
    taken = {split_name(state.spec)[1] for state in states if state.state != "failed"}
    paths = [path for path in find_models(frame.folder) if str(frame.folder / path) not in taken] if loader else []
    found = [{"path": path, "title": title} for path, title in title_models(frame.folder, paths).items()]
    return {"ready": [_describe(model) for model in frame.models.by_name.values()], "loading": loading, "found": found}


def load_model(frame: Frame, name: str, served_name: str = "") -> ModelState:
    """Load a model of the page's folder, after those that were asked for before it.

    Args:
        frame: The page.
        name: Its path, as a request names it.
        served_name: What it is called in the chat; empty: after its run and stage, else as its folder or file.

    Returns:
        How far it is by now, and its names; of one that is loaded or being loaded already, what it has.

    Raises:
        UserError: There is none at the path, it is outside of the folder, or this server loads none.
    """
    loader: ModelLoader | None = frame.services.get("loader")
    if loader is None:
        raise UserError(tr("this server loads no further models"))
    path = frame.resolve(name)
    if not path.exists():
        raise UserError(tr("there is no model here"), name)
    if (state := find_state(frame, path)) is not None:
        return state
    if not served_name and path.is_relative_to(frame.folder):
        relative = path.relative_to(frame.folder).as_posix()
        title = title_models(frame.folder, [relative])[relative]
        served_name = re.sub(r"[^\w.-]+", ":", title).strip(":") if title else ""
    return loader.load(f"{served_name}={path}" if served_name else str(path))


def find_state(frame: Frame, path: Path) -> ModelState | None:
    """The state of a model that is loaded from a path, if it was asked for and has not failed."""
    from hanlin.serve.loaded_model import split_name

    loader: ModelLoader | None = frame.services.get("loader")
    for state in loader.states if loader is not None else ():
        if state.state != "failed" and Path(split_name(state.spec)[1]).expanduser().resolve() == path.resolve():
            return state
    return None


def _describe(model: ServedModel) -> dict[str, Any]:
    template = model.template
    return {
        "name": model.name,
        "context_length": model.engine.context_length,
        "can_switch_thinking": bool(template.thinking_switches),
    }
