"""The OpenAPI description of a server: every route with the body it takes and the statuses it may answer with.

The bodies are the request models themselves, so that the description cannot differ from what is checked.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hanlin.core.version import __version__
from hanlin.serve.api import plain
from hanlin.serve.api.ollama import schemas
from hanlin.serve.api.openai import requests

_POSTS: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (requests.ChatRequest, "text/event-stream"),
    "/v1/completions": (requests.CompletionRequest, "text/event-stream"),
    "/v1/embeddings": (requests.EmbeddingRequest, ""),
    "/api/chat": (schemas.ChatRequest, "application/x-ndjson"),
    "/api/generate": (schemas.GenerateRequest, "application/x-ndjson"),
    "/api/embed": (schemas.EmbedRequest, ""),
    "/api/embeddings": (schemas.OldEmbedRequest, ""),
    "/api/show": (schemas.ShowRequest, ""),
    "/generate": (plain.GenerateRequest, "application/octet-stream"),
}
_GETS = ("/v1/models", "/v1/models/{model}", "/api/tags", "/api/ps", "/api/version", "/health", "/metrics")
_REFUSALS = {
    "400": "a wrong field, which is named",
    "401": "no key or a wrong one",
    "403": "a Host that this server does not answer to",
    "404": "no such model or address",
    "413": "a body that is too large",
    "415": "a body that is not JSON by its own word",
    "429": "too many wait: come again after Retry-After seconds",
    "500": "a fault of the server",
    "503": "the deadline passed in the queue",
    "504": "the deadline passed",
}


def description() -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    kinds = list(dict.fromkeys(kind for kind, _ in _POSTS.values()))
    keys, shared = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for path, (kind, streamed) in _POSTS.items():
        body = {"required": True, "content": {"application/json": {"schema": keys[kind, "validation"]}}}
        answers: dict[str, Any] = {"application/json": {}, **({streamed: {}} if streamed else {})}
        paths[path] = {"post": {"requestBody": body, "responses": _responses(answers)}}
    for path in _GETS:
        kind_of_text = "text/plain" if path == "/metrics" else "application/json"
        paths[path] = {"get": {"responses": _responses({kind_of_text: {}})}}
    named = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    paths["/v1/models/{model}"]["get"]["parameters"] = [named]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hanlin", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": shared["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _responses(answers: dict[str, Any]) -> dict[str, Any]:
    told = {status: {"description": text, "content": {"application/json": {}}} for status, text in _REFUSALS.items()}
    return {"200": {"description": "the answer", "content": answers}, **told}
