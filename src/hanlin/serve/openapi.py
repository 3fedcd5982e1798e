"""The OpenAPI description of the server: each route with its request body and the statuses it may answer with.

The bodies are the request models themselves, so the description cannot differ from what is validated.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hanlin.core.version import __version__
from hanlin.serve.api import plain
from hanlin.serve.api.anthropic.requests import CountTokensRequest, MessagesRequest
from hanlin.serve.api.ollama import schemas
from hanlin.serve.api.openai import requests
from hanlin.serve.api.responses import schemas as responses
from hanlin.serve.api.streaming import NDJSON, SSE, ZERO_SEPARATED_JSON

_POST_ROUTES: dict[str, tuple[type[BaseModel], str]] = {
    "/v1/chat/completions": (requests.ChatRequest, SSE),
    "/v1/completions": (requests.CompletionRequest, SSE),
    "/v1/embeddings": (requests.EmbeddingRequest, ""),
    "/v1/responses": (responses.ResponseRequest, SSE),
    "/v1/responses/input_tokens": (responses.PromptBody, ""),
    "/v1/messages": (MessagesRequest, SSE),
    "/v1/messages/count_tokens": (CountTokensRequest, ""),
    "/api/chat": (schemas.ChatRequest, NDJSON),
    "/api/generate": (schemas.GenerateRequest, NDJSON),
    "/api/embed": (schemas.EmbedRequest, ""),
    "/api/embeddings": (schemas.LegacyEmbedRequest, ""),
    "/api/show": (schemas.ShowRequest, ""),
    "/generate": (plain.GenerateRequest, ZERO_SEPARATED_JSON),
}
"""Path to the request body and the media type of a streamed answer ('' if the route never streams)."""
_GET_ROUTES = ("/", "/v1/models", "/v1/models/{model}", "/api/tags", "/api/ps", "/api/version", "/health", "/metrics")
_STORED_RESPONSE_ROUTES = {
    "/v1/responses/{response_id}": ("get", "delete"),
    "/v1/responses/{response_id}/input_items": ("get",),
}
_ERROR_STATUSES = {
    "400": "a wrong field, which is named",
    "401": "API key missing or wrong",
    "403": "a Host that this server does not answer to",
    "404": "no such model or path",
    "413": "the body is too large",
    "415": "the body is not declared as JSON",
    "429": "the queue is full: try again after Retry-After seconds",
    "500": "internal server error",
    "503": "the deadline passed in the queue, or the engine is being restarted",
    "504": "the deadline passed while the answer was generated",
}


def build_openapi(base_path: str = "") -> dict[str, Any]:
    """The OpenAPI 3.1 document, as JSON data, for a server below `base_path`."""
    bodies = list(dict.fromkeys(body for body, _ in _POST_ROUTES.values()))
    references, shared = models_json_schema(
        [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for path, (body, stream_type) in _POST_ROUTES.items():
        request_body = {"required": True, "content": {"application/json": {"schema": references[body, "validation"]}}}
        content: dict[str, Any] = {"application/json": {}, **({stream_type: {}} if stream_type else {})}
        paths[path] = {"post": {"requestBody": request_body, "responses": _make_responses(content)}}
    for path in _GET_ROUTES:
        media_type = "text/plain" if path in ("/", "/metrics") else "application/json"
        paths[path] = {"get": {"responses": _make_responses({media_type: {}})}}
    paths["/v1/models/{model}"]["get"]["parameters"] = [_make_path_parameter("model")]
    for path, methods in _STORED_RESPONSE_ROUTES.items():
        responses_of_route = _make_responses({"application/json": {}})
        paths[path] = {
            method: {"parameters": [_make_path_parameter("response_id")], "responses": responses_of_route}
            for method in methods
        }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hanlin", "version": __version__},
        "servers": [{"url": base_path or "/"}],
        "paths": paths,
        "components": {
            "schemas": shared["$defs"],
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "x_api_key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"key": []}, {"x_api_key": []}],
    }


def _make_path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _make_responses(content: dict[str, Any]) -> dict[str, Any]:
    errors = {
        status: {"description": text, "content": {"application/json": {}}} for status, text in _ERROR_STATUSES.items()
    }
    return {"200": {"description": "the answer", "content": content}, **errors}
