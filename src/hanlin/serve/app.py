"""The ASGI application: routes of all APIs, access control, errors in each API's form, request metrics."""

from __future__ import annotations

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
from hanlin.serve.api.responses import routes as responses_routes
from hanlin.serve.auth import AccessPolicy, RateLimiter
from hanlin.serve.errors import ApiError, to_api_error
from hanlin.serve.metrics import CONTENT_TYPE, Metrics
from hanlin.serve.middleware import (
    BasePathMiddleware,
    CorsMiddleware,
    RequestMetricsMiddleware,
    make_host_error,
)
from hanlin.serve.openapi import build_openapi
from hanlin.serve.registry import ModelRegistry, ServedModel
from hanlin.serve.service import GenerationService


class _Application(FastAPI):
    """The application within its outer layers, which are around internal errors too: pages can read those."""

    def __init__(self, policy: AccessPolicy, base_path: str) -> None:
        super().__init__(title="Hanlin", docs_url=None, redoc_url=None, openapi_url=None)
        self._policy, self._base_path = policy, base_path

    def build_middleware_stack(self) -> Any:
        return CorsMiddleware(BasePathMiddleware(super().build_middleware_stack(), self._base_path), self._policy)


def create_app(
    served: Sequence[ServedModel] | ModelRegistry,
    policy: AccessPolicy | None = None,
    limits: Limits | None = None,
    base_path: str = "",
    expected_models: int = 0,
) -> FastAPI:
    """The application that serves some models.

    Args:
        served: The models, or a registry of them.
        policy: Who may use it; None: everybody on this machine.
        limits: Slots, queue and sizes; None: the defaults.
        base_path: Path in front of every route behind a reverse proxy, as `parse_base_path` gives it.
        expected_models: How many models there may be once those are loaded that join the registry later.

    Raises:
        UserError: two models have one name.
    """
    access = policy or AccessPolicy()
    app = _Application(access, base_path)
    models = served if isinstance(served, ModelRegistry) else ModelRegistry(served)
    metrics = Metrics(models)
    service = GenerationService(limits or Limits(), metrics, max(len(models.by_name), expected_models))
    app.state.end_processes = service.body_process.close
    rate_limiters = {key: RateLimiter(limit) for key, limit in access.key_limits.items()}

    async def check_host(request: Request) -> None:
        host = request.headers.get("host")
        if not access.allows_host(host):
            raise make_host_error(host)

    async def check_key(request: Request) -> AsyncIterator[None]:
        headers = request.headers.get("authorization"), request.headers.get("x-api-key")
        if not access.allows_key(*headers):
            raise ApiError(401, tr("wrong or missing API key"), code="invalid_api_key")
        request.state.api_key = access.match_key(*headers) or ""
        limiter = rate_limiters.get(request.state.api_key)
        if limiter is not None:
            limiter.acquire()
        try:
            yield  # until the whole response is sent
        finally:
            if limiter is not None:
                limiter.release()

    protected = [Depends(check_host), Depends(check_key)]
    for api in (openai_routes, responses_routes, anthropic_routes, ollama_routes, plain):
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
        return build_openapi(base_path)

    _add_error_handlers(app)
    app.add_middleware(RequestMetricsMiddleware, metrics=metrics)
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
