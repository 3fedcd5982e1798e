"""A client of the page without a network: it sends the tokens that a browser reads from the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from hanlin.serve.app import create_app
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.registry import ModelRegistry, ServedModel
from hanlin.web.access import PAGE_TOKEN_HEADER, START_TOKEN_HEADER
from hanlin.web.app import add_page
from hanlin.web.frame import Frame

ADDRESS = "http://127.0.0.1:8080"


def make_app(
    folder: Path,
    models: Sequence[ServedModel] = (),
    policy: AccessPolicy | None = None,
    base_path: str = "",
    address: str = "",
    **services: Any,
) -> tuple[FastAPI, Frame]:
    """The application of `hanlin ui` and what its views get."""
    access, registry = policy or AccessPolicy(), ModelRegistry(models)
    app = create_app(registry, access, base_path=base_path)
    frame = Frame(folder, access, registry, base_path, services=services, address=address)
    add_page(app, frame)
    return app, frame


def make_client(
    folder: Path,
    models: Sequence[ServedModel] = (),
    policy: AccessPolicy | None = None,
    *,
    with_start_token: bool = True,
    **services: Any,
) -> TestClient:
    """A client with the page's token, and the start token unless it is to be without."""
    app, frame = make_app(folder, models, policy, **services)
    headers = {PAGE_TOKEN_HEADER: frame.page_token, "accept-language": "en"}
    if with_start_token:
        headers[START_TOKEN_HEADER] = frame.start_token
    return TestClient(app, base_url=ADDRESS, headers=headers, raise_server_exceptions=False, follow_redirects=False)
