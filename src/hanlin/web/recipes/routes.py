"""Routes of the recipes: the choice, the form, the check while it is filled in, saving and starting."""

from __future__ import annotations

from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from hanlin.config.yaml_text import MAX_BYTES
from hanlin.core.errors import UserError, explain_os_error
from hanlin.core.files import write_text
from hanlin.core.i18n import tr
from hanlin.core.names import check_name
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run_record import RunSource
from hanlin.serve.api.body import RequestBody
from hanlin.serve.errors import ApiError
from hanlin.web.bodies import read_body
from hanlin.web.frame import OWN_FOLDER as UI_FOLDER
from hanlin.web.frame import Frame
from hanlin.web.recipes.check import check_size, describe_plan, files_outside, measure_plan, read_text
from hanlin.web.recipes.form import describe_form, list_kinds, parse_data, read_field
from hanlin.web.recipes.rates import Rates
from hanlin.web.recipes.shipped import OWN_FOLDER, find_recipe, list_recipes, read_recipe_text
from hanlin.web.recipes.text import REMOVED, change_setting
from hanlin.web.runs.control import start_run


class SettingChange(RequestBody):
    """A setting that was changed in the form: its keys, and the YAML that was typed; null takes it out."""

    path: list[str] = Field(min_length=1, max_length=20)
    value: str | None = None


class Draft(RequestBody):
    """A recipe that is being written."""

    text: str = Field(max_length=MAX_BYTES)
    name: str = Field(default="recipe", max_length=200)
    change: SettingChange | None = None
    memory: str = Field(default="", max_length=40)
    device: str = Field(default="auto", max_length=10)


class Save(RequestBody):
    """A recipe to save, and whether one of its name may be replaced."""

    text: str = Field(max_length=MAX_BYTES)
    name: str = Field(max_length=200)
    replace: bool = False


class Start(RequestBody):
    """A saved recipe to run, up to a stage if one is named."""

    name: str = Field(max_length=200)
    until: str = Field(default="", max_length=200)


def make_router(frame: Frame) -> APIRouter:
    """The routes below `/ui/recipes`."""
    router = APIRouter()
    store = Store(frame.folder)
    rates = Rates(store, frame.folder / UI_FOLDER / "cache")
    start = [Depends(frame.require_start_token)]

    @router.get("/ui/recipes")
    def show_recipes(request: Request) -> Response:
        return frame.render(request, "recipes/list.html", {"recipes": list_recipes(frame.folder)}, view="recipes")

    @router.get("/ui/recipes/edit/{source}/{name}")
    def edit(request: Request, source: str, name: str) -> Response:
        text = read_recipe_text(find_recipe(frame.folder, source, name))
        values = {"name": name, "source": source, "text": text, "kinds": list_kinds()}
        return frame.render(request, "recipes/edit.html", values, view="recipes", scripts=("recipes/edit.js",))

    @router.post("/ui/recipes/check")
    async def post_check(request: Request) -> dict[str, Any]:
        return await run_sync(check, request, await read_body(request, Draft))

    def check(request: Request, draft: Draft) -> dict[str, Any]:
        """Apply a change to the text, and tell what the recipe comes to."""
        text = draft.text
        name = draft.name if draft.name.strip() else "recipe"
        refused: UserError | None = None
        if draft.change is not None:
            value = REMOVED if draft.change.value is None else None
            try:
                if value is not REMOVED:
                    value = read_field(draft.change.value or "", ".".join(draft.change.path[1:]))
                text = change_setting(text, draft.change.path, value)
            except UserError as error:
                refused = error
        answer: dict[str, Any] = {"text": text, "form": describe_form(parse_data(text))}
        try:
            if refused is not None:
                raise refused
            recipe = read_text(text, name, frame.folder)
        except UserError as error:
            return {**answer, "problem": _problem(error)}
        answer |= {"recipe": recipe.name}
        try:
            if outside := files_outside(recipe, frame.folder):
                _require_token_for(outside, request, frame)
            check_size(recipe)
            answer["plan"] = describe_plan(recipe, store, rates, draft.memory.strip(), draft.device)
        except UserError as error:
            answer["plan_problem"] = _problem(error)
        except OSError as error:
            known = explain_os_error(error)
            if known is None:
                raise
            answer["plan_problem"] = _problem(known)
        return answer

    @router.post("/ui/recipes/measure", dependencies=start)
    async def post_measure(request: Request) -> dict[str, str]:
        """Measure a step of each training stage of a recipe on this machine."""
        return await run_sync(measure, await read_body(request, Draft))

    def measure(draft: Draft) -> dict[str, str]:
        recipe = read_text(draft.text, draft.name if draft.name.strip() else "recipe", frame.folder)
        check_size(recipe)
        measure_plan(recipe, store, rates)
        return {"recipe": recipe.name}

    @router.post("/ui/recipes/save", dependencies=start)
    async def post_save(request: Request) -> dict[str, str]:
        return await run_sync(save, await read_body(request, Save))

    def save(body: Save) -> dict[str, str]:
        """Save a valid recipe below the page's folder."""
        name = check_name(body.name.strip(), tr("the name of a recipe's file"), "name")
        read_text(body.text, name, frame.folder)
        folder = frame.folder / OWN_FOLDER
        path = folder / f"{name}.yaml"
        for item in (folder, path):
            if item.is_symlink():
                what = tr("a link is here, and what Hanlin writes would be elsewhere")
                raise UserError(what, item, tr("remove the link"))
        folder.mkdir(exist_ok=True)
        text = body.text if body.text.endswith("\n") else body.text + "\n"
        if path.exists() and not body.replace and path.read_text(encoding="utf-8", errors="replace") != text:
            raise ApiError(409, tr("there is a recipe of this name with other content"), code="exists")
        write_text(path, text)
        return {"name": name, "path": str(path)}

    @router.post("/ui/recipes/start", dependencies=start)
    async def start_saved(request: Request) -> dict[str, str]:
        """Run a saved recipe, in a process of its own."""
        body = await read_body(request, Start)
        path = find_recipe(frame.folder, "own", body.name)
        source = RunSource(str(path), (), body.until, str(frame.folder))
        return {"run": await run_sync(start_run, store, source, frame.folder)}

    return router


def _require_token_for(outside: list[str], request: Request, frame: Frame) -> None:
    """Raise UserError if a recipe names files outside of the folder and the request has no start token: a plan tells
    whether they are there.
    """
    try:
        frame.require_start_token(request)
    except ApiError as error:
        what = tr("this recipe reads {path}, which is outside of the page's folder", path=outside[0])
        hint = tr("open the page by the address that the terminal printed, with its token")
        raise UserError(what, None, hint) from error


def _problem(error: UserError) -> dict[str, str | None]:
    return {"what": error.what, "where": error.where, "hint": error.hint}
