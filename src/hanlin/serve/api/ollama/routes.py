"""Routes of the Ollama API: chat, generate, embed, and what models there are. Models are never pulled or deleted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from hanlin.core.files import read_json
from hanlin.core.i18n import tr
from hanlin.core.version import __version__
from hanlin.serve.admission import Slot
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.embeddings import compute_embeddings
from hanlin.serve.api.http import make_disconnected_response, parse_request, respond
from hanlin.serve.api.ollama.schemas import (
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    LegacyEmbedRequest,
    ResponseFormatter,
    ShowRequest,
    format_time,
)
from hanlin.serve.api.streaming import NDJSON, StreamWriter, encode_ndjson
from hanlin.serve.api.tool_calls import get_tool_names
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, ModelRegistry, ServedModel
from hanlin.serve.service import GenerationService


def make_router(models: ModelRegistry, service: GenerationService) -> APIRouter:
    """The routes under `/api`."""
    router = APIRouter(prefix="/api")

    def make_writer(formatter: ResponseFormatter) -> StreamWriter:
        async def write(job: GenerationJob, slot: Slot) -> AsyncGenerator[bytes, None]:
            async with aclosing(service.stream(job, slot)) as batches:
                async for batch in batches:
                    lines: list[bytes] = []
                    for _, event in batch:
                        if isinstance(event, AnswerEnd):
                            lines += formatter.format_end(job, event)
                        else:
                            lines += formatter.format_text(event)
                    if lines:
                        yield b"".join(lines)

        return StreamWriter(write, NDJSON, lambda error: encode_ndjson(error.ollama_body()))

    @router.post("/chat", response_model=None)
    async def chat(request: Request) -> Response:
        body = await parse_request(service, ChatRequest, request, json_only=False)
        model = models.get(body.model)
        tools = body.get_tools()
        formatter = ResponseFormatter(body.model, is_chat=True, tool_names=get_tool_names(tools))
        if not body.messages:
            return JSONResponse(formatter.format_load())

        def prepare_job() -> GenerationJob:
            return model.make_job([model.render_chat(body.to_messages(), tools)], body.to_params(), "messages")

        writer = make_writer(formatter) if body.is_streamed else None
        return await respond(service, request, model.queue.reserve(), prepare_job, formatter.build_response, writer)

    @router.post("/generate", response_model=None)
    async def generate(request: Request) -> Response:
        body = await parse_request(service, GenerateRequest, request, json_only=False)
        model = models.get(body.model)
        formatter = ResponseFormatter(body.model, is_chat=False)
        if not body.prompt:
            return JSONResponse(formatter.format_load())

        def prepare_job() -> GenerationJob:
            text = body.prompt or ""
            prompt = model.encode_text(text) if body.raw else model.render_chat(body.to_messages())
            return model.make_job([prompt], body.to_params(), "prompt")

        writer = make_writer(formatter) if body.is_streamed else None
        return await respond(service, request, model.queue.reserve(), prepare_job, formatter.build_response, writer)

    @router.post("/embed", response_model=None)
    async def embed(request: Request) -> Response:
        body = await parse_request(service, EmbedRequest, request, json_only=False)
        model = models.get(body.model)
        start_ns = time.perf_counter_ns()
        texts = [body.input] if isinstance(body.input, str) else [*body.input]
        truncate = body.truncate is not False
        result = await compute_embeddings(service, request, model, texts, truncate=truncate, dimensions=body.dimensions)
        if result is None:
            return make_disconnected_response()
        embeddings, tokens = result
        durations = {"total_duration": time.perf_counter_ns() - start_ns, "load_duration": 0}
        return JSONResponse(
            {
                "model": body.model,
                "embeddings": embeddings.tolist(),
                **durations,
                "prompt_eval_count": tokens,
            }
        )

    @router.post("/embeddings", response_model=None)
    async def embed_legacy(request: Request) -> Response:
        body = await parse_request(service, LegacyEmbedRequest, request, json_only=False)
        model, truncate = models.get(body.model), body.truncate is not False
        result = await compute_embeddings(service, request, model, [body.prompt], "prompt", truncate, body.dimensions)
        if result is None:
            return make_disconnected_response()
        embeddings, _ = result
        return JSONResponse({"embedding": embeddings[0].tolist()})

    @router.get("/tags")
    async def list_models() -> dict[str, Any]:
        return {"models": [_describe(model) for model in models.by_name.values()]}

    @router.get("/ps")
    async def list_running() -> dict[str, Any]:
        loaded = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
        return {
            "models": [
                {**_describe(model), **loaded, "context_length": model.engine.context_length}
                for model in models.by_name.values()
            ]
        }

    @router.post("/show", response_model=None)
    async def show(request: Request) -> Response:
        body = await parse_request(service, ShowRequest, request, json_only=False)
        name = body.model or body.name
        if not name:
            raise ApiError(400, tr("model is missing"), param="model")
        return JSONResponse(_describe_in_full(models.get(name)))

    @router.get("/version")
    async def get_version() -> dict[str, str]:
        return {"version": __version__}

    return router


def _describe(model: ServedModel) -> dict[str, Any]:
    """An entry of `/api/tags`. `digest` is of the files' names, sizes and times: to read them all would take long."""
    weights = model.opened.location.weights
    files = sorted(file for file in weights.iterdir() if file.is_file()) if weights.is_dir() else [weights]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": format_time(max(mtime_ns for _, _, mtime_ns in stats) / 1e9),
        "size": sum(size for _, size, _ in stats),
        "digest": hashlib.sha256(repr(stats).encode()).hexdigest(),
        "details": _describe_format(model),
    }


def _describe_format(model: ServedModel) -> dict[str, Any]:
    location = model.opened.location
    file_format = "gguf" if location.kind == "gguf" else "safetensors"
    quantization = location.weights.stem.replace(".", "-").rsplit("-", 1)[-1] if file_format == "gguf" else ""
    return {
        "parent_model": "",
        "format": file_format,
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "",
        "quantization_level": quantization,
    }


def _describe_in_full(model: ServedModel) -> dict[str, Any]:
    """The response of `/api/show`."""
    source = model.template.source
    capabilities = ["completion", "embedding", *(["tools"] if "tools" in source else [])]
    config = read_json(model.opened.location.folder / "config.json")
    sizes = {"llama.embedding_length": config.get("hidden_size"), "llama.block_count": config.get("num_hidden_layers")}
    return {
        "modelfile": "",
        "parameters": "",
        "template": source,
        "details": _describe_format(model),
        "model_info": {
            "general.architecture": "llama",
            "llama.context_length": model.engine.context_length,
            "llama.vocab_size": len(model.tokenizer),
            **{name: value for name, value in sizes.items() if value is not None},
        },
        "capabilities": capabilities,
        "modified_at": _describe(model)["modified_at"],
    }
