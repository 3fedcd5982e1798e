"""An HTTP server that official OpenAI clients talk to: chat completions, streamed and whole, and the list of models.

Does not own the format (`openai_format`), text (`generation`) or who may come in (`security`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from hanlin.engines import Engine
from hanlin.engines import Request as EngineRequest
from hanlin.errors import UserError
from hanlin.evaluate.opening import open_model, split_choice
from hanlin.language import say
from hanlin.serve.generation import Speech, sampling_of
from hanlin.serve.openai_format import DONE, AnswerFormat, ApiError, ChatRequest, event
from hanlin.serve.security import Guard, guard_for
from hanlin.tokens.chat_template import ChatTemplate

_LOG = logging.getLogger(__name__)
_LARGEST_BODY = 32 * 2**20
_THREADS = 128
_CLIENT_LEFT = 499


def app(engine: Engine, template: ChatTemplate, name: str, guard: Guard | None = None) -> FastAPI:
    """The server of one model, called `name`. What a client leaves open, the model's generation settings decide.

    Whatever computes runs in worker threads: tokenising and generating never hold the event loop. A client that goes
    away cancels its answer.
    """
    api = FastAPI(title="Hanlin", docs_url=None, redoc_url=None, openapi_url=None)
    keeper = guard or Guard()
    defaults = sampling_of(template.tokenizer.folder)
    born = int(time.time())
    threads = anyio.CapacityLimiter(_THREADS)
    card = {"id": name, "object": "model", "created": born, "owned_by": "hanlin"}

    async def known_host(request: Request) -> None:
        if not keeper.knows_host(request.headers.get("host")):
            raise ApiError(403, say("this server answers to local names only", "此服务只响应本机名称"))

    async def admitted(request: Request) -> None:
        if not keeper.admits(request.headers.get("authorization")):
            raise ApiError(401, say("wrong or missing API key", "API 密钥缺失或错误"), code="invalid_api_key")

    def refuse_other(model: str) -> None:
        if model != name:
            what = say(f"there is no model '{model}', only '{name}'", f"没有模型“{model}”，只有“{name}”")
            raise ApiError(404, what, param="model", code="model_not_found")

    def begin(asked: ChatRequest) -> Speech:
        """Render the turns and start to generate. In a worker thread: a long prompt takes long to tokenise."""
        turns = asked.turns()
        ids = template.render(turns, prompt=True).ids
        room = engine.context_length - len(ids)
        if room < 1:
            what = say(
                f"the prompt is {len(ids)} tokens long, but the model's context holds {engine.context_length} "
                "with the answer",
                f"提示共 {len(ids)} 个词元，而模型上下文连同回答只容纳 {engine.context_length} 个",
            )
            raise ApiError(400, what, param="messages", code="context_length_exceeded")
        request = EngineRequest(tuple(ids), template.stop_ids, asked.sampling(defaults, room))
        return Speech(engine, template.tokenizer, request, asked.stops)

    v1 = APIRouter(prefix="/v1", dependencies=[Depends(known_host), Depends(admitted)])

    @v1.post("/chat/completions", response_model=None)
    async def chat_completions(request: Request) -> Response:
        asked = await anyio.to_thread.run_sync(ChatRequest.read, await _body(request), limiter=threads)
        refuse_other(asked.model)
        speech = await anyio.to_thread.run_sync(begin, asked, limiter=threads)
        form = AnswerFormat(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), name)
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            pieces = _pieces(speech, form, with_usage, threads)
            return StreamingResponse(pieces, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        text = await _whole(speech, request, threads)
        if text is None:
            return Response(status_code=_CLIENT_LEFT)
        return JSONResponse(form.whole(text, speech.finish, speech.prompt_tokens, speech.tokens))

    @v1.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @v1.get("/models/{model:path}")
    async def one_model(model: str) -> dict[str, Any]:
        refuse_other(model)
        return card

    @api.get("/health", dependencies=[Depends(known_host)])
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    api.include_router(v1)
    _answer_errors_in_form(api)
    return api


def _announce(line: str) -> None:
    print(line, flush=True)


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str = "auto",
    name: str = "",
    api_key: str | None = None,
    ready: Callable[[str], None] = _announce,
    **options: Any,
) -> None:
    """Open a model and serve it until interrupted. `ready` is told once where; port 0 takes a free one.

    `model` is a model folder, an adapter folder, or GGUF files (`folder:Q8_0` chooses one); clients know it as `name`
    or else by the name of its folder or file. `options` go to the engine. Raises UserError for a path without a model,
    a port that is taken, and an address that the network can reach without a key.
    """
    guard = guard_for(host, api_key)
    with _listening(host, port) as listener:  # first: a port that is taken should not cost the loading of a model
        opened = open_model(*split_choice(model), engine, **options)
        try:
            known_as = name or opened.found.name
            api = app(opened.engine, opened.template(), known_as, guard)
            config = uvicorn.Config(api, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
            server = uvicorn.Server(config)
            shown = f"[{host}]" if ":" in host else host
            at = f"http://{shown}:{listener.getsockname()[1]}/v1"
            ready(say(f"{known_as} is served at {at} (Ctrl-C ends)", f"{known_as} 已在 {at} 提供服务（Ctrl-C 结束）"))
            server.run(sockets=[listener])
        finally:
            opened.engine.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        what = say(f"cannot listen here: {error.strerror}", f"无法监听：{error.strerror}")
        raise UserError(what, f"{host}:{port}", say("choose another port", "请换一个端口")) from error


async def _body(request: Request) -> bytes:
    """The body, which must be JSON by its own word: a web page may send other types across sites without asking."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, say("the body must be application/json", "请求体应为 application/json"))
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_BODY:
            what = say(f"the body is larger than {_LARGEST_BODY} bytes", f"请求体超过 {_LARGEST_BODY} 字节")
            raise ApiError(413, what)
    return bytes(body)


