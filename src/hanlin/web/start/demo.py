"""The demo, a run of the quickstart recipe: how far it is in the page's folder, and its next step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run_record import RunSource, read_run_record
from hanlin.web.chat.models import find_state, load_model
from hanlin.web.frame import Frame
from hanlin.web.recipes.shipped import find_recipe
from hanlin.web.runs.control import start_run
from hanlin.web.runs.stages import linked_artifacts

if TYPE_CHECKING:
    from hanlin.serve.loaded_model import ModelLoader

DEMO = "quickstart"
"""The recipe, its run, and what the model is called in the chat."""
_STAGE = "merged"
"""The stage whose model is asked: the last one before it is quantized."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The demo as it is in a folder.

    Attributes:
        state: `missing`, `running`, `unfinished` (it was begun, and no model is there yet), `found` (its model lies in
            the folder), or `asked` (its model is served or being loaded).
        model: The path of its model below the page's folder, if there is one.
        served_name: The name of the model in the chat, if it is `asked`.
    """

    state: Literal["missing", "running", "unfinished", "found", "asked"]
    model: str = ""
    served_name: str = ""


def find_demo(frame: Frame, store: Store) -> Demo:
    """How far the demo is.

    Args:
        frame: The page.
        store: The artifacts and runs of its folder.
    """
    folder = store.runs / DEMO
    if folder.is_symlink() or not folder.is_dir():
        return Demo("missing")
    record = read_run_record(folder)
    for stage, manifest in linked_artifacts(store, DEMO):
        if stage == _STAGE and manifest.type == "model":
            path = store.folder(manifest.kind, manifest.key)
            model = path.relative_to(frame.folder).as_posix()
            state = find_state(frame, path)
            return Demo("found", model) if state is None else Demo("asked", model, state.names[0])
    return Demo("running" if record is not None and record.is_alive() else "unfinished")


def take_next_step(frame: Frame, store: Store) -> str:
    """Run the demo, let it go on, or load its model; where it can be seen is returned, a path of the page.

    Raises:
        UserError: The run cannot begin, or this server loads no further models.
    """
    demo = find_demo(frame, store)
    if demo.state in ("missing", "unfinished"):
        recipe = find_recipe(frame.folder, "shipped", DEMO)
        start_run(store, RunSource(str(recipe), (), "", str(frame.folder)), frame.folder)
    if demo.state == "found":
        return chat_with(load_model(frame, demo.model, _choose_name(frame)).names[0])
    return chat_with(demo.served_name) if demo.state == "asked" else f"/ui/runs/view/{DEMO}"


def chat_with(name: str) -> str:
    """The chat with a model chosen, by the model's name; it may still be loading."""
    return f"/ui/chat?model={quote(name, safe='')}"


def _choose_name(frame: Frame) -> str:
    """The demo's own name, or '' (the name of the model's folder) if another model has it."""
    loader: ModelLoader | None = frame.services.get("loader")
    states = loader.states if loader is not None else []
    taken = {*frame.models.by_name, *(name for state in states if state.state != "failed" for name in state.names)}
    return "" if DEMO in taken else DEMO
