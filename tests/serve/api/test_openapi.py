"""The OpenAPI description against the server that it describes, with requests made from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.openapi import build_openapi
from hanlin.serve.registry import ServedModel
from live_server import LiveServer, run_server

schemathesis = pytest.importorskip("schemathesis")
SCHEMA = schemathesis.openapi.from_dict(build_openapi())


def test_every_route_is_described(opened: LoadedEngine) -> None:
    from fastapi.routing import APIRoute

    app = create_app([ServedModel("tiny", opened, Limits())])
    served = {route.path.replace("{model:path}", "{model}") for route in all_routes(app) if isinstance(route, APIRoute)}
    assert served - {"/openapi.json"} == set(build_openapi()["paths"])


def all_routes(app: object) -> list:
    routes = []
    for route in getattr(app, "routes", []):
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        routes += all_routes(inner) if inner is not None else [route]
    return routes


@pytest.fixture(scope="module")
def described(opened: LoadedEngine) -> Iterator[LiveServer]:
    with run_server(opened, limits=Limits(max_output_tokens=2)) as server:
        yield server


MAIN_PATHS = ["/v1/chat/completions", "/v1/messages", "/api/chat", "/generate"]
"""One of each interface; all others are slow to draw requests for."""


@SCHEMA.include(path=MAIN_PATHS).parametrize()
@settings(max_examples=1, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_answered_as_described(case: object, described: LiveServer) -> None:
    check_answer(case, described)


@pytest.mark.slow
@SCHEMA.exclude(path=MAIN_PATHS).parametrize()
@settings(max_examples=2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_to_the_other_routes_is_answered_as_described(case: object, described: LiveServer) -> None:
    check_answer(case, described)


def check_answer(case: object, described: LiveServer) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

    body = getattr(case, "body", None)
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "tiny"  # else nearly every request would only get a 404
    checks = [not_a_server_error, status_code_conformance, content_type_conformance]
    case.call_and_validate(base_url=described.address, checks=checks, timeout=120)  # type: ignore[attr-defined]