async def _whole(speech: Speech, request: Request, threads: anyio.CapacityLimiter) -> str | None:
    """The whole text; None when the client left before."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(0.2)
        speech.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        text = await anyio.to_thread.run_sync("".join, speech, limiter=threads)
    finally:
        watching.cancel()
    return None if speech.finish == "cancelled" else text


async def _pieces(
    speech: Speech, form: AnswerFormat, with_usage: bool, threads: anyio.CapacityLimiter
) -> AsyncIterator[bytes]:
    """The events of a streamed answer. Closed early, because the client left, it cancels the generation.

    One worker thread speaks, from the first piece to the last, and hands each to the event loop.
    """
    loop = asyncio.get_running_loop()
    spoken: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    def hand(piece: str | Exception | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(spoken.put_nowait, piece)

    def speak() -> None:
        try:
            for piece in speech:
                hand(piece)
            hand(None)
        except Exception as error:
            hand(error)

    speaking = asyncio.ensure_future(anyio.to_thread.run_sync(speak, limiter=threads))
    try:
        yield event(form.piece({"role": "assistant", "content": ""}))
        while (piece := await spoken.get()) is not None:
            if isinstance(piece, Exception):  # the status was sent long ago: the client is told in the stream
                _LOG.error("an answer broke off", exc_info=piece)
                yield event(_as_api_error(piece).body())
                return
            yield event(form.piece({"content": piece}))
        await speaking
        yield event(form.piece({}, speech.finish))
        if with_usage:
            yield event(form.closing_usage(speech.prompt_tokens, speech.tokens))
        yield DONE
    finally:
        speech.cancel()


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    return ApiError(500, say("the server failed; its log says how", "服务器出错，详见其日志"))


def _answer_errors_in_form(api: FastAPI) -> None:
    async def answer(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, str(error.detail))
        told = _as_api_error(error)
        return JSONResponse(told.body(), told.status, _challenge(told.status))

    for kind in (ApiError, UserError, HTTPException, Exception):
        api.add_exception_handler(kind, answer)


def _challenge(status: int) -> dict[str, str] | None:
    return {"WWW-Authenticate": "Bearer"} if status == 401 else None
