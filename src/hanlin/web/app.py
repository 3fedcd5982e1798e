"""The page: views over the server's own application.

How a view is added (the chat is the example):

1. A folder `web/<name>/` with a router: `def make_router(frame: Frame) -> APIRouter` with paths `/ui/<name>...`, pages
   as HTML and data as JSON. It gets all that it may use by the `Frame`: `frame.resolve(name)` turns a name of a request
   into a path and refuses what is outside of the folder; `frame.own_folder` is where the page writes. Heavy imports
   stand inside functions. A plain `def` route runs in a thread.
2. A row in `VIEWS` below: name, title (marked by `mark`), router. The navigation shows it.
3. Templates in `web/templates/<name>/`, rendered by `frame.render(request, "<name>/x.html", values, view="<name>",
   scripts=("<name>/x.js",))`. A page begins with `{% extends "frame/page.html" %}` and fills the blocks `title`,
   `head` and `content`; a part for htmx is any template. Everything is escaped. `{{ t("Message") }}` is a message of
   the catalog in the reader's language, `{{ url("/ui/x") }}` an address behind the base path,
   `<script type="application/json" id="x-data">{{ dump_json(value) }}</script>` hands data to a script.
4. Scripts and styles in `web/static/<name>/`, plain ES modules, at `/ui/static/<name>/x.js`. The content security
   policy takes neither inline scripts nor inline styles nor `style=` attributes (set `element.style` in a script).
   From `/ui/static/frame/page.js` (import it relatively: `../frame/page.js`): `t("Message")` (a literal, so that
   `make messages` finds it), `request(method, path, body)` for JSON with all tokens, `element(tag, attributes,
   ...children)`, `notify(text)`. htmx requests carry the tokens too. What others wrote goes into `textContent`, never
   into `innerHTML`.
   Vendored: `vendor/htmx.min.js` is on every page; a page adds uPlot by `{% block head %}` with
   `vendor/uPlot.iife.min.js` (deferred) and `vendor/uPlot.min.css`.
5. Checks: `guard.UiGuard` has looked at Host, Origin, key and page token before any route below `/ui` is reached. A
   route that starts or stops work adds `dependencies=[Depends(frame.require_start_token)]`.
   Bad input is a `UserError` (400) or an `ApiError`: a sentence on the page, JSON for a script.
6. Tests: `make_client(folder)` of `tests/support/serving/web_client.py` is a client that has all tokens;
   `tests/web/browser` has the tests in a real browser, marked `web`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from hanlin.core.errors import UserError
from hanlin.core.i18n import mark, tr, use_language
from hanlin.serve.errors import ApiError, to_api_error
from hanlin.web.chat import routes as chat_routes
from hanlin.web.data import routes as data_routes
from hanlin.web.evaluation import routes as evaluation_routes
from hanlin.web.frame import Frame, View
from hanlin.web.guard import UiGuard, add_security_headers, is_page_path, make_refusal, read_cookies
from hanlin.web.inside import NotInsideError
from hanlin.web.recipes import routes as recipes_routes
from hanlin.web.runs import routes as runs_routes
from hanlin.web.start import routes as start_routes
from hanlin.web.texts import STATIC

VIEWS: tuple[View, ...] = (
    View("start", mark("Start"), start_routes.make_router),
    View("chat", mark("Chat"), chat_routes.make_router),
    View("runs", mark("Runs"), runs_routes.make_router),
    View("data", mark("Data"), data_routes.make_router),
    View("evaluation", mark("Evaluation"), evaluation_routes.make_router),
    View("recipes", mark("Recipes"), recipes_routes.make_router),
)


def add_page(app: FastAPI, frame: Frame) -> None:
    """Add the page below `/ui` to the application of a server.

    Args:
        app: As `serve.app.create_app` makes it.
        frame: What the views get.
    """
    frame.views = VIEWS
    app.mount("/ui/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(_make_frame_router(frame))
    for view in VIEWS:
        app.include_router(view.make_router(frame))
    for error_class in (ApiError, UserError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(error_class, _answer_errors_of_page(frame, app.exception_handlers[error_class]))
    app.add_middleware(UiGuard, frame=frame)


def _make_frame_router(frame: Frame) -> APIRouter:
    router = APIRouter()

    @router.get("/ui")
    @router.get("/ui/")
    async def open_first_view() -> Response:
        """The chat if there is or will be a model to ask, else what tells a newcomer what to do."""
        loader = frame.services.get("loader")
        has_model = bool(frame.models.by_name) or (loader is not None and bool(loader.states))
        return RedirectResponse(frame.url("/ui/chat" if has_model else "/ui/start"), 303)

    @router.get("/ui/login")
    async def show_login(request: Request) -> Response:
        return frame.render(request, "frame/login.html", scripts=("frame/login.js",))

    @router.post("/ui/login")
    async def log_in(request: Request) -> Response:
        """Open a session of the key that the request carries; the guard has compared it."""
        key = frame.policy.match_key(request.headers.get("authorization"), request.headers.get("x-api-key"))
        if key is None:
            raise ApiError(401, tr("wrong or missing API key"), code="invalid_api_key")
        response = Response(status_code=204)
        is_secure = request.url.scheme == "https"
        response.set_cookie(
            frame.session_cookie, frame.sessions.create(key), httponly=True, samesite="strict", secure=is_secure
        )
        return response

    @router.post("/ui/logout")
    async def log_out(request: Request) -> Response:
        """End the session, so that the key is asked for again."""
        frame.sessions.end(read_cookies(request.headers.get("cookie")).get(frame.session_cookie))
        response = Response(status_code=204)
        response.delete_cookie(frame.session_cookie, httponly=True, samesite="strict")
        return response

    return router


Handler = Callable[[Request, Exception], Awaitable[Response]]


def _answer_errors_of_page(frame: Frame, answer_other: Any) -> Handler:
    """Errors below `/ui` as a page for readers and JSON for scripts; other paths as before."""

    async def handle(request: Request, error: Exception) -> Response:
        if not is_page_path(request.scope["path"]):
            response: Response = await answer_other(request, error)
            return response
        with use_language(getattr(request.state, "language", frame.default_language)):
            return answer(request, error)

    def answer(request: Request, error: Exception) -> Response:
        response: Response
        if isinstance(error, HTTPException):
            what = tr("there is nothing at this address") if error.status_code == 404 else str(error.detail)
            error = ApiError(error.status_code, what)
        if isinstance(error, NotInsideError):
            error = ApiError(404, str(error), code="not_found")
        if isinstance(error, RequestValidationError):
            wrong = error.errors()[0]
            value = str(wrong.get("input"))[:40]
            what = tr("'{value}' is not a value of {name}", value=value, name=wrong["loc"][-1])
            error = ApiError(400, what)
        api_error = to_api_error(error)
        wants_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
        if wants_page and "hx-request" not in request.headers:
            values = {"message": api_error.message, "status": api_error.status}
            response = frame.render(request, "frame/error.html", values, status=api_error.status)
        else:
            response = make_refusal(api_error)
        add_security_headers(response.headers)
        return response

    return handle
