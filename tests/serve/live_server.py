"""A server of a real model on a loopback port, for the time of a test."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import openai
import uvicorn

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import Engine, FinishReason, GenerationRequest, Stream, TokenLogprobs
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.registry import ModelRegistry, ServedModel


@dataclass(frozen=True)
class Live:
    """A server on a loopback port: where it is, what it runs, and every stream that its engine was asked for."""

    address: str
    engine: Engine
    streams: list[Stream]
    served: list[ServedModel]
    models: ModelRegistry
    loop: asyncio.AbstractEventLoop
    clients: list[openai.OpenAI]
    """Closed with the server: a connection that is only forgotten warns in whatever test comes later."""

    def client(self, key: str = "none") -> openai.OpenAI:
        self.clients.append(openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=30))
        return self.clients[-1]


class Unhurried:
    """A real stream that takes its time over each id, so that somebody can leave before its end."""

    def __init__(self, stream: Stream, pause: float) -> None:
        self._stream, self._pause = stream, pause

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._stream.finish_reason

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        time.sleep(self._pause)
        return next(self._stream)

    @property
    def logprobs(self) -> Sequence[TokenLogprobs]:
        return self._stream.logprobs

    def cancel(self) -> None:
        self._stream.cancel()

    def close(self) -> None:
        self._stream.close()


@contextmanager
def live(
    opened: LoadedEngine,
    guard: AccessPolicy | None = None,
    pause: float = 0.0,
    limits: Limits | None = None,
    names: Sequence[str] = ("tiny",),
    served: Sequence[ServedModel] | None = None,
) -> Iterator[Live]:
    """Serve an opened model under `names`, or as `served`, for the time of a test; `pause` in seconds for each id."""
    streams: list[Stream] = []
    begin = opened.engine.stream

    def remembered(request: GenerationRequest) -> Stream:
        streams.append(Unhurried(begin(request), pause) if pause else begin(request))
        return streams[-1]

    opened.engine.stream = remembered  # type: ignore[method-assign]
    kept = limits or Limits()
    models = ModelRegistry(served or [ServedModel(name, opened, kept) for name in names])
    api = create_app(models, guard, kept)
    loops: list[asyncio.AbstractEventLoop] = []
    clients: list[openai.OpenAI] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(api, log_level="error", timeout_graceful_shutdown=5))

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[listener])

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        try:
            while not loops:
                time.sleep(0.001)
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield Live(address, opened.engine, streams, list(models.by_name.values()), models, loops[0], clients)
        finally:
            for client in clients:
                client.close()
            server.should_exit = True
            thread.join(20)
            opened.engine.stream = begin  # type: ignore[method-assign]
    assert not thread.is_alive()
