"""A server of a real model on a loopback port, for the time of a test."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import openai
import uvicorn
from fastapi import FastAPI

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import Engine, FinishReason, GenerationRequest, Stream, TokenLogprobs
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.registry import ModelRegistry, ServedModel
from hanlin.serve.server import bind_unix_socket, make_config


@dataclass(frozen=True)
class LiveServer:
    """A running server on a loopback port. `streams` holds every stream that its engine has begun."""

    address: str
    engine: Engine
    streams: list[Stream]
    served_models: list[ServedModel]
    registry: ModelRegistry
    loop: asyncio.AbstractEventLoop
    clients: list[openai.OpenAI]
    """Closed with the server: a connection that is only forgotten warns in whatever test comes later."""

    def client(self, key: str = "none") -> openai.OpenAI:
        self.clients.append(openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=300))
        return self.clients[-1]


class SlowStream:
    """A real stream that waits before each id, so that a client can disconnect before its end."""

    def __init__(self, stream: Stream, pause: float | Callable[[], object]) -> None:
        self._stream, self._pause = stream, pause
        self.num_read = 0

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._stream.finish_reason

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if callable(self._pause):
            self._pause()
        else:
            time.sleep(self._pause)
        token_id = next(self._stream)
        self.num_read += 1
        return token_id

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        return self._stream.logprobs

    @property
    def cached_tokens(self) -> int | None:
        return self._stream.cached_tokens

    def cancel(self) -> None:
        self._stream.cancel()

    def close(self) -> None:
        self._stream.close()


@contextmanager
def run_server(
    opened: LoadedEngine,
    policy: AccessPolicy | None = None,
    pause: float | Callable[[], object] = 0.0,
    limits: Limits | None = None,
    names: Sequence[str] = ("tiny",),
    served: Sequence[ServedModel] | None = None,
    unix_socket: Path | None = None,
    base_path: str = "",
    extend: Callable[[FastAPI, ModelRegistry], None] | None = None,
) -> Iterator[LiveServer]:
    """Serve an opened model under `names`, or as `served`, for the time of a test.

    `pause` is in seconds before each id, or what is called before each, such as the `wait` of an event.

    With `unix_socket` it is reached there alone, and its address is `http://localhost`. `extend` adds to the
    application.
    """
    streams: list[Stream] = []
    engine_stream = opened.engine.stream

    def stream_and_record(request: GenerationRequest) -> Stream:
        streams.append(SlowStream(engine_stream(request), pause) if pause else engine_stream(request))
        return streams[-1]

    opened.engine.stream = stream_and_record  # type: ignore[method-assign]
    limits = limits or Limits()
    registry = ModelRegistry(served or [ServedModel(name, opened, limits) for name in names])
    app = create_app(registry, policy, limits, base_path)
    if extend is not None:
        extend(app, registry)
    loops: list[asyncio.AbstractEventLoop] = []
    clients: list[openai.OpenAI] = []
    with bind_unix_socket(unix_socket) if unix_socket else socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(make_config(app, replace(limits, drain_seconds=7.0)))

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[listener])

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        try:
            while not loops:
                time.sleep(0.001)
            address = "http://localhost" if unix_socket else f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield LiveServer(
                address, opened.engine, streams, list(registry.by_name.values()), registry, loops[0], clients
            )
        finally:
            for client in clients:
                client.close()
            server.should_exit = True
            thread.join(300)
            opened.engine.stream = engine_stream  # type: ignore[method-assign]
    assert not thread.is_alive()
