"""Routes of the Responses API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from hanlin.core.i18n import tr
from hanlin.serve.admission import Slot
from hanlin.serve.api.http import make_json_response, parse_request, respond
from hanlin.serve.api.responses.conversation import StoredConversation
from hanlin.serve.api.responses.events import ResponseBuilder
from hanlin.serve.api.responses.output import Event
from hanlin.serve.api.responses.schemas import PromptBody, ResponseRequest
from hanlin.serve.api.responses.store import ResponseStore
from hanlin.serve.api.streaming import SSE, StreamWriter, encode_sse
from hanlin.serve.api.thinking import choose_thinking
from hanlin.serve.api.tool_calls import get_tool_names
from hanlin.serve.api.truncation import render_fitting
from hanlin.serve.errors import ApiError, unsupported_value_error
from hanlin.serve.registry import GenerationJob, ModelRegistry, ServedModel
from hanlin.serve.service import Answer, GenerationService

_MAX_LISTED = 100


def make_router(models: ModelRegistry, service: GenerationService) -> APIRouter:
    """The routes under `/v1/responses`. Stored responses live as long as the router."""
    router = APIRouter(prefix="/v1/responses")
    store = ResponseStore()

    @router.post("", response_model=None)
    async def create_response(request: Request) -> Response:
        body = await parse_request(service, ResponseRequest, request)
        models.get(body.model)  # there is one
        key = _get_key(request)
        conversation = await service.run_in_thread(StoredConversation, body, store, key)
        model = models.get(body.model)  # it may have been loaded again meanwhile
        builder = ResponseBuilder(body, model, get_tool_names(body.get_tools()))

        def prepare_job() -> GenerationJob:
            params = body.to_params()
            prompt = _render(model, body, conversation, body.max_output_tokens)
            return model.make_job([prompt], params, "input")

        def finish() -> dict[str, Any]:
            if body.is_stored:
                store.put(key, builder.response, conversation.store_input())
            return builder.response

        def build_response(job: GenerationJob, answers: Sequence[Answer]) -> dict[str, Any]:
            builder.open(job)
            for text_delta in answers[0].text_deltas:
                builder.add(job, text_delta)
            builder.add(job, answers[0].end)
            return finish()

        async def write(job: GenerationJob, slot: Slot) -> AsyncGenerator[bytes, None]:
            yield _encode(builder.open(job))
            async with aclosing(service.stream(job, slot)) as batches:
                async for batch in batches:
                    events = [made for _, event in batch for made in builder.add(job, event)]
                    if builder.response["status"] != "in_progress":
                        # before the client can know of it and ask for it
                        await service.run_in_thread(finish)
                    if events:
                        yield _encode(events)

        writer = StreamWriter(write, SSE, lambda error: _encode([builder.fail(error)])) if body.stream else None
        slot = model.queue.reserve()
        return await respond(service, request, slot, prepare_job, build_response, writer)

    @router.post("/input_tokens", response_model=None)
    async def count_input_tokens(request: Request) -> dict[str, Any]:
        body = await parse_request(service, PromptBody, request)
        model = models.get(body.model)
        conversation = await service.run_in_thread(StoredConversation, body, store, _get_key(request))
        prompt = await service.run_in_thread(_render, model, body, conversation, None)
        return {"object": "response.input_tokens", "input_tokens": len(prompt)}

    @router.get("/{response_id}", response_model=None)
    async def retrieve_response(request: Request, response_id: str) -> Response:
        if request.query_params.get("stream", "false").lower() != "false":
            raise unsupported_value_error("stream", request.query_params["stream"])
        return Response(store.get(_get_key(request), response_id).response, media_type="application/json")

    @router.get("/{response_id}/input_items", response_model=None)
    async def list_input_items(request: Request, response_id: str) -> Response:
        entry = store.get(_get_key(request), response_id)
        return await make_json_response(service, lambda: _list_items(entry.read_input(), request))

    @router.delete("/{response_id}")
    async def delete_response(request: Request, response_id: str) -> dict[str, Any]:
        store.delete(_get_key(request), response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    return router


def _get_key(request: Request) -> str:
    """The API key of a request; empty if the server needs none."""
    return getattr(request.state, "api_key", "")


def _render(
    model: ServedModel, body: PromptBody, conversation: StoredConversation, max_output_tokens: int | None
) -> tuple[int, ...]:
    """The prompt of a request. Raises ApiError (400) that names `input` instead of other APIs' `messages`."""
    messages, tools = conversation.to_messages(), body.get_tools()
    effort = body.reasoning.effort if body.reasoning is not None else None
    thinking = choose_thinking(model, effort, "reasoning.effort", body.make_response_format())
    try:
        if body.truncation == "auto":
            return render_fitting(model, messages, tools, thinking, max_output_tokens)
        return model.render_chat(messages, tools, thinking)
    except ApiError as error:
        if error.param != "messages":
            raise
        raise ApiError(error.status, error.message, param="input", code=error.code) from error


def _encode(events: Sequence[Event]) -> bytes:
    """Server-sent events, each with its type as its name."""
    return b"".join(encode_sse(event, event["type"]) for event in events)


def _list_items(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """One page of items; the newest first unless `order` is `asc`."""
    query = request.query_params
    order, limit, after = query.get("order", "desc"), query.get("limit", "20"), query.get("after")
    if order not in ("asc", "desc"):
        raise ApiError(400, tr("order must be asc or desc"), param="order")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= _MAX_LISTED:
        raise ApiError(400, tr("limit must be a number from 1 to {max_listed}", max_listed=_MAX_LISTED), param="limit")
    rows = items if order == "asc" else items[::-1]
    if after is not None:
        ids = [row["id"] for row in rows]
        if after not in ids:
            raise ApiError(400, tr("there is no stored item '{shown}'", shown=after[:100]), param="after")
        rows = rows[ids.index(after) + 1 :]
    page = rows[: int(limit)]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"object": "list", "data": page, "first_id": first, "last_id": last, "has_more": len(page) < len(rows)}
