"""Routes of the Ollama API: chat, generate, embed, and what models there are. Models are never pulled or deleted."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from hanlin.core.i18n import tr
from hanlin.core.version import __version__
from hanlin.serve.admission import Slot
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.embeddings import compute_embeddings
from hanlin.serve.api.fill_in import encode_fill_in
from hanlin.serve.api.http import make_disconnected_response, make_json_response, parse_request, respond
from hanlin.serve.api.ollama.model_info import describe_in_full, describe_model, describe_running
from hanlin.serve.api.ollama.responses import ResponseFormatter
from hanlin.serve.api.ollama.schemas import (
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    LegacyEmbedRequest,
    ShowRequest,
)
from hanlin.serve.api.streaming import NDJSON, StreamWriter, encode_ndjson
from hanlin.serve.api.thinking import choose_thinking, wants_thinking
from hanlin.serve.api.tool_calls import get_tool_names
from hanlin.serve.api.truncation import encode_truncated, render_fitting
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, ModelRegistry
from hanlin.serve.service import GenerationService

OLLAMA_VERSION = "0.30.0"
"""The version of Ollama whose API this is: clients compare it with the first one that has what they need."""
_PROBED = ("GET", "HEAD")
"""Methods with which clients ask whether a server is there."""


def make_router(models: ModelRegistry, service: GenerationService) -> APIRouter:
    """The routes under `/api`, and `/`, by which clients ask whether there is an Ollama."""
    router = APIRouter()

    def make_writer(formatter: ResponseFormatter) -> StreamWriter:
        async def write(job: GenerationJob, slot: Slot) -> AsyncGenerator[bytes, None]:
            async with aclosing(service.stream(job, slot)) as batches:
                async for batch in batches:
                    lines: list[bytes] = []
                    for _, event in batch:
                        if isinstance(event, AnswerEnd):
                            lines += formatter.format_end(job, event)
                        else:
                            lines += formatter.format_text(job, event)
                    if lines:
                        yield b"".join(lines)

        return StreamWriter(
            write, NDJSON, lambda error: encode_ndjson(error.ollama_body()), formatter.encode_keep_alive
        )

    @router.post("/api/chat", response_model=None)
    async def chat(request: Request) -> Response:
        body = await parse_request(service, ChatRequest, request, json_only=False)
        model = models.get(body.model)
        tools = body.get_tools()
        formatter = ResponseFormatter(body.model, is_chat=True, tool_names=get_tool_names(tools))
        if not body.messages:
            return JSONResponse(formatter.format_load(body.unloads))

        def prepare_job() -> GenerationJob:
            params = body.to_params()
            thinking = choose_thinking(model, wants_thinking(body.think), "think", params.response_format)
            messages = body.to_messages()
            if body.truncate is False:
                return model.make_job([model.render_chat(messages, tools, thinking)], params, "messages")
            prompt = render_fitting(model, messages, tools, thinking, body.max_new_tokens)
            return model.make_job([prompt], params, "messages")

        writer = make_writer(formatter) if body.is_streamed else None
        return await respond(service, request, model.queue.reserve(), prepare_job, formatter.build_response, writer)

    @router.post("/api/generate", response_model=None)
    async def generate(request: Request) -> Response:
        body = await parse_request(service, GenerateRequest, request, json_only=False)
        model = models.get(body.model)
        formatter = ResponseFormatter(body.model, is_chat=False, is_raw=body.continues_text)
        if not body.prompt and not body.suffix:
            return JSONResponse(formatter.format_load(body.unloads))

        def prepare_job() -> GenerationJob:
            params, text = body.to_params(), body.prompt or ""
            thinking = None
            if not body.continues_text:
                thinking = choose_thinking(model, wants_thinking(body.think), "think", params.response_format)

            def encode(text: str) -> tuple[int, ...]:
                if body.suffix:
                    return encode_fill_in(model, text, body.suffix)
                return model.encode_text(text) if body.raw else model.render_chat(body.to_messages(text), (), thinking)

            if body.truncate is False:
                prompt = encode(text)
            else:
                prompt = encode_truncated(model, text, encode, body.max_new_tokens)
            return model.make_job([prompt], params, "prompt")

        writer = make_writer(formatter) if body.is_streamed else None
        return await respond(service, request, model.queue.reserve(), prepare_job, formatter.build_response, writer)

    @router.post("/api/embed", response_model=None)
    async def embed(request: Request) -> Response:
        body = await parse_request(service, EmbedRequest, request, json_only=False)
        model = models.get(body.model)
        start_ns = time.perf_counter_ns()
        durations = {"total_duration": 0, "load_duration": 0}
        if not body.input:  # as a chat without messages: whether the model is loaded
            return JSONResponse({"model": body.model, "embeddings": [], **durations, "prompt_eval_count": 0})
        texts = [body.input] if isinstance(body.input, str) else [*body.input]
        truncate = body.truncate is not False
        result = await compute_embeddings(service, request, model, texts, truncate=truncate, dimensions=body.dimensions)
        if result is None:
            return make_disconnected_response()
        embeddings, tokens = result
        durations["total_duration"] = time.perf_counter_ns() - start_ns
        content = {"model": body.model, "embeddings": [*embeddings], **durations, "prompt_eval_count": tokens}
        return await make_json_response(service, lambda: content)

    @router.post("/api/embeddings", response_model=None)
    async def embed_legacy(request: Request) -> Response:
        body = await parse_request(service, LegacyEmbedRequest, request, json_only=False)
        model, truncate = models.get(body.model), body.truncate is not False
        if not body.prompt:
            return JSONResponse({"embedding": []})
        result = await compute_embeddings(service, request, model, [body.prompt], "prompt", truncate, body.dimensions)
        if result is None:
            return make_disconnected_response()
        embeddings, _ = result
        return JSONResponse({"embedding": embeddings[0].tolist()})

    @router.api_route("/api/tags", methods=[*_PROBED])
    async def list_models() -> dict[str, Any]:
        return {"models": [describe_model(model) for model in models.by_name.values()]}

    @router.get("/api/ps")
    async def list_running() -> dict[str, Any]:
        return {"models": [describe_running(model) for model in models.by_name.values()]}

    @router.post("/api/show", response_model=None)
    async def show(request: Request) -> Response:
        body = await parse_request(service, ShowRequest, request, json_only=False)
        name = body.model or body.name
        if not name:
            raise ApiError(400, tr("model is missing"), param="model")
        return JSONResponse(describe_in_full(models.get(name)))

    @router.api_route("/api/version", methods=[*_PROBED])
    async def get_version() -> dict[str, str]:
        return {"version": OLLAMA_VERSION, "hanlin": __version__}

    @router.api_route("/", methods=[*_PROBED])
    async def get_root() -> Response:
        return PlainTextResponse("Ollama is running")

    return router
