"""The OpenAPI description against the server that it describes, with requests made from it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from live_server import Live, live

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.openapi import build_openapi
from hanlin.serve.registry import ServedModel

schemathesis = pytest.importorskip("schemathesis")
SCHEMA = schemathesis.openapi.from_dict(build_openapi())


def test_every_route_is_described(opened: LoadedEngine) -> None:
    from fastapi.routing import APIRoute

    api = create_app([ServedModel("tiny", opened, Limits())])
    served = {route.path.replace("{model:path}", "{model}") for route in all_routes(api) if isinstance(route, APIRoute)}
    assert served - {"/openapi.json"} == set(build_openapi()["paths"])


def all_routes(api: object) -> list:
    found = []
    for route in getattr(api, "routes", []):
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        found += all_routes(inner) if inner is not None else [route]
    return found


@pytest.fixture(scope="module")
def described(opened: LoadedEngine) -> Iterator[Live]:
    with live(opened, limits=Limits(max_output_tokens=2)) as server:
        yield server


@SCHEMA.parametrize()
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_answered_as_described(case: object, described: Live) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

    body = getattr(case, "body", None)
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = "tiny"  # else nearly every request would only learn that there is no such model
    checks = [not_a_server_error, status_code_conformance, content_type_conformance]
    case.call_and_validate(base_url=described.address, checks=checks, timeout=120)  # type: ignore[attr-defined]
