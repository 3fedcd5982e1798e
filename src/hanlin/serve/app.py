"""The ASGI application: routes of all APIs, access control, errors in each API's form, request metrics."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.serve.admission import Limits
from hanlin.serve.api import plain
from hanlin.serve.api.anthropic import routes as anthropic_routes
from hanlin.serve.api.ollama import routes as ollama_routes
from hanlin.serve.api.openai import routes as openai_routes
from hanlin.serve.auth import AccessPolicy, RateLimiter
from hanlin.serve.errors import ApiError, to_api_error
from hanlin.serve.metrics import CONTENT_TYPE, Metrics
from hanlin.serve.openapi import build_openapi
from hanlin.serve.registry import ModelRegistry, ServedModel
from hanlin.serve.service import GenerationService


def create_app(
    served: Sequence[ServedModel] | ModelRegistry, policy: AccessPolicy | None = None, limits: Limits | None = None
) -> FastAPI:
    """The application that serves some models.

    Args:
        served: The models, or a registry of them.
        policy: Who may use it; None: everybody on this machine.
        limits: Slots, queue and sizes; None: the defaults.

    Raises:
        UserError: two models have one name.
    """
    app = FastAPI(title="Hanlin", docs_url=None, redoc_url=None, openapi_url=None)
    access = policy or AccessPolicy()
    models = served if isinstance(served, ModelRegistry) else ModelRegistry(served)
    metrics = Metrics(models)
    service = GenerationService(limits or Limits(), metrics, len(models.by_name))
    rate_limiters = {key: RateLimiter(limit) for key, limit in access.key_limits.items()}

    async def check_host(request: Request) -> None:
        if not access.allows_host(request.headers.get("host")):
            raise ApiError(403, tr("this server answers to local names only"))

    async def check_key(request: Request) -> AsyncIterator[None]:
        header = request.headers.get("authorization")
        if (sent := request.headers.get("x-api-key")) and access.match_key(header) is None:
            header = f"Bearer {sent}"  # as Anthropic's clients send it
        if not access.allows_key(header):
            raise ApiError(401, tr("wrong or missing API key"), code="invalid_api_key")
        limiter = rate_limiters.get(access.match_key(header) or "")
        if limiter is not None:
            limiter.acquire()
        try:
            yield  # until the whole response is sent
        finally:
            if limiter is not None:
                limiter.release()

    protected = [Depends(check_host), Depends(check_key)]
    for api in (openai_routes, anthropic_routes, ollama_routes, plain):
        app.include_router(api.make_router(models, service), dependencies=protected)

    @app.get("/health", dependencies=[Depends(check_host)])
    async def get_health() -> Response:
        lost = [name for name, model in models.by_name.items() if not getattr(model.engine, "alive", True)]
        if lost:
            return JSONResponse({"status": "engine lost", "models": lost}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", dependencies=protected)
    async def get_metrics() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/openapi.json", dependencies=protected)
    async def get_openapi() -> dict[str, Any]:
        return build_openapi()

    _add_error_handlers(app)
    app.add_middleware(_RequestMetrics, metrics=metrics)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    """Every error is answered in the form of the API that was called."""

    async def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, str(error.detail))
        api_error = to_api_error(error)
        headers = {"WWW-Authenticate": "Bearer"} if api_error.status == 401 else {}
        if api_error.retry_after is not None:
            headers["Retry-After"] = str(api_error.retry_after)
        return JSONResponse(_make_error_body(request.url.path, api_error), api_error.status, headers)

    for error_class in (ApiError, UserError, HTTPException, Exception):
        app.add_exception_handler(error_class, handle)


def _make_error_body(path: str, error: ApiError) -> dict[str, Any]:
    if path.startswith("/api/"):
        return error.ollama_body()
    return error.anthropic_body() if path.startswith("/v1/messages") else error.openai_body()


class _RequestMetrics:
    """Middleware that counts each request by route and status once it has ended; an unknown path is `other`."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_time = time.monotonic()
        status = 500

        async def send_and_note_status(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.count_request(route, status, time.monotonic() - start_time)
