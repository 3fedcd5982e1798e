"""OpenAI's API: chat completions, completions, embeddings and the list of models.

Does not own the format (`openai_format`, `openai_answers`), the answers (`answers`) or who may come in (`security`).
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from hanlin.serve.admission import Ticket
from hanlin.serve.api.embeddings import embedded, ids
from hanlin.serve.api.http import Streaming, client_left, read, respond
from hanlin.serve.api.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from hanlin.serve.api.openai.responses import ChatForm, TextForm, event
from hanlin.serve.api.tool_calls import names_of
from hanlin.serve.registry import GenerationJob, Models, Served
from hanlin.serve.service import Desk

_EVENTS = "text/event-stream"


def routes(models: Models, desk: Desk) -> APIRouter:
    """The routes under `/v1`."""
    v1 = APIRouter(prefix="/v1")

    def streaming(form: ChatForm | TextForm, with_usage: bool) -> Streaming:
        async def pieces(job: GenerationJob, ticket: Ticket) -> AsyncGenerator[bytes, None]:
            if opening := form.opening():
                yield b"".join(opening)
            async with aclosing(desk.pieces(job, ticket)) as all_told:
                async for batch in all_told:
                    if sent := [event for place, told in batch for event in form.pieces(place, told)]:
                        yield b"".join(sent)
            yield b"".join(form.closing(job, with_usage))

        return Streaming(pieces, _EVENTS, lambda error: event(error.openai_body()))

    @v1.post("/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        asked = await read(desk, ChatRequest, request)
        served = models.named(asked.model)
        names = names_of(asked.offered)
        form = ChatForm(served.name, names, served.tokenizer, asked.with_logprobs, asked.choices)

        def prepare() -> GenerationJob:
            prompt = served.chat_prompt(asked.turns(), asked.offered)
            return served.job([prompt], asked.wanted(), "messages")

        ticket = served.door.book(asked.choices)
        stream = streaming(form, asked.with_usage) if asked.stream else None
        return await respond(desk, request, ticket, prepare, form.whole, stream)

    @v1.post("/completions", response_model=None)
    async def completions(request: Request) -> Response:
        asked = await read(desk, CompletionRequest, request)
        served = models.named(asked.model)
        prompts = asked.prompts
        echoes = [_shown(served, prompt) if asked.echo else "" for prompt in prompts for _ in range(asked.choices)]
        form = TextForm(served.name, served.tokenizer, asked.with_logprobs, echoes)

        def prepare() -> GenerationJob:
            return served.job([ids(served, prompt) for prompt in prompts], asked.wanted(), "prompt")

        ticket = served.door.book(len(echoes))
        stream = streaming(form, asked.with_usage) if asked.stream else None
        return await respond(desk, request, ticket, prepare, form.whole, stream)

    @v1.post("/embeddings", response_model=None)
    async def embeddings(request: Request) -> Response:
        asked = await read(desk, EmbeddingRequest, request)
        served = models.named(asked.model)
        found = await embedded(desk, request, served, asked.prompts)
        if found is None:
            return client_left()
        rows, tokens = found
        data = [
            {"object": "embedding", "index": place, "embedding": _row(row, asked.encoding_format)}
            for place, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": served.name, "usage": usage})

    @v1.get("/models")
    async def list_of_models() -> dict[str, Any]:
        return {"object": "list", "data": [_card(served) for served in models.all.values()]}

    @v1.get("/models/{model:path}")
    async def one_model(model: str) -> dict[str, Any]:
        return _card(models.named(model))

    return v1


def _shown(served: Served, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else served.tokenizer.decode(prompt)


def _row(row: np.ndarray, form: str | None) -> Any:
    if form == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in row]


def _card(served: Served) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": served.since, "owned_by": "hanlin"}
