"""Ollama's API over the models of the server: chat, generate, embed, and what there is.

Does not own the format (`ollama_format`) or the answers (`answers`). Models are never pulled, made or deleted here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from hanlin.core.files import read_json
from hanlin.core.i18n import say
from hanlin.core.version import __version__
from hanlin.serve.admission import Ticket
from hanlin.serve.api.embeddings import embedded
from hanlin.serve.api.http import Streaming, client_left, read, respond
from hanlin.serve.api.ollama.schemas import (
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    Lines,
    OldEmbedRequest,
    ShowRequest,
    line,
    moment,
)
from hanlin.serve.api.tool_calls import names_of
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, Models, Served
from hanlin.serve.service import Desk, End

_NDJSON = "application/x-ndjson"


def routes(models: Models, desk: Desk) -> APIRouter:
    """The routes under `/api`."""
    api = APIRouter(prefix="/api")

    def streaming(lines: Lines) -> Streaming:
        async def pieces(job: GenerationJob, ticket: Ticket) -> AsyncGenerator[bytes, None]:
            async with aclosing(desk.pieces(job, ticket)) as all_told:
                async for batch in all_told:
                    sent: list[bytes] = []
                    for _, told in batch:
                        sent += lines.end(job, told) if isinstance(told, End) else lines.piece(told)
                    if sent:
                        yield b"".join(sent)

        return Streaming(pieces, _NDJSON, lambda error: line(error.ollama_body()))

    @api.post("/chat", response_model=None)
    async def chat(request: Request) -> Response:
        asked = await read(desk, ChatRequest, request, json_only=False)
        served = models.named(asked.model)
        lines = Lines(asked.model, True, names_of(asked.offered))
        if not asked.messages:
            return JSONResponse(lines.loaded())

        def prepare() -> GenerationJob:
            return served.job([served.chat_prompt(asked.turns(), asked.offered)], asked.wanted(), "messages")

        stream = streaming(lines) if asked.streamed else None
        return await respond(desk, request, served.door.book(), prepare, lines.whole, stream)

    @api.post("/generate", response_model=None)
    async def generate(request: Request) -> Response:
        asked = await read(desk, GenerateRequest, request, json_only=False)
        served = models.named(asked.model)
        lines = Lines(asked.model, False)
        if not asked.prompt:
            return JSONResponse(lines.loaded())

        def prepare() -> GenerationJob:
            text = asked.prompt or ""
            prompt = served.text_prompt(text) if asked.raw else served.chat_prompt(asked.turns())
            return served.job([prompt], asked.wanted(), "prompt")

        stream = streaming(lines) if asked.streamed else None
        return await respond(desk, request, served.door.book(), prepare, lines.whole, stream)

    @api.post("/embed", response_model=None)
    async def embed(request: Request) -> Response:
        asked = await read(desk, EmbedRequest, request, json_only=False)
        served = models.named(asked.model)
        begun = time.perf_counter_ns()
        found = await embedded(desk, request, served, [asked.input] if isinstance(asked.input, str) else [*asked.input])
        if found is None:
            return client_left()
        rows, tokens = found
        spent = {"total_duration": time.perf_counter_ns() - begun, "load_duration": 0, "prompt_eval_count": tokens}
        return JSONResponse({"model": asked.model, "embeddings": rows.tolist(), **spent})

    @api.post("/embeddings", response_model=None)
    async def old_embed(request: Request) -> Response:
        asked = await read(desk, OldEmbedRequest, request, json_only=False)
        found = await embedded(desk, request, models.named(asked.model), [asked.prompt], "prompt")
        return client_left() if found is None else JSONResponse({"embedding": found[0][0].tolist()})

    @api.get("/tags")
    async def tags() -> dict[str, Any]:
        return {"models": [_entry(served) for served in models.all.values()]}

    @api.get("/ps")
    async def running() -> dict[str, Any]:
        stays = {"expires_at": "9999-12-31T23:59:59Z", "size_vram": 0}
        return {
            "models": [
                {**_entry(served), **stays, "context_length": served.engine.context_length}
                for served in models.all.values()
            ]
        }

    @api.post("/show", response_model=None)
    async def show(request: Request) -> Response:
        asked = await read(desk, ShowRequest, request, json_only=False)
        name = asked.model or asked.name
        if not name:
            raise ApiError(400, say("model: say which", "model：请指明模型"), param="model")
        return JSONResponse(_described(models.named(name)))

    @api.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    return api


def _entry(served: Served) -> dict[str, Any]:
    """A model in a list. `digest` is of the names, sizes and times of its files: reading them all would take long."""
    weights = served.opened.location.weights
    files = sorted(file for file in weights.iterdir() if file.is_file()) if weights.is_dir() else [weights]
    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {
        "name": served.name,
        "model": served.name,
        "modified_at": moment(max(changed for _, _, changed in told) / 1e9),
        "size": sum(size for _, size, _ in told),
        "digest": hashlib.sha256(repr(told).encode()).hexdigest(),
        "details": _details(served),
    }


def _details(served: Served) -> dict[str, Any]:
    found = served.opened.location
    kind = "gguf" if found.kind == "gguf" else "safetensors"
    quantized = found.weights.stem.replace(".", "-").rsplit("-", 1)[-1] if kind == "gguf" else ""
    return {
        "parent_model": "",
        "format": kind,
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "",
        "quantization_level": quantized,
    }


def _described(served: Served) -> dict[str, Any]:
    source = served.template.source
    capabilities = ["completion", "embedding", *(["tools"] if "tools" in source else [])]
    config = read_json(served.opened.location.folder / "config.json")
    known = {"llama.embedding_length": config.get("hidden_size"), "llama.block_count": config.get("num_hidden_layers")}
    return {
        "modelfile": "",
        "parameters": "",
        "template": source,
        "details": _details(served),
        "model_info": {
            "general.architecture": "llama",
            "llama.context_length": served.engine.context_length,
            "llama.vocab_size": len(served.tokenizer),
            **{name: value for name, value in known.items() if value is not None},
        },
        "capabilities": capabilities,
        "modified_at": _entry(served)["modified_at"],
    }
