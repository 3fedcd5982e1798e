"""The ASGI application."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.serve.admission import Limits
from hanlin.serve.api import plain
from hanlin.serve.api.ollama import routes
from hanlin.serve.api.openai import routes as openai_routes
from hanlin.serve.auth import Guard, Quota
from hanlin.serve.errors import ApiError, as_api_error
from hanlin.serve.metrics import CONTENT_TYPE, Metrics
from hanlin.serve.openapi import description
from hanlin.serve.registry import Models, Served
from hanlin.serve.service import Desk


def app(served: Sequence[Served] | Models, guard: Guard | None = None, limits: Limits | None = None) -> FastAPI:
    """The server of these models. Raises UserError when two have one name."""
    api = FastAPI(title="Hanlin", docs_url=None, redoc_url=None, openapi_url=None)
    keeper = guard or Guard()
    models = served if isinstance(served, Models) else Models(served)
    metrics = Metrics(models)
    desk = Desk(limits or Limits(), metrics, len(models.all))
    quotas = {key: Quota(limit) for key, limit in keeper.limits.items()}

    async def known_host(request: Request) -> None:
        if not keeper.knows_host(request.headers.get("host")):
            raise ApiError(403, say("this server answers to local names only", "此服务只响应本机名称"))

    async def admitted(request: Request) -> AsyncIterator[None]:
        shown = request.headers.get("authorization")
        if not keeper.admits(shown):
            raise ApiError(401, say("wrong or missing API key", "API 密钥缺失或错误"), code="invalid_api_key")
        quota = quotas.get(keeper.key_of(shown) or "")
        if quota is not None:
            quota.enter()
        try:
            yield  # until the response is whole
        finally:
            if quota is not None:
                quota.leave()

    inside = [Depends(known_host), Depends(admitted)]
    for room in (openai_routes, routes, plain):
        api.include_router(room.routes(models, desk), dependencies=inside)

    @api.get("/health", dependencies=[Depends(known_host)])
    async def health() -> Response:
        lost = [name for name, model in models.all.items() if not getattr(model.engine, "alive", True)]
        if lost:
            return JSONResponse({"status": "engine lost", "models": lost}, 503)
        return JSONResponse({"status": "ok"})

    @api.get("/metrics", dependencies=inside)
    async def key_settings() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @api.get("/openapi.json", dependencies=inside)
    async def openapi() -> dict[str, Any]:
        return description()

    _answer_errors_in_form(api)
    api.add_middleware(_Counting, metrics=metrics)
    return api


def _answer_errors_in_form(api: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, str(error.detail))
        told = as_api_error(error)
        headers = {"WWW-Authenticate": "Bearer"} if told.status == 401 else {}
        if told.retry_after is not None:
            headers["Retry-After"] = str(told.retry_after)
        body = told.ollama_body() if request.url.path.startswith("/api/") else told.openai_body()
        return JSONResponse(body, told.status, headers)

    for kind in (ApiError, UserError, HTTPException, Exception):
        api.add_exception_handler(kind, answer)


class _Counting:
    """Counts each request by its route and status once it has ended; an address that is no route is `other`."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.monotonic()
        status = 500

        async def watched(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(route, status, time.monotonic() - begun)
