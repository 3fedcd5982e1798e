"""Routes of the first view: the page, the demo's next step, and a model of the folder to chat with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response

from hanlin.core.i18n import tr
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run_record import read_run_record
from hanlin.web.bodies import read_body
from hanlin.web.chat.bodies import ModelChoice
from hanlin.web.chat.models import load_model
from hanlin.web.data.routes import list_datasets
from hanlin.web.frame import Frame
from hanlin.web.models import find_models, title_models
from hanlin.web.runs.names import STATE_NAMES, STATE_SIGNS
from hanlin.web.runs.stages import list_runs
from hanlin.web.start.demo import DEMO, chat_with, find_demo, take_next_step

SHOWN = 5
"""What is listed of each kind; the other views list the rest."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run by its record alone, which takes no time: the view of runs plans its recipe as well.

    `state` is a key of `STATE_NAMES`, '' without a record.
    """

    name: str
    state: str


def make_router(frame: Frame) -> APIRouter:
    """The routes below `/ui/start`."""
    router = APIRouter()
    store = Store(frame.folder)
    start = [Depends(frame.require_start_token)]

    @router.get("/ui/start")
    def show_start(request: Request) -> Response:
        names = list_runs(store)
        models = find_models(frame.folder)
        datasets, hidden = list_datasets(store)
        values: dict[str, Any] = {
            "folder": str(frame.folder),
            "demo": find_demo(frame, store),
            "demo_run": DEMO,
            "runs": [_view_run(store, name) for name in names[:SHOWN]],
            "run_count": len(names),
            "models": title_models(frame.folder, models[:SHOWN]),
            "model_count": len(models),
            "datasets": datasets[:SHOWN],
            "dataset_count": len(datasets) + hidden,
            "state_names": {name: tr(text) for name, text in STATE_NAMES.items()},
            "state_signs": STATE_SIGNS,
            "served": list(frame.models.by_name),
        }
        return frame.render(request, "start/start.html", values, view="start", scripts=("start/start.js",))

    @router.post("/ui/start/demo", dependencies=start)
    def post_demo() -> dict[str, str]:
        """Run the demo or load its model; `go` is the page that shows it."""
        return {"go": take_next_step(frame, store)}

    @router.post("/ui/start/model", dependencies=start)
    async def post_model(request: Request) -> dict[str, str]:
        """Load a model of the folder; `go` is the chat with it."""
        body = await read_body(request, ModelChoice)
        state = await run_sync(load_model, frame, body.path)
        return {"go": chat_with(state.names[0])}

    return router


def _view_run(store: Store, name: str) -> RunRow:
    record = read_run_record(store.runs / name)
    if record is None:
        return RunRow(name, "")
    was_killed = record.outcome == "running" and not record.is_alive()
    return RunRow(name, "interrupted" if was_killed else record.outcome)
