"""Routes of the OpenAI API: chat completions, completions, embeddings, models."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from hanlin.serve.admission import Slot
from hanlin.serve.api.embeddings import compute_embeddings, encode_prompt
from hanlin.serve.api.fill_in import encode_fill_in
from hanlin.serve.api.http import make_disconnected_response, make_json_response, parse_request, respond
from hanlin.serve.api.openai.prompt_scores import respond_with_scores, to_texts
from hanlin.serve.api.openai.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from hanlin.serve.api.openai.responses import ChatFormatter, CompletionFormatter
from hanlin.serve.api.streaming import QUEUE_HEADER, SSE, StreamWriter, encode_sse, write_places
from hanlin.serve.api.thinking import choose_thinking
from hanlin.serve.api.tool_calls import get_tool_names
from hanlin.serve.registry import GenerationJob, ModelRegistry, ServedModel
from hanlin.serve.service import GenerationService


def make_router(models: ModelRegistry, service: GenerationService) -> APIRouter:
    """The routes under `/v1`."""
    router = APIRouter(prefix="/v1")

    def make_writer(
        formatter: ChatFormatter | CompletionFormatter, with_usage: bool, tells_place: bool = False
    ) -> StreamWriter:
        async def write(job: GenerationJob, slot: Slot) -> AsyncGenerator[bytes, None]:
            if tells_place:
                async for comment in write_places(slot):
                    yield comment
            if first := formatter.open_stream(job):
                yield b"".join(first)
            async with aclosing(service.stream(job, slot)) as batches:
                async for batch in batches:
                    if lines := [line for index, event in batch for line in formatter.format_event(index, event)]:
                        yield b"".join(lines)
            yield b"".join(formatter.close_stream(job, with_usage))

        return StreamWriter(write, SSE, lambda error: encode_sse(error.openai_body()))

    @router.post("/chat/completions", response_model=None)
    async def create_chat_completion(request: Request) -> Response:
        body = await parse_request(service, ChatRequest, request)
        model = models.get(body.model)
        tools = body.get_tools()
        formatter = ChatFormatter(
            model.name,
            get_tool_names(tools),
            model.tokenizer,
            body.with_logprobs,
            body.choices,
            body.max_calls,
            body.shows_reasoning,
        )

        def prepare_job() -> GenerationJob:
            params = body.to_params()
            thinking = choose_thinking(model, *body.requested_thinking, params.response_format)
            prompt = model.render_chat(body.to_messages(), tools, thinking)
            return model.make_job([prompt], params, "messages")

        slot = model.queue.reserve(body.choices)
        tells_place = QUEUE_HEADER in request.headers
        writer = make_writer(formatter, body.with_usage, tells_place) if body.stream else None
        return await respond(service, request, slot, prepare_job, formatter.build_response, writer)

    @router.post("/completions", response_model=None)
    async def create_completion(request: Request) -> Response:
        body = await parse_request(service, CompletionRequest, request)
        model = models.get(body.model)
        prompts = body.prompts
        if body.scores_prompt:
            with_next = body.check_scoring()
            as_ids = bool(body.return_tokens_as_token_ids)
            return await respond_with_scores(service, request, model, prompts, body.logprobs or 0, with_next, as_ids)
        # before anything is waited for: a model that is loaded again meanwhile ends when its last slot is free
        slot = model.queue.reserve(len(prompts) * body.choices)
        try:
            texts = await service.run_in_thread(to_texts, model, prompts) if body.echo else [""] * len(prompts)
        except BaseException:
            slot.release()
            raise
        echoes = [text for text in texts for _ in range(body.choices)]
        as_ids = bool(body.return_tokens_as_token_ids)
        formatter = CompletionFormatter(model.name, model.tokenizer, body.with_logprobs, echoes, as_ids)

        def prepare_job() -> GenerationJob:
            if body.suffix:
                encoded = [encode_fill_in(model, text, body.suffix) for text in to_texts(model, prompts)]
            else:
                encoded = [encode_prompt(model, prompt) for prompt in prompts]
            return model.make_job(encoded, body.to_params(), "prompt")

        writer = make_writer(formatter, body.with_usage) if body.stream else None
        return await respond(service, request, slot, prepare_job, formatter.build_response, writer)

    @router.post("/embeddings", response_model=None)
    async def create_embeddings(request: Request) -> Response:
        body = await parse_request(service, EmbeddingRequest, request)
        model = models.get(body.model)
        body.check_texts()
        result = await compute_embeddings(
            service, request, model, body.prompts, truncate=bool(body.truncate), dimensions=body.dimensions
        )
        if result is None:
            return make_disconnected_response()
        embeddings, tokens = result

        def make_content() -> dict[str, Any]:
            data = [
                {"object": "embedding", "index": index, "embedding": _encode_embedding(row, body.encoding_format)}
                for index, row in enumerate(embeddings)
            ]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return {"object": "list", "data": data, "model": model.name, "usage": usage}

        return await make_json_response(service, make_content)

    @router.get("/models")
    async def list_models() -> dict[str, Any]:
        """The models, also in the form of Anthropic's clients."""
        names = list(models.by_name)
        page = {"has_more": False, "first_id": next(iter(names), None), "last_id": next(reversed(names), None)}
        return {"object": "list", "data": [_describe(model) for model in models.by_name.values()], **page}

    @router.get("/models/{model:path}")
    async def retrieve_model(model: str) -> dict[str, Any]:
        return _describe(models.get(model))

    return router


def _encode_embedding(row: np.ndarray, encoding_format: str | None) -> Any:
    """A row of numbers as it is, or with `base64` its bytes as little-endian float32."""
    if encoding_format == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    return row


def _describe(model: ServedModel) -> dict[str, Any]:
    """A model as OpenAI's clients read it, and with the fields that Anthropic's and vLLM's (`max_model_len`) read."""
    created_at = datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "hanlin",
        "type": "model",
        "display_name": model.name,
        "created_at": created_at,
        "max_input_tokens": model.engine.context_length,
        "max_model_len": model.engine.context_length,
    }
