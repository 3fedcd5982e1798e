"""Routes of the Anthropic API: messages, and the count of a prompt's tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from hanlin.serve.admission import Slot
from hanlin.serve.api.anthropic.events import MessageFormatter, encode_error, encode_ping
from hanlin.serve.api.anthropic.requests import CountTokensRequest, MessagesRequest
from hanlin.serve.api.http import parse_request, respond
from hanlin.serve.api.streaming import SSE, StreamWriter
from hanlin.serve.api.thinking import choose_thinking
from hanlin.serve.api.tool_calls import get_tool_names
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import GenerationJob, ModelRegistry, ServedModel
from hanlin.serve.service import GenerationService


def make_router(models: ModelRegistry, service: GenerationService) -> APIRouter:
    """The routes under `/v1/messages`."""
    router = APIRouter(prefix="/v1/messages")

    @router.post("", response_model=None)
    async def create_message(request: Request) -> Response:
        body = await parse_request(service, MessagesRequest, request)
        model = models.get(body.model)
        tool_names = get_tool_names(body.get_tools())
        formatter = MessageFormatter(model.name, tool_names, body.max_calls, body.shows_thinking)

        def prepare_job() -> GenerationJob:
            with _client_fields(body):
                return model.make_job([_render(model, body)], body.to_params(), "messages")

        async def write(job: GenerationJob, slot: Slot) -> AsyncGenerator[bytes, None]:
            yield b"".join(formatter.open_stream(job))
            async with aclosing(service.stream(job, slot)) as batches:
                async for batch in batches:
                    if lines := [line for _, event in batch for line in formatter.format_event(job, event)]:
                        yield b"".join(lines)

        slot = model.queue.reserve(1)
        writer = StreamWriter(write, SSE, encode_error, encode_ping) if body.stream else None
        return await respond(service, request, slot, prepare_job, formatter.build_response, writer)

    @router.post("/count_tokens", response_model=None)
    async def count_tokens(request: Request) -> Response:
        body = await parse_request(service, CountTokensRequest, request)
        with _client_fields(body):
            prompt = await service.run_in_thread(_render, models.get(body.model), body)
        return JSONResponse({"input_tokens": len(prompt)})

    return router


@contextmanager
def _client_fields(body: CountTokensRequest) -> Iterator[None]:
    """Errors name the field that the client sent, not the turn or function that was made of it."""
    try:
        yield
    except ApiError as error:
        error.param = body.rename_param(error.param)
        raise


def _render(model: ServedModel, body: CountTokensRequest) -> tuple[int, ...]:
    thinking = choose_thinking(model, body.thinks, "thinking.type", body.make_response_format())
    return model.render_chat(body.to_messages(), body.get_tools(), thinking)
